"""The analysis of slides: mask, tile, read and classify at once, answer; slide after slide.

One stream of tiles runs through one network. While a slide is read, the next one is masked and
cut; while a slide's last tiles are classified, the next one's are read. Each answer is kept in the
slide's journal, so that a killed analysis goes on where it was.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from histo_nb.balancing.pixels import read_tile
from histo_nb.errors import BusyError, SlideError, SpecError
from histo_nb.failures import FAILURE_COLUMNS
from histo_nb.home import Home
from histo_nb.inference.answer import Judge
from histo_nb.inference.cutting import Cut, Cutter, check_unchanged, failure, places, prefetch
from histo_nb.inference.journal import AT_ONCE, Journal
from histo_nb.inference.provenance import code_facts, environment_facts
from histo_nb.inference.reference import read_reference
from histo_nb.inference.result import result_folder, write_result
from histo_nb.inference.runtime import (
    Answers,
    Runtime,
    check_asked,
    open_runtime,
    prepare,
    probabilities,
)
from histo_nb.inference.stain import tile_colour
from histo_nb.masking.quality import tile_sharpness
from histo_nb.masking.tissue import MaskSpec
from histo_nb.model.card import check_tiles
from histo_nb.model.prepared import REFERENCE, find_file, read_prepared
from histo_nb.model.registry import production_model
from histo_nb.model.seal import check_bundle, read_gate
from histo_nb.tiling.reader import read_tiles

MAX_UNREADABLE = 0.1  # share of a slide's tiles; above it there is no answer for the slide


@dataclass(frozen=True, kw_only=True)
class AnalysisSpec:
    """How slides are analysed; what the model decides stands in its card."""

    min_tissue: float = 0.5  # share of a tile that must be tissue
    runtime: str = "auto"  # "torch", "openvino"
    precision: str = "auto"  # "fp32", "bf16", "fp16", "int8"
    n_threads: int = 0  # that read, and that classify; 0 = all cores

    def __post_init__(self) -> None:
        check_asked(self.runtime, self.precision)
        if self.n_threads < 0:
            raise SpecError(f"n_threads={self.n_threads} must not be below 0; 0 = all cores")


def analyse_slides(
    home: Home,
    slide_ids: list[str],
    *,
    tiles: pd.DataFrame | None = None,
    mask: MaskSpec | None = None,
    spec: AnalysisSpec | None = None,
) -> tuple[list[Path], pd.DataFrame]:
    """Analyse the named slides (all if none is named) with the model in production.

    Slides without a mask are masked first. Tiles are cut as the model's card says, unless a tile
    table is given, which must agree with the card.

    Returns
    -------
    The result folders, and failures `slide_id, step, error`. Of a slide that failed nothing is
    written but the journal of what was said so far.

    Raises
    ------
    BundleError
        No model is in production, its files are damaged, the given tiles differ from its card, or
        the asked runtime did not pass.
    """
    spec = spec or AnalysisSpec()
    folder = production_model(home)
    card = check_bundle(folder, weights=False)
    if tiles is not None:
        check_tiles(tiles, card)
    cut = Cutter(home, card, tiles=tiles, mask=mask, min_tissue=spec.min_tissue)
    slides = home.catalog.slides(slide_ids).slide_id.tolist()
    with ThreadPoolExecutor(2) as pool:  # one opens the network, one cuts the next slide
        opening = pool.submit(Analyser, home, folder, spec=spec)
        cutting = pool.submit(cut, slides[0]) if slides else None
        return opening.result().run(prefetch(slides, cut, cutting, pool))


class Analyser:
    """A model, opened once to analyse slide after slide.

    Parameters
    ----------
    folder
        The model's bundle.

    Raises
    ------
    BundleError
        Its files are damaged, or the asked runtime did not pass.
    """

    def __init__(self, home: Home, folder: Path, *, spec: AnalysisSpec) -> None:
        self._home, self._spec = home, spec
        self._runtime = open_runtime(
            folder,
            runtime=spec.runtime,
            precision=spec.precision,
            n_threads=spec.n_threads or None,
        )
        prepared = read_prepared(folder)
        reference = find_file(folder, REFERENCE, prepared) if prepared else None
        self._judge = Judge(
            card=self._runtime.card,
            gate=read_gate(folder),
            reference=read_reference(reference) if reference else None,
            runtime=self._runtime.name,
            prepared=prepared["sha256"] if prepared else None,
        )

    def run(self, cuts: Iterable[Cut]) -> tuple[list[Path], pd.DataFrame]:
        """Analyse slides cut into tiles; return the result folders, and the failures."""
        analysis = _Analysis(self._home, self._runtime, self._judge, n_threads=self._spec.n_threads)
        analysis.run(iter(cuts))
        return analysis.folders, pd.DataFrame(analysis.failures, columns=FAILURE_COLUMNS)


@dataclass
class _Job:
    """A slide under way."""

    cut: Cut
    journal: Journal
    bar: Any
    started: float = field(default_factory=time.perf_counter)
    seen: dict[int, tuple[np.ndarray, float]] = field(default_factory=dict)  # colour, sharpness
    waiting: list[tuple[int, Answers]] = field(default_factory=list)  # for the journal
    unread: dict[int, SlideError] = field(default_factory=dict)  # by row number
    n_read: int = 0
    n_said: int = 0
    is_read: bool = False
    failed: bool = False

    @property
    def is_done(self) -> bool:
        return self.is_read and self.n_said == self.n_read

    def close(self) -> None:
        self.bar.close()
        self.journal.close()


class _Analysis:
    """The stream of tiles through the network, and what becomes of the answers."""

    def __init__(self, home: Home, runtime: Runtime, judge: Judge, *, n_threads: int) -> None:
        self.folders: list[Path] = []
        self.failures: list[dict[str, Any]] = []
        self._home, self._runtime, self._judge = home, runtime, judge
        self._threads = {"n_threads": n_threads} if n_threads else {}
        self._jobs: list[_Job] = []

    def run(self, cuts: Iterator[Cut]) -> None:
        """Analyse slides; an interrupted analysis leaves its journals."""
        try:
            # Closed by name: left to the garbage collector, threads could wait for each other.
            with closing(self._read(cuts)) as tiles, closing(self._runtime.run(tiles)) as answers:
                for (job, number), said in answers:
                    job.waiting.append((number, said))
                    job.n_said += 1
                    job.bar.update()
                    if len(job.waiting) >= AT_ONCE:
                        self._note(job)
                    self._finish_done()
            self._finish_done()
        finally:
            with ExitStack() as closing_all:  # interrupted: what is known is kept
                for job in self._jobs:
                    closing_all.callback(job.close)
                    closing_all.callback(self._note, job)

    def _read(self, cuts: Iterator[Cut]) -> Generator[tuple[tuple[_Job, int], np.ndarray]]:
        for cut in cuts:
            self.failures += cut.failures
            if cut.tiles.empty:
                continue
            try:
                job = self._begin(cut)
            except SlideError as error:
                step = "waiting" if isinstance(error, BusyError) else "analysis"
                self.failures.append(failure(cut.slide_id, step, error))
                continue
            try:
                with closing(self._read_slide(job)) as images:
                    for number, image in images:
                        job.n_read += 1
                        yield (job, number), image
            except SlideError as error:
                self.failures.append(failure(cut.slide_id, "analysis", error))
                job.failed = True
            job.is_read = True

    def _begin(self, cut: Cut) -> _Job:
        card = self._judge.card
        path = result_folder(self._home, cut.slide_id, card.model_id).with_suffix(".journal")
        decides = [
            card.model_id,
            self._runtime.name,
            self._judge.prepared,
            places(cut.tiles),
            cut.stamp,
            code_facts()["source_sha256"],
            environment_facts(),
        ]  # fmt: skip
        check_unchanged(cut)
        journal = Journal(path, decides, n_tiles=len(cut.tiles), n_classes=len(card.classes))
        bar = tqdm(
            total=len(cut.tiles),
            initial=journal.n_done,
            desc=f"analysing {cut.slide_id}",
            unit="tile",
            leave=False,
        )
        job = _Job(cut, journal, bar)
        self._jobs.append(job)
        return job

    def _read_slide(self, job: _Job) -> Generator[tuple[int, np.ndarray]]:
        """Yield row number and image of the tiles that have no answer yet."""
        card, todo = self._judge.card, job.journal.todo
        if not len(todo):
            return
        mpp = float(job.cut.tiles.mpp.iloc[0]) * card.tile_size / card.store_size

        def finish(tile: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
            image = prepare(tile, card)
            return image, tile_colour(image), tile_sharpness(tile, mpp=mpp)

        rows = job.cut.tiles.iloc[todo]
        tiles = read_tiles(rows, read_tile, size=card.store_size, finish=finish, **self._threads)
        with closing(tiles):
            for place, read in tiles:
                number = int(todo[place])
                if isinstance(read, SlideError):
                    job.unread[number] = read
                    _check_readable(job)
                    job.bar.update()
                else:
                    image, *job.seen[number] = read
                    yield number, image

    def _note(self, job: _Job) -> None:
        """Write the answers that wait into the journal."""
        if not job.waiting:
            return
        numbers = [number for number, _ in job.waiting]
        logits = np.concatenate([said.logits for _, said in job.waiting])
        features = np.concatenate([said.features for _, said in job.waiting])
        reference = self._judge.reference
        seen = [job.seen.pop(number) for number in numbers]
        job.waiting = []
        job.journal.write(
            number=np.array(numbers),
            probabilities=probabilities(logits, self._judge.card),
            distance=reference.distances(features) if reference else np.full(len(seen), np.nan),
            colour=np.stack([colour for colour, _ in seen]),
            sharpness=np.array([sharpness for _, sharpness in seen]),
        )

    def _finish_done(self) -> None:
        while self._jobs and self._jobs[0].is_done:
            job = self._jobs.pop(0)
            try:
                self._note(job)
                if not job.failed:
                    self._answer(job)
            finally:
                job.close()

    def _answer(self, job: _Job) -> None:
        result = self._judge.answer(
            job.cut.tiles,
            job.journal.records,
            made_from=job.cut.made_from,
            n_failures=len(job.unread),
            scanner=job.cut.scanner,
            seconds=time.perf_counter() - job.started,
        )
        unread = [failure(result.slide_id, "reading", e) for _, e in sorted(job.unread.items())]
        failed = pd.DataFrame(unread, columns=FAILURE_COLUMNS)
        self.folders.append(write_result(result, self._home, failures=failed))
        job.journal.remove()


def _check_readable(job: _Job) -> None:
    n, tiles = len(job.unread), job.cut.tiles
    if n > MAX_UNREADABLE * len(tiles):
        raise SlideError(
            f"{n} of {len(tiles)} tiles of {job.cut.slide_id} cannot be read, first: "
            f"{job.unread[min(job.unread)]}"
        )

"""The stages of one slide: what decides each one's output, whether it is there, how it is made.

Every output is looked at, not trusted: what was deleted or changed since is made again.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from histo_nb.errors import BusyError, HistoError, SlideError
from histo_nb.export.report import collect_report, render_report
from histo_nb.files import hash_content, hash_file, hash_folder, write_json, writing_folder
from histo_nb.home import Home
from histo_nb.inference.cutting import Cut, make_cut, mask_facts
from histo_nb.inference.pipeline import Analyser
from histo_nb.inference.provenance import code_facts, environment_facts, model_facts
from histo_nb.inference.result import hash_result, read_provenance, result_folder
from histo_nb.masking.masks import describe_mask, mask_path, mask_slides
from histo_nb.model.card import Card, read_card, slide_tiling
from histo_nb.model.prepared import read_prepared
from histo_nb.model.seal import CARD, read_gate
from histo_nb.running.cohort.ledger import Work
from histo_nb.running.cohort.spec import CohortSpec
from histo_nb.tables import TILES, read_table, write_table
from histo_nb.tiling.grid import TileSpec, tile_slides

STAGES = ("mask", "tile", "analyse", "report")
OVERVIEW_PX = 512  # longest side of the picture for the contact sheet


@dataclass(frozen=True)
class Model:
    """The model a cohort is analysed with, and what is needed of it to name its work."""

    folder: Path
    card: Card
    facts: dict[str, Any]


def open_model(folder: Path) -> Model:
    """Return a model's facts; its weights stay closed."""
    card, prepared = read_card(folder / CARD), read_prepared(folder)
    sha256 = prepared["sha256"] if prepared else None
    return Model(folder, card, model_facts(card, prepared=sha256, gate=read_gate(folder)))


class Bench:
    """What a worker keeps from slide to slide: the home, the opened model."""

    def __init__(self, home: Home, folder: Path, *, spec: CohortSpec) -> None:
        self.home, self.spec, self.model = home, spec, open_model(folder)
        self.tiling = TileSpec(min_tissue=spec.min_tissue, **slide_tiling(self.model.card))

    @cached_property
    def analyser(self) -> Analyser:
        """The opened network; slides that are done already need none."""
        return Analyser(self.home, self.model.folder, spec=self.spec.analysis)


class SlideStages:
    """The stages of one slide on a bench.

    Raises
    ------
    CatalogError
        There is no such slide.
    """

    def __init__(self, bench: Bench, slide_id: str) -> None:
        self._bench, self.home, self.slide_id = bench, bench.home, slide_id
        self._row = bench.home.catalog.slide(slide_id)
        card = bench.model.card
        self.mask_path = mask_path(self.home, slide_id)
        self.tiles_path = self.home.tiles / "slides" / f"{slide_id}.parquet"
        self.cut_path = self.tiles_path.with_suffix(".json")  # of which mask they were cut
        self.result_folder = result_folder(self.home, slide_id, card.model_id)
        self.report_folder = self.result_folder.with_name(f"{card.model_id}.report")

    @cached_property
    def works(self) -> dict[str, Work]:
        """The work of each stage, named by all that decides its output."""
        row, bench, spec = self._row, self._bench, self._bench.spec
        decides: dict[str, list[Any]] = {
            "mask": [row["sha256"], row["slide_mpp"], asdict(spec.mask),
                     code_facts()["source_sha256"], environment_facts(), self._edited_at()],
            "tile": [asdict(bench.tiling), row["patient_id"], row["slide_path"]],
            "analyse": [bench.model.facts, spec.runtime, spec.precision],
            "report": [code_facts()["version"], spec.report, self._reviewed()],
        }  # fmt: skip
        works, before = {}, ""
        for stage in STAGES:
            before = hash_content([stage, before, self.slide_id, *decides[stage]])
            works[stage] = Work(before, self.slide_id, stage)
        return works

    def _edited_at(self) -> str | None:
        try:
            return describe_mask(self.home, self.slide_id)["edited_at"]
        except SlideError:  # the stage itself says what is wrong with it
            return "unreadable"

    def _reviewed(self) -> list[int]:
        return self.home.catalog.reviews([self.slide_id]).review_id.tolist()

    def find(self, stage: str, said: str | None) -> str | None:
        """Return the hash of a stage's output if it is there and is what it should be.

        Parameters
        ----------
        said
            The hash that the ledger knows of it.
        """
        look: dict[str, Callable[[], str | None]] = {
            "mask": lambda: hash_file(self.mask_path),
            "tile": self._hash_tiles,
            "analyse": self._find_result,
            "report": lambda: hash_folder(self.report_folder),
        }
        try:
            found = look[stage]()
        except (OSError, HistoError, ValueError):
            return None
        return found if stage == "analyse" or found == said else None

    def _find_result(self) -> str | None:
        """Look whether a result says of itself that it was made just as it would be made now."""
        says = _comparable(read_provenance(self.result_folder))
        if says != _comparable(self._would_say()):
            return None
        found = hash_result(self.result_folder)
        filed = self.home.catalog.result(self.slide_id, self._bench.model.card.model_id)
        return found if filed and filed["content_sha256"] == found else None

    def _would_say(self) -> dict[str, Any]:
        return {
            **self._cut().made_from,
            "model": self._bench.model.facts,
            "runtime": f"{self._bench.spec.runtime} {self._bench.spec.precision}",
            "code": code_facts(),
            "packages": environment_facts(),
        }

    def show_result(self) -> None:
        """Make this model's result the one that is shown, if another model's was filed later."""
        model_id = self._bench.model.card.model_id
        shown = self.home.catalog.results([self.slide_id])
        if shown.model_id.tolist() == [model_id]:
            return
        filed = self.home.catalog.result(self.slide_id, model_id)
        if filed:
            del filed["analysed_at"]
            self.home.catalog.put_result(filed)

    def make(self, stage: str) -> str:
        """Make the output of a stage and return its hash.

        Raises
        ------
        SlideError
            The slide cannot be used; it is useless to try again.
        StorageError
            There is no space.
        """
        made: dict[str, Callable[[], str]] = {
            "mask": self._mask,
            "tile": self._tile,
            "analyse": self._analyse,
            "report": self._report,
        }
        return made[stage]()

    def _mask(self) -> str:
        _, failures = mask_slides(self.home, [self.slide_id], spec=self._bench.spec.mask)
        _check(failures)
        return hash_file(self.mask_path)

    def _tile(self) -> str:
        mask = mask_facts(self.home, self.slide_id)
        tiles, failures = tile_slides(self.home, [self.slide_id], spec=self._bench.tiling)
        _check(failures)
        if mask_facts(self.home, self.slide_id) != mask:
            raise BusyError(f"the mask of {self.slide_id} was corrected while it was used")
        write_table(tiles, self.tiles_path, TILES)
        write_json(self.cut_path, mask)
        return self._hash_tiles()

    def _hash_tiles(self) -> str:
        return hash_content([hash_file(path) for path in (self.tiles_path, self.cut_path)])

    def _analyse(self) -> str:
        _, failures = self._bench.analyser.run([self._cut()])
        _check(failures)
        return hash_result(self.result_folder)

    def _cut(self) -> Cut:
        tiles = read_table(self.tiles_path, TILES)
        mask = json.loads(self.cut_path.read_text("utf-8"))
        return make_cut(self.home, tiles, spec=self._bench.tiling, mask=mask)

    def _report(self) -> str:
        report = collect_report(self.home, self.slide_id, folder=self.result_folder)
        with writing_folder(self.report_folder, replace=True) as folder:
            if self._bench.spec.report == "html":
                (folder / "report.html").write_bytes(render_report(report))
            if report.overview:
                picture = Image.fromarray(report.overview.rgb)
                picture.thumbnail((OVERVIEW_PX, OVERVIEW_PX))
                picture.save(folder / "overview.jpg", quality=85)
        return hash_folder(self.report_folder)


def _check(failures: pd.DataFrame) -> None:
    """Raise what a room said of the one slide it was given."""
    for row in failures.to_dict("records"):
        raise (BusyError if row["step"] == "waiting" else SlideError)(row["error"])


def _comparable(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return a provenance without what does not change an answer: the commit of the checkout."""
    return provenance | {"code": provenance["code"]["source_sha256"]}

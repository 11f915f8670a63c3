"""Slides as they go into the analysis: masked, cut into tiles, with what they were cut with."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from histo_nb.errors import SlideError
from histo_nb.files import hash_content, hash_file
from histo_nb.home import Home
from histo_nb.inference.provenance import slide_facts
from histo_nb.inference.trust import scanner_of
from histo_nb.masking.masks import mask_path, mask_slides, read_spec
from histo_nb.masking.tissue import MaskSpec
from histo_nb.model.card import Card, slide_tiling
from histo_nb.slide import Slide
from histo_nb.tiling.grid import TileSpec, tile_slides

PLACE = ("x", "y", "size_l0", "level", "read_size", "tile_size", "read_path")


@dataclass(frozen=True)
class Cut:
    """A slide as it goes into the analysis; without tiles, why."""

    slide_id: str
    tiles: pd.DataFrame
    failures: list[dict[Any, Any]]
    made_from: dict[str, Any] = field(default_factory=dict)  # for the provenance
    scanner: str | None = None
    stamp: tuple[int, int] = (0, 0)  # bytes of the file, and when it was written


def make_cut(
    home: Home, tiles: pd.DataFrame, *, spec: TileSpec | None, mask: dict[str, Any] | None
) -> Cut:
    """Return one slide's tiles, at least one, as they go into the analysis.

    Parameters
    ----------
    spec, mask
        How they were cut, and what `mask_facts` said of the mask then; None = unknown.
    """
    row, tiles = tiles.iloc[0], tiles.reset_index(drop=True)
    try:
        with Slide(row.slide_path, slide_mpp=row.slide_mpp) as slide:
            scanner, stamp = scanner_of(slide), _stamp(slide.path)
        made_from = {
            "slide": slide_facts(home.catalog.slide(row.slide_id)),
            "mask": mask,
            "tiling": asdict(spec) if spec else None,
            "tiles_sha256": hash_content(places(tiles)),
        }
    except (SlideError, OSError) as error:
        return Cut(row.slide_id, tiles.head(0), [failure(row.slide_id, "reading", error)])
    return Cut(row.slide_id, tiles, [], made_from, scanner, stamp)


def mask_facts(home: Home, slide_id: str) -> dict[str, Any]:
    """Return the hash of a slide's mask, and how it was made."""
    path = mask_path(home, slide_id)
    return {"sha256": hash_file(path), "spec": asdict(read_spec(path))}


def places(tiles: pd.DataFrame) -> list[list[str]]:
    """Return where tiles lie and how they are read, fit for a hash."""
    return tiles[[*PLACE]].astype(str).to_numpy().tolist()


class Cutter:
    """Masks a slide unless it has a mask, and cuts it as the card says."""

    def __init__(
        self, home: Home, card: Card, *, tiles: pd.DataFrame | None, mask: MaskSpec | None,
        min_tissue: float,
    ) -> None:  # fmt: skip
        self._home, self._tiles, self._mask = home, tiles, mask
        self._spec = TileSpec(min_tissue=min_tissue, **slide_tiling(card))

    def __call__(self, slide_id: str) -> Cut:
        """Return the slide, or why it cannot be analysed."""
        if self._tiles is not None:
            own = self._tiles[self._tiles.slide_id == slide_id]
            if own.empty:
                said = SlideError(f"{slide_id} has no tile in the table that was given")
                return Cut(slide_id, own, [failure(slide_id, "tiling", said)])
            return make_cut(self._home, own, spec=None, mask=None)
        if not mask_path(self._home, slide_id).is_file():
            _, failed = mask_slides(self._home, [slide_id], spec=self._mask, measure=False)
            if len(failed):
                return Cut(slide_id, pd.DataFrame(), failed.to_dict("records"))
        return self._cut(slide_id)

    def _cut(self, slide_id: str) -> Cut:
        try:
            mask = mask_facts(self._home, slide_id)
        except SlideError as error:
            return Cut(slide_id, pd.DataFrame(), [failure(slide_id, "tiling", error)])
        tiles, failed = tile_slides(self._home, [slide_id], spec=self._spec)
        if tiles.empty:
            return Cut(slide_id, tiles, failed.to_dict("records"))
        return make_cut(self._home, tiles, spec=self._spec, mask=mask)


def prefetch(
    slides: list[str], cut: Cutter, first: Future[Cut] | None, pool: ThreadPoolExecutor
) -> Iterator[Cut]:
    """Yield the slides cut into tiles; the next one is cut while one is read."""
    waiting = first
    for following in [*slides[1:], None]:
        if waiting is None:
            return
        now = waiting.result()
        waiting = pool.submit(cut, following) if following is not None else None
        yield now


def _stamp(path: Path) -> tuple[int, int]:
    said = path.stat()
    return said.st_size, said.st_mtime_ns


def check_unchanged(cut: Cut) -> None:
    """Raise `SlideError` if the slide is not the file any more that was cut."""
    path = Path(cut.tiles.slide_path.iloc[0])
    try:
        same = _stamp(path) == cut.stamp
    except OSError:
        same = False
    if not same:
        raise SlideError(f"{path.name} was deleted or replaced after it was cut; start again")


def failure(slide_id: str, step: str, error: Exception) -> dict[str, Any]:
    """Return a row of a table of failures."""
    return {"slide_id": slide_id, "step": step, "error": str(error)}

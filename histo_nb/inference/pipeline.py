"""The analysis of slides: mask, tile, read and classify at once, regions, verdict, result."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from histo_nb.balancing.pixels import read_tile
from histo_nb.errors import SlideError
from histo_nb.failures import FAILURE_COLUMNS
from histo_nb.home import Home
from histo_nb.inference.regions import find_regions
from histo_nb.inference.result import SlideResult, write_result
from histo_nb.inference.runtime import Runtime
from histo_nb.inference.verdict import SlideRule, judge_slide
from histo_nb.masking.masks import mask_path, mask_slides
from histo_nb.masking.tissue import MaskSpec
from histo_nb.model.bundle import open_bundle
from histo_nb.model.card import check_tiles, slide_tiling
from histo_nb.model.registry import production_model
from histo_nb.tables import PREDICTIONS, check_table
from histo_nb.tiling.grid import TileSpec, tile_slides
from histo_nb.tiling.reader import read_tiles

MAX_UNREADABLE = 0.1  # share of a slide's tiles; above it there is no answer for the slide


def analyse_slides(
    home: Home,
    slide_ids: list[str],
    *,
    tiles: pd.DataFrame | None = None,
    mask: MaskSpec | None = None,
    min_tissue: float = 0.5,
) -> tuple[list[Path], pd.DataFrame]:
    """Analyse the named slides (all if none is named) with the model in production.

    Slides without a mask are masked first. Tiles are cut as the model's card says, unless a tile
    table is given, which must agree with the card.

    Returns
    -------
    The result folders, and failures `slide_id, step, error`. Nothing is written for a slide that
    failed.

    Raises
    ------
    BundleError
        No model is in production, its files are damaged, or the given tiles differ from its card.
    """
    runtime_bundle = open_bundle(production_model(home))
    spec = TileSpec(min_tissue=min_tissue, **slide_tiling(runtime_bundle.card))
    runtime = Runtime(runtime_bundle)
    slides = home.catalog.slides(slide_ids)
    wanted = slides.slide_id.tolist()
    failures: list[pd.DataFrame] = []
    if tiles is None:
        unmasked = [name for name in wanted if not mask_path(home, name).is_file()]
        if unmasked:
            _, failed = mask_slides(home, unmasked, spec=mask)
            failures.append(failed)
        masked = [name for name in wanted if mask_path(home, name).is_file()]
        if not masked:
            return [], pd.concat(failures, ignore_index=True)
        tiles, failed = tile_slides(home, masked, spec=spec)
        failures.append(
            failed[~failed.slide_id.isin(pd.concat(failures).slide_id if failures else [])]
        )
    check_tiles(tiles, runtime_bundle.card)
    folders = []
    for slide_id in wanted:
        rows = tiles[tiles.slide_id == slide_id]
        if rows.empty:
            continue
        try:
            result, failed = analyse_tiles(rows, runtime, gate=runtime_bundle.gate)
            folders.append(write_result(result, home, failures=failed))
        except SlideError as error:
            failure = {"slide_id": slide_id, "step": "analysis", "error": str(error)}
            failures.append(pd.DataFrame([failure]))
    known = pd.concat(failures, ignore_index=True) if failures else None
    return folders, known if known is not None else pd.DataFrame(columns=FAILURE_COLUMNS)


def analyse_tiles(
    tiles: pd.DataFrame, runtime: Runtime, *, gate: dict[str, object] | None
) -> tuple[SlideResult, pd.DataFrame]:
    """Classify the tiles of one slide and judge the slide; reading and classifying overlap.

    Returns
    -------
    The result, and one row `slide_id, step, error` for each tile that could not be read.

    Raises
    ------
    SlideError
        More than a tenth of the tiles could not be read.
    """
    started = time.perf_counter()
    card = runtime.card
    slide_id = str(tiles.slide_id.iloc[0])
    read: list[int] = []
    failures: list[dict[str, str]] = []

    def readable() -> Iterator[np.ndarray]:
        for number, tile in read_tiles(tiles, read_tile):
            if isinstance(tile, SlideError):
                failures.append({"slide_id": slide_id, "step": "reading", "error": str(tile)})
                _check_readable(failures, tiles)
            else:
                read.append(number)
                yield tile

    bar = tqdm(total=len(tiles), desc=f"analysing {slide_id}", unit="tile", leave=False)
    probabilities = []
    with bar:
        for row in runtime.classify_all(readable()):
            probabilities.append(row)
            bar.update()
    predictions = make_predictions(tiles.iloc[read], np.array(probabilities), card.classes)
    rule = SlideRule.from_card(card.slide_rule)
    verdict = judge_slide(
        predictions, classes=card.classes, normal_class=card.normal_class, rule=rule
    )
    slide_mpp = float(tiles.slide_mpp.iloc[0])
    stride = np.diff(np.unique(tiles.x)).min() if tiles.x.nunique() > 1 else tiles.size_l0.iloc[0]
    cell_mm2 = (min(int(stride), int(tiles.size_l0.iloc[0])) * slide_mpp / 1000) ** 2
    result = SlideResult(
        slide_id=slide_id,
        model_id=card.model_id,
        classes=card.classes,
        normal_class=card.normal_class,
        slide_class=verdict.slide_class,
        confidence=verdict.confidence,
        abnormal_fraction=verdict.abnormal_fraction,
        class_fractions=verdict.class_fractions,
        rule=rule.describe(card.normal_class),
        tissue_mm2=float(predictions.tissue.sum() * cell_mm2),
        gate_passed=bool(gate and gate.get("passed") and not gate.get("lowered")),
        n_failures=len(failures),
        seconds=time.perf_counter() - started,
        predictions=predictions,
        regions=find_regions(predictions, normal_class=card.normal_class, slide_mpp=slide_mpp),
    )
    return result, pd.DataFrame(failures, columns=FAILURE_COLUMNS)


def make_predictions(
    tiles: pd.DataFrame, probabilities: np.ndarray, classes: list[str]
) -> pd.DataFrame:
    """Return tile rows with `prob_<class>` (0–1) and the `prediction` of the highest one."""
    columns = pd.DataFrame(
        probabilities.astype(np.float64), columns=[f"prob_{label}" for label in classes]
    )
    best = np.array(classes, dtype=object)[probabilities.argmax(axis=1)]
    rows = pd.concat([tiles.reset_index(drop=True), columns], axis=1).assign(prediction=best)
    return check_table(rows, PREDICTIONS)


def _check_readable(failures: list[dict[str, str]], tiles: pd.DataFrame) -> None:
    if len(failures) > MAX_UNREADABLE * len(tiles):
        raise SlideError(
            f"{len(failures)} of {len(tiles)} tiles of {tiles.slide_id.iloc[0]} cannot be read, "
            f"first: {failures[0]['error']}"
        )

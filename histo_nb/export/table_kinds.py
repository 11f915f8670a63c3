"""Which tables leave the house: what a row is, what each column means, where the rows come from.

Files of slides stay at home: a scanner names them as it likes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from histo_nb.home import Home
from histo_nb.inference.result import SlideResult, read_classes, read_result
from histo_nb.tables import LABELLED_TILES, MEANING, PREDICTIONS
from histo_nb.tiling.table import read_tiles, tile_table_path

PRIVATE = {"slide_path"}  # columns that name a file

Rows = Callable[[Home, Sequence[str]], Iterator[pd.DataFrame]]
Schema = Callable[[Home, Sequence[str]], pa.Schema]


@dataclass(frozen=True)
class TableKind:
    """One table: what a row is, its columns, and its rows a few at a time."""

    row: str
    key: tuple[str, ...]
    schema: Schema
    rows: Rows  # of these slides


def _columns(*fields: tuple[str, pa.DataType, str]) -> pa.Schema:
    return pa.schema(
        [pa.field(name, kind, metadata={MEANING: says}) for name, kind, says in fields]
    )


def _always(schema: pa.Schema) -> Schema:
    return lambda _home, _slide_ids: schema


def _without_private(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in PRIVATE])


_SLIDES = _columns(
    ("slide_id", pa.string(), "pseudonym of the slide"),
    ("patient_id", pa.string(), "pseudonym of the patient; empty = unknown"),
    ("sha256", pa.string(), "SHA-256 of the slide's bytes"),
    ("n_bytes", pa.int64(), "size, bytes"),
    ("width", pa.int64(), "level-0 px"),
    ("height", pa.int64(), "level-0 px"),
    ("n_levels", pa.int64(), "levels of its pyramid"),
    ("slide_mpp", pa.float64(), "µm/px of level 0"),
    ("mpp_source", pa.string(), "file, or given by a person"),
    ("objective_power", pa.float64(), "magnification of the objective; empty = not stated"),
    ("source", pa.string(), "where it came from: virtual scanner, file, dicom …"),
    ("added_at", pa.string(), "when it was filed, ISO 8601, UTC"),
)
_RESULTS = _columns(
    ("slide_id", pa.string(), "pseudonym of the slide"),
    ("model_id", pa.string(), "model that answered; the latest answer of each slide"),
    ("slide_class", pa.string(), "answer of the model for the whole slide"),
    ("confidence", pa.float64(), "of that answer, 0–1; the model's rule says what it means"),
    ("abnormal_fraction", pa.float64(), "share of the classified tissue that is abnormal, 0–1"),
    ("n_tiles", pa.int64(), "classified tiles"),
    ("n_regions", pa.int64(), "abnormal regions"),
    ("n_failures", pa.int64(), "tiles that could not be read"),
    ("analysed_at", pa.string(), "ISO 8601, UTC"),
    ("content_sha256", pa.string(), "SHA-256 of the result's files"),
)
_REGIONS = _columns(
    ("slide_id", pa.string(), "pseudonym of the slide"),
    ("model_id", pa.string(), "model that found it"),
    ("region", pa.int64(), "number of the region on its slide, 1 = the largest"),
    ("label", pa.string(), "class"),
    ("area_mm2", pa.float64(), "tissue in it, mm²"),
    ("probability", pa.float64(), "mean probability of its class over its tiles, 0–1"),
    ("max_probability", pa.float64(), "highest probability of its class, 0–1"),
    ("n_tiles", pa.int64(), "tiles in it"),
    ("outline", pa.string(), "well-known text (WKT), level-0 px of the slide's full image"),
)
_REVIEWS = _columns(
    ("slide_id", pa.string(), "pseudonym of the slide"),
    ("model_id", pa.string(), "model whose answer was judged; empty = none was"),
    ("kind", pa.string(), "slide, region, annotation or signature"),
    ("subject", pa.string(), "which region or annotation; empty = the slide"),
    ("verdict", pa.string(), "agree, disagree, drawn or signed"),
    ("label", pa.string(), "class, if one was said"),
    ("note", pa.string(), "the reviewer's words"),
    ("outline", pa.string(), "GeoJSON geometry, level-0 px of the slide's full image"),
    ("reviewer", pa.string(), "who said so"),
    ("reviewed_at", pa.string(), "ISO 8601, UTC"),
)


def _slides(home: Home, slide_ids: Sequence[str]) -> Iterator[pd.DataFrame]:
    yield home.catalog.slides(slide_ids)


def _results(home: Home, slide_ids: Sequence[str]) -> Iterator[pd.DataFrame]:
    yield home.catalog.results(slide_ids)


def _reviews(home: Home, slide_ids: Sequence[str]) -> Iterator[pd.DataFrame]:
    yield home.catalog.reviews(slide_ids).replace("", None)  # as CSV cannot tell them apart


def _read_results(home: Home, slide_ids: Sequence[str]) -> Iterator[SlideResult]:
    """Yield the latest result of each slide that has one; one is in memory at a time."""
    for path in home.catalog.results(slide_ids).sort_values("slide_id").result_path:
        yield read_result(path)


def _regions(home: Home, slide_ids: Sequence[str]) -> Iterator[pd.DataFrame]:
    for result in _read_results(home, slide_ids):
        yield pd.DataFrame(
            [
                {"slide_id": result.slide_id, "model_id": result.model_id, "region": number,
                 "label": region.label, "outline": region.outline.wkt, **region.measurements}
                for number, region in enumerate(result.regions, 1)
            ],
            columns=_REGIONS.names,
        )  # fmt: skip


def _predictions(home: Home, slide_ids: Sequence[str]) -> Iterator[pd.DataFrame]:
    for result in _read_results(home, slide_ids):
        yield result.predictions.assign(model_id=result.model_id)


def _prediction_columns(home: Home, slide_ids: Sequence[str]) -> pa.Schema:
    """Return the columns of predictions, with a probability for each class of any model."""
    paths = home.catalog.results(slide_ids).result_path
    classes = sorted({label for path in paths for label in read_classes(path)[0]})
    told = _columns(
        ("model_id", pa.string(), "model that answered"),
        *((f"prob_{c}", pa.float64(), f"probability of the class {c}, 0–1") for c in classes),
    )
    return pa.schema([*_without_private(PREDICTIONS.schema), *told])


def _tiles(home: Home, slide_ids: Sequence[str]) -> Iterator[pd.DataFrame]:
    if tile_table_path(home).is_file():
        tiles = read_tiles(home)
        yield tiles[tiles.slide_id.isin(list(slide_ids))]


TABLES = {
    "slides": TableKind("a slide of the catalogue", ("slide_id",), _always(_SLIDES), _slides),
    "results": TableKind("the latest result of a slide", ("slide_id",), _always(_RESULTS),
                         _results),
    "regions": TableKind("an abnormal region of a slide's latest result", ("slide_id", "region"),
                         _always(_REGIONS), _regions),
    "predictions": TableKind("a classified tile of a slide's latest result", ("tile_id",),
                             _prediction_columns, _predictions),
    "tiles": TableKind("a tile of the home's tile table, with its label", ("tile_id",),
                       _always(_without_private(LABELLED_TILES.schema)), _tiles),
    "reviews": TableKind("what a reviewer last said of a slide or a place on it", (),
                         _always(_REVIEWS), _reviews),
}  # fmt: skip

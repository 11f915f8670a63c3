"""What the analysis of one slide says, and its folder on disk. Loads no torch."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from histo_nb.annotations import Annotation, read_geojson, write_geojson
from histo_nb.errors import CatalogError, TableError
from histo_nb.files import hash_folder, write_json, writing_folder
from histo_nb.home import Home
from histo_nb.spreadsheet import write_csv
from histo_nb.tables import PREDICTIONS, read_table, write_table

PROVENANCE = "provenance.json"  # what the answer was made from
TIMING = "timing.json"  # differs from run to run, and is no part of the answer


@dataclass(frozen=True, kw_only=True)
class SlideResult:
    """The answer for one slide, with what it was made from.

    `predictions` has one row a tile with `prob_<class>` columns (0–1) and `prediction`; `regions`
    are the abnormal areas (level-0 px), the largest first, with the measurements `area_mm2`,
    `probability` (mean of the class, 0–1), `max_probability` and `n_tiles`.
    """

    slide_id: str
    model_id: str
    classes: list[str]
    normal_class: str
    slide_class: str
    confidence: float  # 0–1, what it means stands in `rule`
    abnormal_fraction: float  # of the classified tissue, 0–1
    class_fractions: dict[str, float]  # tissue share of each class, sum 1
    rule: str  # how slide_class follows from the tiles, in words
    tissue_mm2: float
    gate_passed: bool  # False: in production by a person's decision only, or by lowered criteria
    n_failures: int  # tiles that could not be read
    seconds: float
    predictions: pd.DataFrame
    regions: list[Annotation]
    score: float | None = None  # that the rule's threshold is compared with
    doubts: list[str] | None = None  # reasons not to trust the answer; None = never asked
    runtime: str = "torch fp32"
    provenance: dict[str, Any] | None = None  # see `inference.provenance`; None = made before it

    @property
    def n_tiles(self) -> int:
        """Number of classified tiles."""
        return len(self.predictions)


def result_folder(home: Home, slide_id: str, model_id: str) -> Path:
    """Return the folder of one slide's result by one model."""
    return home.results / slide_id / model_id


def write_result(result: SlideResult, home: Home, *, failures: pd.DataFrame) -> Path:
    """Write a result's folder, replacing an earlier one, file it in the catalogue; return it.

    The same slide, model, code and parameters give the same bytes, but for the file `TIMING`.
    """
    folder = result_folder(home, result.slide_id, result.model_id)
    facts = asdict(result)
    del facts["predictions"], facts["regions"]
    timing, provenance = {"seconds": facts.pop("seconds")}, facts.pop("provenance")
    with writing_folder(folder, replace=True) as temporary:
        write_table(result.predictions, temporary / "predictions.parquet", PREDICTIONS)
        write_geojson(result.regions, temporary / "regions.geojson")
        write_csv(failures, temporary / "failures.csv")
        write_json(temporary / "result.json", facts)
        write_json(temporary / PROVENANCE, provenance)
        content_sha256 = hash_result(temporary)
        write_json(temporary / TIMING, timing)
    home.catalog.put_result(
        {
            "slide_id": result.slide_id,
            "model_id": result.model_id,
            "slide_class": result.slide_class,
            "confidence": result.confidence,
            "abnormal_fraction": result.abnormal_fraction,
            "n_tiles": result.n_tiles,
            "n_regions": len(result.regions),
            "n_failures": result.n_failures,
            "result_path": str(folder),
            "content_sha256": content_sha256,
        }
    )
    return folder


def hash_result(folder: Path) -> str:
    """Return the SHA-256 of a result: of the names and bytes of its files, but for the timing."""
    return hash_folder(folder, without={TIMING})


def read_result(folder: Path | str) -> SlideResult:
    """Read the result in a folder written by `write_result`.

    Raises
    ------
    CatalogError
        The folder holds no whole result.
    """
    folder = Path(folder)
    try:
        return SlideResult(
            **read_facts(folder),
            predictions=read_table(folder / "predictions.parquet", PREDICTIONS),
            regions=read_geojson(folder / "regions.geojson"),
        )
    except (OSError, ValueError, TypeError, TableError) as error:
        raise _not_whole(folder, error) from error


def read_facts(folder: Path) -> dict[str, Any]:
    """Return all that a result says but its tables, by the names of `SlideResult`.

    Raises
    ------
    CatalogError
        The folder holds no whole result.
    """
    try:
        facts = _read_json(folder / "result.json")
        if (folder / PROVENANCE).is_file():  # results of earlier versions have none
            facts |= {"provenance": _read_json(folder / PROVENANCE), **_read_json(folder / TIMING)}
        return {**facts, "classes": list(facts["classes"])}
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise _not_whole(folder, error) from error


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _not_whole(folder: Path, error: Exception) -> CatalogError:
    return CatalogError(
        f"{folder} holds no whole result ({error}); analyse the slide again with `histo-nb analyse`"
    )


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return what a result says it was made from.

    Raises
    ------
    CatalogError
        There is no result, or it was made by a version that did not say.
    """
    try:
        return dict(_read_json(folder / PROVENANCE))
    except (OSError, ValueError, TypeError) as error:
        raise _not_whole(folder, error) from error


def read_classes(folder: Path | str) -> tuple[list[str], str]:
    """Return the classes of a result and which of them is normal, without its tables.

    Raises
    ------
    CatalogError
        The folder holds no whole result.
    """
    facts = read_facts(Path(folder))
    return list(facts["classes"]), str(facts["normal_class"])


def find_result(home: Home, slide_id: str) -> Path:
    """Return the folder of a slide's latest result.

    Raises
    ------
    CatalogError
        The slide was not analysed yet.
    """
    found = home.catalog.results([slide_id]).result_path
    if found.empty:
        raise CatalogError(f"no result for {slide_id}; make one with `histo-nb analyse {slide_id}`")
    return Path(found.iloc[0])

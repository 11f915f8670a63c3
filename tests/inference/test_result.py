"""The folder of a slide's result: whole, replaced at once, read back equal."""

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from glasses import PlaneGlass, waves

from histo_nb.errors import CatalogError
from histo_nb.failures import FAILURE_COLUMNS
from histo_nb.inference.regions import find_regions
from histo_nb.inference.result import SlideResult, find_result, read_result, write_result
from histo_nb.scanning.console import scan_rack
from histo_nb.tables import PREDICTIONS, check_table

NO_FAILURES = pd.DataFrame(columns=FAILURE_COLUMNS)


@pytest.fixture
def result(home) -> SlideResult:
    """Four tiles of a scanned slide, two of them carcinoma."""
    (slide_id,) = scan_rack([PlaneGlass(waves(400, 300))], home).slide_id
    rows = pd.DataFrame({"x": [0, 100, 200, 0], "y": [0, 0, 0, 100]})
    rows["tile_id"] = [f"{slide_id}/{x},{y}/100" for x, y in zip(rows.x, rows.y, strict=True)]
    rows["prediction"] = ["carcinoma", "carcinoma", "normal", "normal"]
    rows["prob_carcinoma"] = [0.9, 0.7, 0.2, 0.1]
    rows["prob_normal"] = 1 - rows.prob_carcinoma
    same = {"slide_id": slide_id, "patient_id": None, "slide_path": "/a.svs", "slide_mpp": 0.5}
    same |= dict.fromkeys(("size_l0", "read_size", "tile_size"), 100)
    same |= {"level": 0, "mpp": 0.5, "effective_mpp": 0.5, "read_path": "level0", "tissue": 1.0}
    predictions = check_table(rows.assign(**same), PREDICTIONS)
    return SlideResult(
        slide_id=slide_id,
        model_id="M-1",
        classes=["carcinoma", "normal"],
        normal_class="normal",
        slide_class="carcinoma",
        confidence=0.8,
        abnormal_fraction=0.5,
        class_fractions={"carcinoma": 0.5, "normal": 0.5},
        rule="by hand",
        tissue_mm2=0.01,
        gate_passed=True,
        n_failures=0,
        seconds=0.1,
        predictions=predictions,
        regions=find_regions(predictions, normal_class="normal", slide_mpp=0.5),
    )


def test_a_result_is_read_back_equal(home, result):
    read = read_result(write_result(result, home, failures=NO_FAILURES))
    pd.testing.assert_frame_equal(read.predictions, result.predictions)
    for field in dataclasses.fields(SlideResult):
        if field.name != "predictions":
            assert getattr(read, field.name) == getattr(result, field.name), field.name
    assert read.n_tiles == 4


def test_a_second_analysis_replaces_the_first(home, result):
    folder = write_result(result, home, failures=NO_FAILURES)
    (folder / "leftover").touch()
    again = dataclasses.replace(result, slide_class="normal", regions=[])
    assert write_result(again, home, failures=NO_FAILURES) == folder
    assert not (folder / "leftover").exists()
    assert read_result(folder).slide_class == "normal"
    (row,) = home.catalog.results().to_dict("records")
    assert (row["slide_class"], row["n_regions"], row["n_tiles"]) == ("normal", 0, 4)
    assert find_result(home, result.slide_id) == folder
    assert [path.name for path in folder.parent.iterdir()] == ["M-1"]


def damage(folder: Path, what: str) -> None:
    facts = json.loads((folder / "result.json").read_text())
    if what == "folder":
        shutil.rmtree(folder)
    elif what == "key":
        del facts["confidence"]
        (folder / "result.json").write_text(json.dumps(facts))
    elif what == "list":
        (folder / "result.json").write_text("[]")
    else:
        (folder / what).write_bytes((folder / what).read_bytes()[:20])


@pytest.mark.parametrize(
    "what", ["folder", "key", "list", "result.json", "predictions.parquet", "regions.geojson"]
)
def test_a_damaged_result_is_named(home, result, what):
    folder = write_result(result, home, failures=NO_FAILURES)
    damage(folder, what)
    with pytest.raises(CatalogError, match="histo-nb analyse"):
        read_result(folder)


def test_a_slide_without_result_is_named(home):
    with pytest.raises(CatalogError, match="histo-nb analyse S-0"):
        find_result(home, "S-0")

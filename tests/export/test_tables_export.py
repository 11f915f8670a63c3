"""Tables that leave the house: whole, explained, and without what names a person."""

import json
from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
from judged import HOSTILE, PATIENT, SIZE, add_result, draw, judge_region, sign

from histo_nb.errors import CatalogError, SpecError, StorageError
from histo_nb.export.table_kinds import TABLES
from histo_nb.export.tables import write_tables
from histo_nb.files import hash_file
from histo_nb.home import Home
from histo_nb.inference.result import SlideResult, write_result
from histo_nb.spreadsheet import read_csv
from histo_nb.tables import LABELLED_TILES
from histo_nb.tiling.labels import make_labels
from histo_nb.tiling.table import file_tiles

NONE = pd.DataFrame(columns=["slide_id", "step", "error"])
FORMULA = "=HYPERLINK(\"http://evil\",'x')"


def add_named(home: Home, slide_id: str) -> SlideResult:
    """File a slide whose file is named after a person, but whose patient has a pseudonym."""
    result = add_result(home, slide_id)
    home.catalog.correct(slide_id, patient_id="P-7")
    result = replace(result, predictions=result.predictions.assign(patient_id="P-7"))
    write_result(result, home, failures=NONE)
    return result


@pytest.fixture
def filed(home: Home) -> Home:
    """Two slides with results, of which one was judged, drawn on and signed."""
    results = [add_named(home, name) for name in ("S-1", "S-2")]
    judge_region(home, results[0], 0, note=f"{FORMULA}; -1+1")
    draw(home, shapely.Point(8, 9), "adenoma", note=HOSTILE)
    sign(home, "carcinoma", note="@SUM(1)\n=2")
    tiles = results[0].predictions
    labels = tiles.prediction.to_numpy(object)
    file_tiles(make_labels(tiles, labels=labels, source="test"), home)
    return home


def read_package(folder) -> dict[str, pd.DataFrame]:
    """Read all tables by nothing but what their dictionary says."""
    tables = {}
    for resource in json.loads((folder / "datapackage.json").read_text())["resources"]:
        path, fields = folder / resource["path"], resource["schema"]["fields"]
        assert resource["hash"] == f"sha256:{hash_file(path)}"
        assert all(field["description"] for field in fields)
        texts = [field["name"] for field in fields if field["type"] == "string"]
        table = read_csv(path, texts=texts) if path.suffix == ".csv" else pd.read_parquet(path)
        assert table.columns.tolist() == [field["name"] for field in fields]
        assert len(table) == resource["rows"]
        key = resource["schema"].get("primaryKey")
        assert not key or not table.duplicated(key).any()
        tables[resource["name"]] = table
    return tables


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_each_table_holds_what_the_home_knows(filed, tmp_path, kind):
    tables = read_package(write_tables(filed, tmp_path / "out", kind=kind))
    assert set(tables) == set(TABLES)
    assert tables["slides"].slide_id.tolist() == ["S-1", "S-2"]
    assert tables["slides"].width.tolist() == [SIZE[0]] * 2
    assert tables["results"].confidence.tolist() == [0.87, 0.87]
    assert len(tables["regions"]) == 6
    outline = shapely.from_wkt(tables["regions"].outline[0])
    assert outline.bounds == (256, 256, 768, 512)
    predictions = tables["predictions"]
    assert set(predictions.slide_id) == {"S-1", "S-2"}
    assert predictions.prob_carcinoma.max() == 0.96  # bit for bit, through text too
    assert predictions.prediction.value_counts()["carcinoma"] == 8
    assert len(tables["tiles"]) == len(predictions) / 2
    notes = tables["reviews"].note.tolist()
    assert notes == [f"{FORMULA}; -1+1", HOSTILE, "@SUM(1)\n=2"]


def test_both_formats_say_the_same(filed, tmp_path):
    csv, parquet = (
        read_package(write_tables(filed, tmp_path / kind, kind=kind)) for kind in ("csv", "parquet")
    )
    for name in TABLES:
        for column in csv[name]:
            expected, found = parquet[name][column], csv[name][column]
            assert found.isna().equals(expected.isna()), (name, column)
            assert found.dropna().tolist() == expected.dropna().tolist(), (name, column)


def test_no_cell_of_a_csv_is_a_formula(filed, tmp_path):
    folder = write_tables(filed, tmp_path / "out")
    lines = (folder / "reviews.csv").read_text().splitlines()
    starts = [cell.lstrip('"') for line in lines for cell in line.replace(";", ",").split(",")]
    assert any("HYPERLINK" in start for start in starts)
    assert not [start for start in starts if start.startswith(("=", "@", "+", "-"))]


def test_parquet_tells_the_meaning_of_its_columns(filed, tmp_path):
    folder = write_tables(filed, tmp_path / "out", kind="parquet")
    schema = pq.read_schema(folder / "tiles.parquet")
    assert (
        schema.field("x").metadata[b"description"]
        == b"left edge, level-0 px of the slide's full image"
    )
    kept = pq.read_schema(filed.tiles / "tiles.parquet")
    assert {f.name for f in kept if f.metadata} >= set(LABELLED_TILES.columns)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_no_file_and_no_person_is_named(filed, tmp_path, kind):
    folder = write_tables(filed, tmp_path / "out", kind=kind)
    for path in folder.iterdir():
        text = path.read_bytes()
        if kind == "parquet" and path.suffix == ".parquet":
            text = pd.read_parquet(path).to_csv().encode() + text
        assert PATIENT.encode() not in text, path.name
        assert b".svs" not in text, path.name


def test_some_tables_of_some_slides(filed, tmp_path):
    folder = write_tables(filed, tmp_path / "out", slide_ids=["S-2"], names=["predictions"])
    names = {path.name for path in folder.iterdir()}
    assert names == {"predictions.csv", "datapackage.json", "DICTIONARY.md"}
    assert set(read_package(folder)["predictions"].slide_id) == {"S-2"}


def test_models_of_other_classes_share_a_table(filed, tmp_path):
    tiles = add_named(filed, "S-3").predictions
    del tiles["prob_adenoma"]
    other = SlideResult(
        slide_id="S-3", model_id="M-2", classes=["normal", "carcinoma"], normal_class="normal",
        slide_class="normal", confidence=0.5, abnormal_fraction=0.0,
        class_fractions={"normal": 1.0, "carcinoma": 0.0}, rule="A rule.", tissue_mm2=1.0,
        gate_passed=True, n_failures=0, seconds=1.0, predictions=tiles, regions=[],
    )  # fmt: skip
    write_result(other, filed, failures=NONE)
    table = read_package(write_tables(filed, tmp_path / "out"))["predictions"]
    of_other = table.slide_id == "S-3"
    assert table.prob_adenoma.isna().equals(of_other)
    assert set(table[of_other].model_id) == {"M-2"}


def test_a_home_without_results_gives_empty_tables_with_their_heads(home, tmp_path):
    add_result(home, "S-1")
    with home.catalog.writing("") as connection:
        connection.exec_driver_sql("DELETE FROM results")
    tables = read_package(write_tables(home, tmp_path / "out"))
    assert [len(tables[name]) for name in ("slides", "predictions", "tiles")] == [1, 0, 0]


def test_what_is_wrong_is_named_and_nothing_is_written(filed, tmp_path):
    for wrong, error in (
        ({"names": ["slide"]}, SpecError),
        ({"kind": "xlsx"}, SpecError),
        ({"slide_ids": ["S-9"]}, CatalogError),
    ):
        with pytest.raises(error):
            write_tables(filed, tmp_path / "out", **wrong)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("kept")
    with pytest.raises(StorageError):
        write_tables(filed, tmp_path / "there")
    assert [path.name for path in tmp_path.glob("o*")] == []
    assert (tmp_path / "there" / "mine.txt").read_text() == "kept"

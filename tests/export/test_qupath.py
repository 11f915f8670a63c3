"""A QuPath project: what QuPath's reader asks for, the frame it shows, and nobody's name."""

import base64
import json
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from found import BARCODE, CORNER, PERSON, SIZE, add_found, take_slide
from judged import PATIENT, judge_region
from judged import add_result as add_named

from histo_nb.errors import CatalogError, SpecError
from histo_nb.export.geojson import read_result_geojson
from histo_nb.export.qupath import write_qupath_project
from histo_nb.scanning.identity import kept_facts
from histo_nb.scanning.intake import correct_slide
from histo_nb.schema import SLIDES
from histo_nb.slide import Slide

# One image of a project that QuPath 0.5.1 wrote, as its Gson reads it; "metadata" of the builder
# and "description" may be missing.
ENTRY = {
    "serverBuilder": {"builderType": str, "providerClassName": str, "uri": str, "args": list},
    "entryID": int,
    "randomizedName": str,
    "imageName": str,
    "description": str,
    "metadata": dict,
}
WHOLE = {"version": str, "createTimestamp": int, "modifyTimestamp": int, "uri": str, "lastID": int,
         "images": list}  # fmt: skip


def check_types(content: dict, wanted: dict) -> None:
    assert set(content) == set(wanted)
    for name, kind in wanted.items():
        if isinstance(kind, dict):
            check_types(content[name], kind)
        else:
            assert type(content[name]) is kind, name


@pytest.fixture
def project(home, tmp_path) -> Path:
    """Two slides, the first analysed and judged, with its scan away from its corner."""
    judge_region(home, add_found(home, take_slide(home, "S-1")), 0, note="glands back to back")
    take_slide(home, "S-2", corner=(0, 0))
    path, failures = write_qupath_project(home, tmp_path / "for QuPath", tiles=True)
    assert failures.empty
    return path


def test_a_project_is_as_qupath_reads_it(project):
    content = json.loads(project.read_text())
    check_types(content, WHOLE)
    assert content["uri"] == project.as_uri()
    for number, entry in enumerate(content["images"], 1):
        check_types(entry, ENTRY)
        assert entry["entryID"] == number <= content["lastID"]
        builder = entry["serverBuilder"]
        assert builder["builderType"] == "uri"
        assert builder["providerClassName"].endswith(".openslide.OpenslideServerBuilder")
        with Slide(unquote(urlparse(builder["uri"]).path)) as slide:
            assert slide.size == SIZE
    assert [entry["imageName"] for entry in content["images"]] == ["S-1", "S-2"]
    assert len({entry["randomizedName"] for entry in content["images"]}) == 2
    classes = json.loads((project.parent / "classifiers" / "classes.json").read_text())
    colours = {row["name"]: row["color"] for row in classes["pathClasses"]}
    assert set(colours) == {"normal", "adenoma", "carcinoma", "Region*"}
    assert colours["carcinoma"] + (1 << 24) == 0xD55E00  # Java's ARGB: opaque, signed


def test_findings_lie_where_qupath_shows_the_slide(project):
    """Without `--no-crop`, it counts from the corner of the scan: the file says so and does so."""
    (entry, _) = json.loads(project.read_text())["images"]
    assert "--no-crop" not in entry["serverBuilder"]["args"]
    path = project.parent / "findings" / "S-1.geojson"
    found = read_result_geojson(path)
    assert found.origin == CORNER
    assert (len(found.regions), len(found.tiles), len(found.judged)) == (2, 60, 1)
    first = json.loads(path.read_text())["features"][-60]["geometry"]["coordinates"][0][0]
    assert first == [found.tiles.x[0] - CORNER[0], found.tiles.y[0] - CORNER[1]]
    assert [p.name for p in path.parent.iterdir()] == ["S-1.geojson"]  # S-2 was not analysed


def test_the_script_finds_what_was_written(project):
    script = (project.parent / "scripts" / "import_findings.groovy").read_text()
    (folder,) = re.findall(
        r'buildFilePath\(PROJECT_BASE_DIR, "(.+?)", slide \+ "\.geojson"\)', script
    )
    assert (project.parent / folder / "S-1.geojson").is_file()
    assert "def given = [:]" in script


def test_pixels_of_a_given_size_are_told(home, tmp_path):
    correct_slide(take_slide(home, "S-$1"), home, slide_mpp=0.75)
    take_slide(home, "S-2", corner=(0, 0))
    path, _ = write_qupath_project(home, tmp_path / "project")
    script = (path.parent / "scripts" / "import_findings.groovy").read_text()
    assert r'def given = ["S-\$1": 0.75d]' in script


def written_bytes(folder: Path) -> bytes:
    return b"\n".join(
        bytes(path.relative_to(folder)) + b"\n" + path.read_bytes()
        for path in folder.rglob("*") if path.is_file()
    )  # fmt: skip


def spellings(word: str) -> list[bytes]:
    """A word as it may stand in a file: plain, UTF-16, escaped, Base64 at any offset."""
    plain = word.encode()
    at = [base64.b64encode(b" " * n + plain)[4 if n else 0 : -4] for n in range(3)]
    return [plain, word.replace(" ", "%20").encode(), word.encode("utf-16-le"),
            word.encode("utf-16-be"), plain[::-1], plain.hex().encode(), *at]  # fmt: skip


def test_no_word_of_a_patient_is_written(home, project):
    assert kept_facts(home, "S-1") == {"file_name": f"{PERSON}.tif", "barcode": BARCODE}
    content = written_bytes(project.parent).lower()
    assert b"s-1.tif" in content
    for word in (PERSON, *PERSON.split()[:2], BARCODE):
        for spelling in spellings(word):
            assert spelling.lower() not in content, spelling


def test_a_file_that_may_name_somebody_is_left_out(home, tmp_path):
    add_named(home, "S-9")  # its file is called as its patient is
    take_slide(home, "S-1")
    path, failures = write_qupath_project(home, tmp_path / "project")
    assert failures.slide_id.tolist() == ["S-9"]
    assert PATIENT not in failures.error[0]
    assert [e["imageName"] for e in json.loads(path.read_text())["images"]] == ["S-1"]
    content = written_bytes(path.parent)
    assert all(spelling not in content for spelling in spellings(PATIENT))


@pytest.mark.parametrize(
    ("name", "known"),
    [("S-1/0001.dcm", True), ("S-1/slide.mrxs", True), ("S-1/Doe Jane.dcm", False),
     ("S-2/0001.dcm", False), ("Doe/S-1.tif", False), ("../S-1.tif", False),
     ("S-1 Doe.tif", False)],
)  # fmt: skip
def test_names_in_a_slides_folder_are_those_of_intake(home, tmp_path, name, known):
    source = home.slides / f"{take_slide(home)}.tif"
    target = home.slides / name
    target.parent.mkdir(exist_ok=True)
    source.rename(target)
    move_slide(home, target)
    _, failures = write_qupath_project(home, tmp_path / "project")
    assert failures.empty == known


def test_a_slide_outside_of_the_home_is_left_out(home, tmp_path):
    source = home.slides / f"{take_slide(home)}.tif"
    target = tmp_path / PERSON / "S-1.tif"
    target.parent.mkdir()
    source.rename(target)
    move_slide(home, target)
    _, failures = write_qupath_project(home, tmp_path / "project")
    assert failures.slide_id.tolist() == ["S-1"]
    assert PERSON not in failures.error[0]


def move_slide(home, target: Path) -> None:
    with home.catalog.engine.begin() as connection:
        connection.execute(SLIDES.update().values(slide_path=str(target)))


def test_a_broken_result_stops_no_other(home, tmp_path):
    for name in ("S-1", "S-2"):
        add_found(home, take_slide(home, name))
    next((home.results / "S-1").rglob("result.json")).unlink()
    path, failures = write_qupath_project(home, tmp_path / "project")
    assert failures.slide_id.tolist() == ["S-1"]
    assert [e["imageName"] for e in json.loads(path.read_text())["images"]] == ["S-2"]


def test_work_in_qupath_is_never_overwritten(home, project):
    before = project.read_bytes()
    with pytest.raises(SpecError, match="name a new folder"):
        write_qupath_project(home, project.parent)
    assert project.read_bytes() == before
    with pytest.raises(CatalogError, match="S-7"):
        write_qupath_project(home, project.parent.with_name("other"), slide_ids=["S-7"])
    assert not project.parent.with_name("other").exists()

"""The intake desk: whole and once, or in quarantine with its reason."""

import json
from pathlib import Path

import pytest
from glasses import PlaneGlass, waves

from histo_nb.errors import CatalogError, MppError, SlideError, StorageError
from histo_nb.scanning import intake
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.intake import file_slide, take_in
from histo_nb.scanning.probe import probe_slide
from histo_nb.scanning.virtual import write_scan

HOSTILE = [
    "slides/git_lfs_pointer_default.svs",
    "slides/histolab_broken-html.svs",
    "slides/histolab_broken.svs",
    "slides/large_image_zero_gi.tif",
    "slides/osp_unopenable.tiff",
    "slides/osp_unreadable.svs",
    "slides/panimg_invalid_resolutions_tiff.tif",
    "abort/CRASH_openslide_1_2155_t_jp2k.svs",
    "abort/CRASH_openslide_2_18_t_jpeg.svs",
    "abort/CRASH_openslide_2_2615_t_jp2k.svs",
]


@pytest.fixture
def scan(tmp_path) -> Path:
    return write_scan(PlaneGlass(waves(700, 600)), tmp_path / "a.svs", spec=ScanSpec())


def check_refused(home, path: Path) -> str:
    """The file is refused, kept in quarantine with its reason, and not in the catalogue."""
    rows, refused = take_in([path], home)
    assert rows.empty
    (row,) = refused.to_dict("records")
    assert (home.quarantine / row["slide_id"]).read_bytes() == path.read_bytes()
    reason = json.loads((home.quarantine / f"{row['slide_id']}.reason.json").read_text())
    assert reason["reason"].startswith(row["slide_id"])
    assert reason["reason"].removeprefix(row["slide_id"]) in row["error"]
    assert path.name in row["error"]
    assert home.catalog.events().subject.tolist() == [row["slide_id"]]
    with pytest.raises(CatalogError, match="no slides"):
        home.catalog.slides()
    assert not list(home.slides.iterdir())
    return str(row["error"])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_nobody_is_harmed(home, data, name):
    check_refused(home, data / "malformed" / name)


def test_every_hostile_slide_is_in_the_list(data):
    there = {f"{room}/{p.name}" for room in ("slides", "abort") for p in
             (data / "malformed" / room).iterdir()}  # fmt: skip
    assert there == set(HOSTILE)


@pytest.mark.parametrize("share", [0, 0.3])
def test_a_file_cut_off_is_refused(home, scan, share):
    scan.write_bytes(scan.read_bytes()[: int(share * scan.stat().st_size)])
    check_refused(home, scan)


def test_a_good_file_beside_a_bad_one_is_taken(home, scan, tmp_path):
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    missing = tmp_path / "missing.svs"
    rows, refused = take_in([tmp_path / "bad.svs", missing, scan], home, patient_id="P9")
    assert rows.patient_id.tolist() == ["P9"]
    assert rows.mpp_source.tolist() == ["file"]
    assert Path(rows.slide_path[0]).read_bytes() == scan.read_bytes()
    assert len(refused) == 2
    assert "missing.svs does not exist" in refused.error[1]
    assert len(list(home.quarantine.iterdir())) == 2  # the bad file and its reason


def test_the_same_file_twice_is_one_slide(home, scan, tmp_path):
    copy = tmp_path / "other name.svs"
    copy.write_bytes(scan.read_bytes())
    rows, refused = take_in([scan, copy], home)
    assert refused.empty
    assert rows.slide_id.nunique() == len(home.catalog.slides()) == 1


def test_a_slide_that_cannot_be_filed_leaves_nothing(home, scan, monkeypatch):
    def fail(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(type(home.catalog), "add_slide", fail)
    with pytest.raises(StorageError):
        file_slide(scan, home, source="file")
    monkeypatch.setattr(intake, "write_geojson", fail)
    with pytest.raises(StorageError):
        file_slide(scan, home, source="file", truth=[object()])  # type: ignore[list-item]
    assert not list(home.slides.iterdir())


def test_a_slide_without_mpp_names_the_way_out(home, data):
    path = data / "slides" / "real" / "TCGA-CR-7395-01A-01-TS1.svs"
    with pytest.raises(MppError, match="--slide-mpp"):
        probe_slide(path)
    assert "--slide-mpp" in check_refused(home, path)
    rows, refused = take_in([path], home, slide_mpp=0.25)
    assert refused.empty
    assert rows[["slide_mpp", "mpp_source"]].iloc[0].tolist() == [0.25, "given"]


@pytest.mark.parametrize("wrong", [0, -0.5, 1000, float("nan")])
def test_an_absurd_mpp_is_refused(scan, wrong):
    with pytest.raises(MppError, match=r"a\.svs"):
        probe_slide(scan, slide_mpp=wrong)


def test_a_real_slide_is_taken(home, data):
    rows, refused = take_in([data / "slides" / "real" / "CMU-1-Small-Region.svs"], home)
    assert refused.empty
    said = rows[["width", "height", "slide_mpp", "objective_power"]].iloc[0].tolist()
    assert said == [2220, 2967, 0.499, 20]


def test_a_folder_is_no_slide(tmp_path):
    with pytest.raises(SlideError, match="does not exist"):
        probe_slide(tmp_path)


def test_the_name_of_a_refused_file_is_kept_nowhere(home, tmp_path):
    path = tmp_path / "Maria Mustermann 1947.svs"
    path.write_bytes(b"no slide at all")
    _, refused = take_in([path], home)
    assert len(refused) == 1
    home.catalog.engine.dispose()
    kept = [file for file in home.root.rglob("*") if file.is_file()]
    assert len(kept) >= 3
    assert not [f for f in kept if b"Mustermann" in f.read_bytes() or "Mustermann" in f.name]

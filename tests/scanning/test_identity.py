"""What names a patient is kept apart, shown on request only, and absent from copies."""

from pathlib import Path

import numpy as np
import openslide
import pytest
from glasses import PlaneGlass, waves
from PIL import Image

from histo_nb.errors import CatalogError, SlideError
from histo_nb.home import open_home
from histo_nb.scanning.deidentify import check_nameless, deidentify
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.identity import show_identity, tag
from histo_nb.scanning.intake import IntakeSpec, receive
from histo_nb.scanning.virtual.scanner import write_scan

PERSON = "MUSTERMANN^MARIA"
BARCODE = "HN-2026-777123"


@pytest.fixture
def named(home, tmp_path):
    """A slide whose file name, description and barcode name its patient."""
    path = tmp_path / f"{PERSON}.svs"
    write_scan(PlaneGlass(waves(900, 700), patient_id="P1"), path, spec=ScanSpec())
    content = path.read_bytes()
    old = b"|Filename = virtual"
    assert content.count(old) == 3
    path.write_bytes(content.replace(old, f"|Name={PERSON}"[: len(old)].encode().ljust(len(old))))
    return receive(path, home, barcode=BARCODE).slide_id


def test_a_tag_stands_for_a_barcode_and_does_not_tell_it(home, tmp_path):
    assert tag(home, BARCODE) == tag(home, BARCODE) != tag(home, BARCODE + "1")
    assert tag(open_home(tmp_path / "other"), BARCODE) != tag(home, BARCODE)
    assert (home.identity / "key").stat().st_mode & 0o077 == 0
    assert len(tag(home, b"caf\xe9".decode("utf-8", "surrogateescape"))) == 12


def test_identity_is_shown_on_request_and_that_is_noted(home, named, tmp_path):
    shown = show_identity(home, named, tmp_path / "out")
    assert shown["file_name"] == f"{PERSON}.svs"
    assert shown["barcode"] == BARCODE
    assert {Path(p).stem for p in shown["images"]} == {"label", "macro", "thumbnail"}
    with Image.open(tmp_path / "out" / "label.png") as label, openslide.OpenSlide(
        home.catalog.slide(named)["slide_path"]
    ) as slide:  # fmt: skip
        assert np.array_equal(label, slide.associated_images["label"].convert("RGB"))
    event = home.catalog.events().iloc[0]
    assert (event.what, event.subject) == ("identity shown", named)
    assert event.who
    with pytest.raises(CatalogError, match="histo-nb slides"):
        show_identity(home, "S-0", tmp_path / "out")


def test_names_stand_nowhere_but_in_the_identity_store_and_the_scan_itself(home, named):
    home.catalog.engine.dispose()
    scan = Path(home.catalog.slide(named)["slide_path"])
    words = [w.encode() for w in (PERSON[:12], BARCODE)]
    found = {
        file
        for file in home.root.rglob("*")
        if file.is_file() and any(word in file.read_bytes() for word in words)
    }
    assert {f for f in found if home.identity not in f.parents} == {scan}
    assert len(found) == 3  # its facts and properties


def test_a_copy_names_nobody_and_has_the_same_pixels(home, named, tmp_path):
    copy = deidentify(named, home, tmp_path / "copy.svs")
    content = copy.read_bytes()
    for word in (PERSON[:12], BARCODE, "virtual", "label", "macro"):
        for code in ("utf-8", "utf-16-le", "utf-16-be"):
            assert word.encode(code) not in content, word
    with (
        openslide.OpenSlide(copy) as after,
        openslide.OpenSlide(home.catalog.slide(named)["slide_path"]) as before,
    ):
        assert not after.associated_images
        assert after.level_dimensions == before.level_dimensions
        assert after.properties["openslide.mpp-x"] == "0.5"
        assert after.properties["openslide.objective-power"] == "20"
        for level, size in enumerate(after.level_dimensions):
            pair = [np.asarray(s.read_region((0, 0), level, size)) for s in (before, after)]
            assert np.array_equal(*pair)
        said = {key for key in after.properties if key.startswith("aperio.")}
        assert said == {"aperio.AppMag", "aperio.MPP"}


def test_a_copy_that_would_hold_a_name_is_not_kept(home, named, tmp_path, monkeypatch):
    def careless(source: Path, target: Path, **_: object) -> None:
        target.write_bytes(b"." * 100 + BARCODE.encode() + b"." * 100)

    monkeypatch.setattr("histo_nb.scanning.deidentify.copy_pyramid", careless)
    with pytest.raises(SlideError, match="name or barcode"):
        deidentify(named, home, tmp_path / "copy.svs")
    assert not (tmp_path / "copy.svs").exists()


def test_a_word_on_the_border_of_two_chunks_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("histo_nb.scanning.deidentify.SEARCH_CHUNK", 32)
    path = tmp_path / "file"
    for shift in range(20, 40):
        path.write_bytes(b"x" * shift + BARCODE.encode("utf-16-le") + b"x" * 30)
        with pytest.raises(SlideError):
            check_nameless([path], [BARCODE])
    path.write_bytes(b"x" * 100)
    check_nameless([path], [BARCODE])
    check_nameless([path], [])


@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("real/CMU-1-Small-Region.svs", None),
        ("real/TCGA-CR-7395-01A-01-TS1.svs", 0.25),
    ],
)
def test_real_slides_lose_their_names_and_no_pixel(home, data, tmp_path, name, mpp):
    slide_id = receive(data / "slides" / name, home, spec=IntakeSpec(slide_mpp=mpp)).slide_id
    copy = deidentify(slide_id, home, tmp_path / "copy.svs")
    with (
        openslide.OpenSlide(copy) as after,
        openslide.OpenSlide(data / "slides" / name) as before,
    ):
        assert not after.associated_images
        secret = {"Filename", "User", "Date", "Time", "ScanScope ID", "Title", "Parmset"}
        assert not secret & {key.removeprefix("aperio.") for key in after.properties}
        for level, size in enumerate(after.level_dimensions):
            pair = [np.asarray(s.read_region((0, 0), level, size)) for s in (before, after)]
            assert np.array_equal(*pair)
        assert after.color_profile is None or before.color_profile is not None

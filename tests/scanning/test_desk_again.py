"""What a review of the desk found once: each stays found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicoms import write_instance
from glasses import PlaneGlass, waves

from histo_nb.errors import CatalogError, SlideError, SpecError, StorageError
from histo_nb.files import hash_file, publish
from histo_nb.home import Home
from histo_nb.scanning import hotfolder, intake
from histo_nb.scanning.console import ScannerConsole
from histo_nb.scanning.deidentify import deidentify
from histo_nb.scanning.dicom.instance import read_instance
from histo_nb.scanning.drivers import Scan, ScanSpec
from histo_nb.scanning.hotfolder import HotFolder, HotFolderSpec
from histo_nb.scanning.identity import identity_words, show_identity
from histo_nb.scanning.intake import IntakeSpec, receive, release, take_in
from histo_nb.scanning.structure.check import check_structure
from histo_nb.scanning.verify import verify_slides
from histo_nb.scanning.virtual.scanner import VirtualScanner, write_scan


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return make_scan(tmp_path / "a.svs", phase=0)


def make_scan(path: Path, *, phase: int) -> Path:
    return write_scan(PlaneGlass(waves(640, 480, phase=phase)), path, spec=ScanSpec())


def without_mpp(path: Path) -> Path:
    path.write_bytes(path.read_bytes().replace(b"|MPP = ", b"|XPP = "))
    return path


def image(seed: int, side: int = 600) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (side, side, 3), np.uint8)


# --------------------------------------------------------------------------- whose slide it is
def test_a_nameless_copy_of_a_one_file_dicom_slide_holds_that_slide_alone(home, tmp_path):
    ids = []
    for seed in (1, 2):
        folder = tmp_path / f"in{seed}"
        folder.mkdir()
        write_instance(folder / "x.dcm", image(seed, 500 + 100 * seed))
        ids.append(receive(folder, home).slide_id)
    assert len(set(ids)) == 2
    (copy,) = deidentify(ids[0], home, tmp_path / "copy").iterdir()
    assert read_instance(copy).size == (600, 600)
    assert not list(home.slides.glob("*.dcm")), "each series in a folder of its own"


def test_a_copy_overwrites_nothing(home, scan, tmp_path):
    slide_id = receive(scan, home).slide_id
    target = tmp_path / "kept.svs"
    target.write_bytes(b"precious")
    with pytest.raises(StorageError, match="exists already"):
        deidentify(slide_id, home, target)
    assert target.read_bytes() == b"precious"
    assert deidentify(slide_id, home, tmp_path / "new" / "folder" / "c.svs").is_file()


def test_identity_cannot_be_copied_over_a_file(home, scan):
    slide_id = receive(scan, home).slide_id
    with pytest.raises(StorageError):
        show_identity(home, slide_id, scan)
    assert "identity shown" not in set(home.catalog.events().what)


def test_a_released_slide_keeps_its_barcode(home, scan):
    refused = receive(without_mpp(scan), home, barcode="HN-2026-SECRET").quarantine_id
    assert release(refused, home).slide_id is None, "refused again"
    slide_id = release(refused, home, spec=IntakeSpec(slide_mpp=0.5)).slide_id
    assert "HN-2026-SECRET" in identity_words(home, slide_id)


def test_a_disk_that_refuses_the_scan_tells_no_barcode(home):
    glass = PlaneGlass(waves(600, 500))

    class FullDisk(VirtualScanner):
        def scan_slot(self, slot: int, folder: Path, **how: object) -> Scan:
            raise StorageError(
                f"cannot write {folder / glass.barcode}.svs: the disk is full; free some space"
            )

    console = ScannerConsole(FullDisk([glass]), home)
    with pytest.raises(StorageError, match="the scan of slot 1: the disk is full"):
        console.run()
    assert glass.barcode not in str(console.reason)
    assert glass.barcode not in str(home.catalog.events().detail.tolist())


# ------------------------------------------------------------------------------ nothing is lost
def test_a_file_replaced_while_it_is_examined_is_taken_as_well(home, tmp_path, monkeypatch):
    drop = tmp_path / "drop"
    drop.mkdir()
    path, other = make_scan(drop / "a.svs", phase=1), make_scan(tmp_path / "b.svs", phase=2)
    probe = intake.probe_slide

    def slow(*given: object, **more: object) -> object:
        if other.exists():
            other.replace(path)
        return probe(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(intake, "probe_slide", slow)
    hot = HotFolder(drop, home, spec=HotFolderSpec(quiet_s=0))
    for _ in range(4):
        list(hot.poll())
    assert len(home.catalog.slides()) == 2


def test_a_refused_slide_is_never_deleted_before_it_is_there_again(home, scan, monkeypatch):
    refused = receive(without_mpp(scan), home).quarantine_id
    kept = next(p for p in (home.quarantine / refused).iterdir() if p.suffix == ".svs")
    inode = kept.stat().st_ino
    assert release(refused, home).quarantine_id == refused
    assert kept.stat().st_ino == inode, "the only copy was not moved"


def test_publish_sets_the_old_aside_before_it_deletes(tmp_path, monkeypatch):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    monkeypatch.setattr("histo_nb.files.shutil.rmtree", lambda *_, **__: None)  # killed here
    publish(tmp_path / "new", tmp_path / "old")
    texts = sorted(p.read_text() for p in tmp_path.glob("*/file"))
    assert texts == ["new", "old"]


def test_a_stored_slide_that_is_gone_is_brought_back_by_the_same_bytes(home, scan):
    slide_id = receive(scan, home).slide_id
    stored = Path(home.catalog.slide(slide_id)["slide_path"])
    stored.unlink()
    assert len(verify_slides(home)[1]) == 1
    again = receive(scan, home)
    assert (again.slide_id, again.new) == (slide_id, False)
    assert hash_file(stored) == hash_file(scan)
    assert verify_slides(home)[1].empty
    assert home.catalog.damaged_files().empty


def test_two_slides_whose_names_would_be_the_same_are_two(home, scan, tmp_path, monkeypatch):
    first = receive(scan, home).slide_id
    other = make_scan(tmp_path / "b.svs", phase=3)
    real = intake._Job.sha256
    monkeypatch.setattr(
        intake._Job, "sha256", property(lambda job: first[2:12] + real.fget(job)[10:])
    )
    second = receive(other, home).slide_id
    assert second != first
    assert second.startswith(first)
    paths = [Path(p) for p in home.catalog.slides().slide_path]
    assert {hash_file(path) for path in paths} == {hash_file(scan), hash_file(other)}


# ------------------------------------------------------------------------- the watcher goes on
def test_a_list_with_a_name_too_long_harms_nobody(home, tmp_path):
    drop = tmp_path / "drop"
    (drop / "bad").mkdir(parents=True)
    (drop / "bad.mrxs").write_bytes(b"x")
    (drop / "bad" / "Slidedat.ini").write_text("[DATAFILE]\nFILE_0 = " + "n" * 300)
    make_scan(drop / "good.svs", phase=4)
    hot = HotFolder(drop, home, spec=HotFolderSpec(quiet_s=0))
    for _ in range(3):
        list(hot.poll())
    assert len(home.catalog.slides()) == 1
    rows, refused = take_in([Path("n" * 300 + ".svs"), drop / "good.svs"], home)
    assert (len(rows), len(refused)) == (1, 1)


def test_the_watcher_outlives_a_catalogue_that_is_away(home, tmp_path, monkeypatch):
    drop = tmp_path / "drop"
    make_scan(drop / "a.svs", phase=5)
    hot = HotFolder(drop, home, spec=HotFolderSpec(quiet_s=0))
    list(hot.poll())
    with monkeypatch.context() as away:

        def fail(*_: object) -> None:
            raise CatalogError("away")

        away.setattr(type(home.catalog), "find_arrival", fail)
        away.setattr(type(home.catalog), "put_waiting", fail)
        hot._candidates.clear()
        assert list(hot.poll()) == []
    for _ in range(2):
        list(hot.poll())
    assert len(home.catalog.slides()) == 1
    assert "hot folder goes on" in set(home.catalog.events().what)


def test_a_slide_the_catalogue_does_not_take_is_not_hashed_at_every_look(
    home, tmp_path, monkeypatch
):
    drop = tmp_path / "drop"
    path = make_scan(drop / "a.svs", phase=6)
    slide_id = receive(path, home).slide_id
    home.catalog.correct(slide_id, patient_id="P9")
    os.utime(path, (1, 1))
    calls: list[Path] = []
    real = receive
    monkeypatch.setattr(
        hotfolder, "receive", lambda p, *a, **k: (calls.append(p), real(p, *a, **k))[1]
    )
    spec = HotFolderSpec(quiet_s=0, slide=IntakeSpec(patient_id="P1", source="hot folder"))
    hot = HotFolder(drop, home, spec=spec)
    for _ in range(6):
        list(hot.poll())
    assert len(calls) == 1


def test_a_checksum_of_one_file_tells_nothing_of_a_series(home, tmp_path):
    drop = tmp_path / "drop"
    drop.mkdir()
    uids = {"SeriesInstanceUID": "1.2.3.4"}
    small = write_instance(drop / "b.dcm", image(1, 300), **uids)
    (drop / "b.dcm.sha256").write_text(hash_file(small))
    content = write_instance(tmp_path / "c.dcm", image(2, 1200), **uids).read_bytes()
    (drop / "a.dcm").write_bytes(content[: len(content) // 2])
    hot = HotFolder(drop, home, spec=HotFolderSpec(quiet_s=0))
    for _ in range(3):
        assert list(hot.poll()) == []
    assert home.catalog.refusals().empty


# --------------------------------------------------------------------------------- hostile ways
def test_a_dicom_file_that_claims_a_billion_frames_takes_no_memory(tmp_path):
    path = write_instance(tmp_path / "a.dcm", image(3), NumberOfFrames=2_000_000_000)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30,) * 2)\n"
        "from pathlib import Path\n"
        "from histo_nb.errors import SlideError\n"
        "from histo_nb.scanning.structure.check import check_structure\n"
        "try:\n    check_structure(Path(sys.argv[1]))\n"
        "except SlideError as error:\n    print(error)\n"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    child = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True,
                           check=True, env=environment)  # fmt: skip
    assert "2,000,000,000 frames" in child.stdout
    with pytest.raises(SlideError, match="frames"):
        check_structure(path)


def test_a_module_beside_the_slides_is_not_imported(home, scan, tmp_path, monkeypatch):
    (tmp_path / "openslide.py").write_text("raise SystemExit('run by the desk')")
    monkeypatch.chdir(tmp_path)
    assert receive(scan, home).slide_id


def test_options_that_are_wrong_put_no_slide_into_quarantine(home, scan):
    with pytest.raises(SlideError, match="50"):
        take_in([scan], home, spec=IntakeSpec(slide_mpp=50))
    assert home.catalog.refusals().empty
    with pytest.raises(SpecError, match="older_than_days"):
        verify_slides(home, older_than_days=1e9)
    with pytest.raises(SpecError, match="quiet_s"):
        HotFolderSpec(quiet_s=float("nan"))
    with pytest.raises(SpecError, match="holds the home itself"):
        HotFolder(home.root.parent, home)


def test_what_is_unknown_is_none_whatever_stands_beside_it(home: Home) -> None:
    rows = {"rack_id": "R", "slide_tag": None, "state": "done", "attempts": 1, "slide_id": None}
    for slot, reason in ((1, None), (2, "why")):
        home.catalog.put_scan({**rows, "slot": slot, "reason": reason})
    assert home.catalog.scans().reason.tolist() == [None, "why"]
    assert json.dumps(home.catalog.scans().slot.tolist()) == "[1, 2]"

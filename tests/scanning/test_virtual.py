"""The virtual scanner: optics that err, strips that join, files that grow, faults on demand."""

import io
import threading
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
from glasses import PlaneGlass, bare, waves
from PIL import Image, ImageCms

from histo_nb.errors import ScannerError, SpecError
from histo_nb.files import hash_file
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.virtual import stitching
from histo_nb.scanning.virtual.drawn import DrawnSpec, draw_glass
from histo_nb.scanning.virtual.glass import Bump
from histo_nb.scanning.virtual.label import decode_label, patient_name, take_label
from histo_nb.scanning.virtual.optics import JITTER_PX, OVERLAP_PX, STRIP_PX, Camera
from histo_nb.scanning.virtual.scanner import Fault, VirtualScanner, write_scan
from histo_nb.slide import Slide

WIDTH, HEIGHT = 1500, 5 * STRIP_PX


@pytest.fixture(scope="module")
def glass() -> PlaneGlass:
    return PlaneGlass(waves(WIDTH, HEIGHT))


def scan(glass: PlaneGlass, path: Path, **how: object) -> np.ndarray:
    with Slide(write_scan(glass, path, spec=ScanSpec(), **how)) as slide:  # type: ignore[arg-type]
        return slide.read_region(0, 0, level=0, size=slide.size).astype(int)


# ---------------------------------------------------------------------------- stage and seams
def test_the_stage_misses_its_places_and_stitching_finds_them(tmp_path, monkeypatch):
    coarse = np.random.default_rng(0).integers(40, 220, (HEIGHT // 8, 150, 3), np.uint8)
    glass = PlaneGlass(cv2.resize(coarse, (1200, HEIGHT), interpolation=cv2.INTER_LINEAR))
    camera = Camera(glass, mpp=0.5, seed=4)
    missed = [camera.jitter(number) for number in range(5)]
    assert missed[0] == (0, 0)
    assert len(set(missed)) > 2
    assert np.abs(missed).max() <= JITTER_PX
    found = np.abs(scan(glass, tmp_path / "a.svs", seed=4) - glass.plane)
    assert np.percentile(found, 99.9) <= 8, "JPEG and noise; every row counts"
    monkeypatch.setattr(stitching, "_find_shift", lambda above, below: None)
    unstitched = np.abs(scan(glass, tmp_path / "b.svs", seed=4) - glass.plane)
    assert np.percentile(unstitched, 99.9) > 20, "a strip out of place would show"


def test_strips_of_bare_glass_lie_where_the_stage_is(tmp_path):
    seen = scan(PlaneGlass(bare(600, 2 * STRIP_PX)), tmp_path / "bare.svs")
    assert np.abs(seen - bare(600, 2 * STRIP_PX)).max() <= 4


@pytest.mark.parametrize("size", [(1, 1), (40, 30), (257, 255), (300, STRIP_PX + OVERLAP_PX)])
def test_scans_of_any_size_are_whole(tmp_path, size):
    seen = scan(PlaneGlass(waves(*size)), tmp_path / "a.svs")
    assert seen.shape == (size[1], size[0], 3)


# ------------------------------------------------------------------------------------- light
def test_the_field_is_darker_at_its_rim_and_made_even(glass):
    camera = Camera(glass, mpp=0.5, seed=1)
    assert camera._light.min() < 0.86
    white = np.full((len(camera._light), 700, 3), 200, np.uint8)
    rows = camera.expose(1, white).mean(axis=(1, 2))
    assert np.abs(rows - 200).max() < 0.6


def test_noise_is_of_the_sensor_and_follows_the_seed(glass):
    white = np.full((len(Camera(glass, mpp=0.5, seed=1)._light), 700, 3), 200, np.uint8)
    first, same, other = (
        Camera(glass, mpp=0.5, seed=seed).expose(1, white).astype(int) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, same)
    assert 0.3 < first.std() < 1.2
    assert not np.array_equal(first, other)


# ------------------------------------------------------------------------------------- focus
def sharpness(view: np.ndarray) -> float:
    return float(cv2.Laplacian(view.astype(np.uint8), cv2.CV_32F).std())


def test_what_stands_up_between_focus_points_is_blurred_and_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    glass = PlaneGlass(rng.integers(0, 255, (1800, 3000, 3), np.uint8).repeat(2, 0).repeat(2, 1))
    flat = scan(glass, tmp_path / "flat.svs")
    glass.bumps = [Bump(1500, 900, 300, 9)]
    bumpy = scan(glass, tmp_path / "bumpy.svs")
    middle, away = np.s_[1600:2000, 2800:3200], np.s_[:, :1600]
    assert sharpness(bumpy[middle]) < 0.2 * sharpness(flat[middle])
    assert np.abs(bumpy[away] - flat[away]).max() <= 2
    edge = bumpy[1600:2000, 3000 : 3000 + 800].reshape(400, 20, 40, 3).std(axis=(0, 2, 3))
    assert (np.diff(edge) > -6).all(), "it grows sharper outwards, without a step"


def test_a_slide_that_lies_askew_is_in_focus_and_a_heap_is_not(glass):
    Camera(glass, mpp=0.5, seed=3)
    heap = PlaneGlass(waves(600, 500))
    rng = np.random.default_rng(0)
    heap.bumps = [Bump(*place, 60, h) for place, h in zip(
        rng.uniform(0, 1, (40, 2)) * heap.size_um, rng.uniform(-90, 90, 40), strict=True
    )]  # fmt: skip
    with pytest.raises(ScannerError, match="no focal plane") as told:
        Camera(heap, mpp=0.5, seed=3)
    assert told.value.fault == "focus"


# ------------------------------------------------------------------------------------ the file
def test_the_same_glass_and_seed_give_the_same_bytes(tmp_path):
    drawn = draw_glass("P1", diagnosis="normal", seed=1, spec=DrawnSpec(size_um=(1500, 1300)))
    first, same, other = (
        write_scan(drawn, tmp_path / f"{i}.svs", spec=ScanSpec(), seed=seed)
        for i, seed in enumerate((1, 1, 2))
    )
    assert hash_file(first) == hash_file(same) != hash_file(other)


def test_colours_are_those_of_srgb(glass, tmp_path):
    path = write_scan(glass, tmp_path / "a.svs", spec=ScanSpec())
    with openslide.OpenSlide(path) as slide:
        profile = ImageCms.getProfileName(slide.color_profile)
        assert "srgb" in profile.lower()
        assert slide.associated_images["macro"].size == (1200, 400)
    with Image.open(path) as level:
        dated = io.BytesIO(level.info["icc_profile"]).getvalue()[24:28]
    assert dated == bytes([2000 >> 8, 2000 & 255, 0, 1])


@pytest.mark.parametrize("in_place", [False, True])
def test_the_file_grows_while_the_slide_is_scanned(glass, tmp_path, in_place):
    path = tmp_path / "a.svs"
    seen: list[tuple[bool, int]] = []

    def look(share: float) -> None:
        files = [f.stat().st_size for f in tmp_path.iterdir()]
        seen.append((path.exists(), max(files, default=0)))

    write_scan(glass, path, spec=ScanSpec(in_place=in_place), progress=look)
    assert [there for there, _ in seen][-1] == in_place, "renamed at the end, unless in place"
    assert 0 < seen[-1][1] < path.stat().st_size
    assert list(tmp_path.iterdir()) == [path]


# --------------------------------------------------------------------------- label and barcode
def test_a_label_carries_a_code_that_a_camera_reads():
    glasses = [PlaneGlass(waves(60, 50), patient_id=f"P{i}") for i in range(30)]
    labels = [take_label(glass) for glass in glasses]
    assert [decode_label(label) for label in labels] == [glass.barcode for glass in glasses]
    assert len({glass.barcode for glass in glasses}) == 30
    assert len({patient_name(glass) for glass in glasses}) > 1
    with pytest.raises(ScannerError) as told:
        decode_label(np.full_like(labels[0], 250))
    assert told.value.fault == "barcode"


# -------------------------------------------------------------------------------------- faults
def run(scanner: VirtualScanner, folder: Path, slot: int = 1) -> str:
    """Scan a slot once; return what came of it."""
    try:
        scanner.scan_slot(slot, folder, spec=ScanSpec(), progress=lambda _: None)
    except ScannerError as error:
        return error.fault
    return "done"


@pytest.mark.parametrize(("kind", "stays"), [("jam", True), ("connection", True), ("focus", False)])
def test_faults_come_as_told_and_the_machine_waits_for_help(tmp_path, kind, stays):
    scanner = VirtualScanner([PlaneGlass(waves(300, 600))] * 2, faults=[Fault(1, kind, 2)])
    assert run(scanner, tmp_path) == kind
    assert run(scanner, tmp_path, 2) == (kind if stays else "done")
    scanner.recover()
    assert run(scanner, tmp_path, 2) == "done"
    assert run(scanner, tmp_path) == kind
    scanner.recover()
    assert run(scanner, tmp_path) == "done"


def test_a_connection_is_lost_in_the_middle_of_the_scan(tmp_path, glass):
    shares: list[float] = []
    scanner = VirtualScanner([glass], faults=[Fault(1, "connection", at=0.5)])
    with pytest.raises(ScannerError, match="connection"):
        scanner.scan_slot(1, tmp_path, spec=ScanSpec(), progress=shares.append)
    assert 0.5 <= shares[-1] < 0.8
    assert list(tmp_path.iterdir()) == []


def test_a_scan_is_aborted_from_another_thread(tmp_path, glass):
    scanner = VirtualScanner([glass])

    def abort(share: float) -> None:
        if share > 0.3:
            thread = threading.Thread(target=scanner.abort)
            thread.start()
            thread.join()

    with pytest.raises(ScannerError) as told:
        scanner.scan_slot(1, tmp_path, spec=ScanSpec(), progress=abort)
    assert told.value.fault == "aborted"
    assert list(tmp_path.iterdir()) == []
    assert run(scanner, tmp_path) == "done"


def test_an_unknown_fault_is_named():
    with pytest.raises(SpecError, match="choose one of"):
        Fault(1, "fire")  # type: ignore[arg-type]

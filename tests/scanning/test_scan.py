"""The virtual scanner and laid glass: what lies on the glass stands in the file."""

from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import shapely
from glasses import PlaneGlass, bare, waves
from PIL import Image

from histo_nb.annotations import Annotation, read_geojson
from histo_nb.errors import DatasetError, SpecError
from histo_nb.scanning.console import scan_rack
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.virtual.glass import GLASS_RGB, Glass
from histo_nb.scanning.virtual.laid import LaidGlass, LaySpec, lay_glasses, read_labelled_images
from histo_nb.scanning.virtual.rack import RackSpec, fill_rack
from histo_nb.scanning.virtual.scanner import write_scan
from histo_nb.slide import Slide

WIDTH, HEIGHT = 1300, 900


@pytest.fixture(scope="module")
def plane() -> np.ndarray:
    return waves(WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def scan(plane, tmp_path_factory) -> Path:
    return write_scan(PlaneGlass(plane), tmp_path_factory.mktemp("scan") / "a.svs", spec=ScanSpec())


def test_a_scan_states_what_a_scanner_states(scan):
    with openslide.OpenSlide(scan) as slide:
        said = slide.properties
        assert said["openslide.vendor"] == "aperio"
        assert float(said["openslide.mpp-x"]) == float(said["openslide.mpp-y"]) == 0.5
        assert said["openslide.objective-power"] == "20"
        assert slide.level_dimensions == ((1300, 900), (325, 225), (82, 57))
        assert slide.level_downsamples == pytest.approx([1, 4, 16], rel=0.02)
        assert set(slide.associated_images) == {"label", "macro", "thumbnail"}
        assert slide.associated_images["label"].size == (400, 400)


@pytest.mark.parametrize(("level", "tolerance"), [(0, 4), (1, 9), (2, 20)])
def test_each_level_is_the_area_mean_of_the_glass(scan, plane, level, tolerance):
    with Slide(scan) as slide:
        read = slide.read_region(0, 0, level=level, size=slide.level_sizes[level]).astype(int)
    step = 4**level
    padded = np.pad(plane, ((0, -HEIGHT % step), (0, -WIDTH % step), (0, 0)), mode="edge")
    seen = cv2.resize(padded, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    difference = np.abs(read - seen)
    assert np.percentile(difference, 99) <= tolerance  # JPEG; the waves grow steep
    shifted = np.abs(read - np.roll(seen, 1, axis=1))[:, 1:]
    assert difference.mean() < min(4, shifted.mean()), "one pixel aside would show"


def test_a_rack_is_filed_once_with_its_truth(home, plane):
    outline = shapely.box(50, 40, 300, 200)
    rack: list[Glass] = [
        PlaneGlass(plane, patient_id="A/1", truth=(Annotation(outline, "adenoma"),)),
        PlaneGlass(waves(600, 500), patient_id="B"),
        PlaneGlass(waves(600, 500, phase=1), patient_id="B"),  # two slides of one patient
    ]
    first, second = scan_rack(rack, home), scan_rack(rack, home)
    assert first.patient_id.tolist() == ["A/1", "B", "B"]
    assert first.slide_id.is_unique
    assert second.slide_id.tolist() == first.slide_id.tolist()
    assert len(home.catalog.slides()) == 3
    assert first[["width", "height", "slide_mpp"]].iloc[0].tolist() == [WIDTH, HEIGHT, 0.5]
    (truth,) = read_geojson(Path(first.truth_path[0]))
    assert truth.label == "adenoma"
    assert truth.outline.bounds == (100, 80, 600, 400)  # µm → px of 0.5 µm
    files = {path.name for path in home.slides.iterdir()}
    assert files == {Path(path).name for path in first.slide_path}, "nothing else is left behind"


def test_the_same_bytes_scanned_side_by_side_are_one_slide(home):
    twins: list[Glass] = [PlaneGlass(waves(600, 500)) for _ in range(4)]
    rows = scan_rack(twins, home)
    assert rows.slide_id.nunique() == len(home.catalog.slides()) == 1
    assert Path(rows.slide_path[0]).is_file()


@pytest.fixture
def images(tmp_path) -> Path:
    """Six images of dark tissue in three classes; file names repeat between the classes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    for label in ("normal", "adenoma", "carcinoma"):
        (folder / label).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(90, 150, (640, 700, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def check_truth(glass: LaidGlass, *, mpp: float = 0.5) -> None:
    """The truth lies on tissue; glass is around it and between its parts."""
    width, height = (round(extent / mpp) for extent in glass.size_um)
    seen = glass.look(0, 0, size=(width, height), mpp=mpp)
    inside = np.zeros((height, width), np.uint8)
    near = np.zeros((height, width), np.uint8)
    for a in glass.truth():
        outline = np.round(shapely.get_coordinates(a.outline) / mpp).astype(np.int32)
        cv2.fillPoly(inside, [outline], 1)
        wide = shapely.get_coordinates(a.outline.buffer(130)) / mpp
        cv2.fillPoly(near, [np.round(wide).astype(np.int32)], 1)
    bare_glass = (seen == GLASS_RGB).all(axis=2)
    assert inside.mean() > 0.05
    assert bare_glass[inside == 1].mean() < 0.001
    assert bare_glass[near == 0].all()
    parts = [a.outline for a in glass.truth()]
    for i, part in enumerate(parts):
        assert all(part.distance(other) > 300 for other in parts[:i])


def test_each_image_of_a_class_folder_is_a_patient(images):
    listed = read_labelled_images(images)
    assert listed.patient_id.nunique() == len(listed) == 6
    glasses = fill_rack(RackSpec(glass_images=str(images)))
    assert [len(glass.truth()) for glass in glasses] == [1] * 6
    assert sorted(glass.diagnosis for glass in glasses)[::2] == ["adenoma", "carcinoma", "normal"]
    check_truth(glasses[0])


def test_a_manifest_puts_a_patients_classes_on_one_glass(images):
    rows = ["file,class,patient"]
    rows += [f"{label}/{n}.png,{label},7" for label in ("normal", "adenoma") for n in (0, 1)]
    (images / "manifest.csv").write_text("\n".join([*rows, "carcinoma/0.png,carcinoma,8"]))
    first, second = lay_glasses(read_labelled_images(images))
    assert [a.label for a in first.truth()] == ["normal", "adenoma"]
    assert (first.patient_id, first.diagnosis, second.diagnosis) == ("7", "adenoma", "carcinoma")
    check_truth(first)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("file,patient\nnormal/0.png,1", "no column label"),
        ("file,label,patient\nnormal/9.png,normal,1", "missing images"),
        ("file,label,patient\nnormal/0.png,normal,1\nnormal/1.png,normal,", "line 3"),
        ("file,label,patient\nnormal/0.png,,1", "line 2"),
        ("file,label,patient\n", "no labelled images"),
        ("", "manifest.csv is no table"),
        ("a,b\n1,2,3\n4,5,6,7", "manifest.csv is no table"),
    ],
)
def test_a_bad_manifest_is_named(images, manifest, said):
    (images / "manifest.csv").write_text(manifest)
    with pytest.raises(DatasetError, match=said):
        read_labelled_images(images)


def test_folders_that_cannot_be_laid_are_named(images, tmp_path):
    (tmp_path / "empty" / "normal").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no labelled images"):
        fill_rack(RackSpec(glass_images=str(tmp_path / "empty")))
    with pytest.raises(DatasetError, match="is no folder"):
        fill_rack(RackSpec(glass_images=str(tmp_path / "nowhere")))
    with pytest.raises(SpecError, match=r"\['carcinoma'\]"):
        fill_rack(RackSpec(glass_images=str(images), severity=("normal", "adenoma")))


@pytest.mark.parametrize("cut", [0, 40, 5000])
def test_an_image_that_does_not_open_is_named(images, cut):
    broken = images / "normal" / "1.png"
    broken.write_bytes(broken.read_bytes()[:cut])
    with pytest.raises(DatasetError, match=r"normal/1\.png does not open"):
        fill_rack(RackSpec(glass_images=str(images)))


@pytest.mark.parametrize("side", [1, 8, 40])
def test_images_too_small_to_lay_are_named(images, side):
    path = images / "normal" / "0.png"
    Image.fromarray(bare(side, side)).save(path)
    listed = read_labelled_images(images)
    with pytest.raises(DatasetError, match="larger ones"):
        lay_glasses(listed[listed.image_path == str(path)])


def test_laid_glass_is_seen_alike_in_strips(images):
    glass = fill_rack(RackSpec(glass_images=str(images)))[0]
    width, height = (round(extent / 0.5) for extent in glass.size_um)
    whole = glass.look(0, 0, size=(width, height), mpp=0.5)
    part = glass.look(300, 777, size=(500, 256), mpp=0.5)
    assert (part == whole[777 : 777 + 256, 300:800]).all()


def test_real_images_are_laid(data):
    listed = read_labelled_images(data / "glas")
    patients = listed.groupby("patient_id").size()
    assert len(patients) == 9
    fewest = listed[listed.patient_id == patients.idxmin()]
    (glass,) = lay_glasses(fewest, spec=LaySpec())
    check_truth(glass)

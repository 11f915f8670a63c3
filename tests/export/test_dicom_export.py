"""Results as DICOM: read back by our reader and by highdicom's, checked by other people's tools."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import pandas as pd
import pytest
import shapely
from analysed import add_slide, write_slide
from counts import count
from dicom_tools import (
    SIZE,
    add_dicom_slide,
    complaints,
    grid,
    needs_dciodvfy,
    needs_dsrdump,
    put_result,
    write_source,
)
from dicoms import BARCODE, FAMILY, NAME, UMLAUT, item, plant
from pydicom import DataElement, Dataset, dcmread, dcmwrite
from turbojpeg_there import needs_turbojpeg

from histo_nb.errors import CatalogError, SlideError, StorageError, TableError
from histo_nb.export.dicom.annotations import split
from histo_nb.export.dicom.job import open_job
from histo_nb.export.dicom.read import read_dicom_results
from histo_nb.export.dicom.segmentation import Grid
from histo_nb.export.dicom.source import find_source
from histo_nb.export.dicom.write import write_dicom_results
from histo_nb.reviews import Judgement, judge
from histo_nb.scanning.dicom.convert import to_dicom
from histo_nb.slide import Slide

NAMES = ["heatmap.dcm", "regions.dcm", "annotations.dcm", "report.dcm"]
HALF_STEP = 0.5 / 255 + 1e-6  # of eight bits
GRIDS = {
    "side by side": grid(columns=12, rows=9, size=64, x=32, y=16),
    "half over": grid(columns=24, rows=18, size=64, step=32, x=5, y=7),
    "a quarter over": grid(columns=12, rows=9, size=64, step=48, x=100, y=3),
    "apart": grid(columns=6, rows=5, size=64, step=100, x=9, y=20),
    "odd": grid(columns=12, rows=9, size=61, step=47, x=1, y=2),
    "one tile": grid(columns=1, rows=1, size=64, x=40, y=50),
    "wide": grid(columns=300, rows=2, size=4, step=2),  # of several frames
    "one row": grid(columns=9, rows=1, size=64, x=40, y=50),
}


def area(outline) -> float:
    return float(outline.area)


def of_class(result, label: str):
    return shapely.union_all([r.outline for r in result.regions if r.label == label])


def check_regions(found, result) -> None:
    """Each region is there, with its holes and parts, to the last pixel."""
    assert [r.label for r in found] == [r.label for r in result.regions]
    for mine, theirs in zip(found, result.regions, strict=True):
        assert area(shapely.symmetric_difference(mine.outline, theirs.outline)) == 0
        assert mine.measurements == pytest.approx(theirs.measurements, rel=1e-6)


def check_tiles(found: pd.DataFrame, result) -> None:
    names = ["x", "y", "size_l0", "prediction", *(f"prob_{c}" for c in result.classes)]
    expected = result.predictions.sort_values(["y", "x"], ignore_index=True)[names]
    pd.testing.assert_frame_equal(
        found[names], expected, check_dtype=False, rtol=1e-7, check_exact=False
    )


# ----------------------------------------------------------------------------- there and back
@pytest.mark.parametrize("kind", GRIDS)
def test_what_is_written_is_read_back(home, tmp_path, kind):
    slide_id = add_dicom_slide(home)
    result = put_result(home, slide_id, GRIDS[kind], seed=len(kind))
    paths = write_dicom_results(home, slide_id, tmp_path / "out")
    assert [path.name for path in paths] == NAMES
    read = read_dicom_results(tmp_path / "out")
    assert read.slide_id == slide_id
    check_regions(read.regions, result)
    check_tiles(read.tiles, result)
    for label, heatmap in read.heatmaps.items():
        for row in result.predictions.to_dict("records"):
            cell = (
                (row["y"] - heatmap.y) // heatmap.step,
                (row["x"] - heatmap.x) // heatmap.step,
            )
            assert heatmap.values[cell] == pytest.approx(row[f"prob_{label}"], abs=HALF_STEP)
        assert (heatmap.values > 0).sum() <= result.n_tiles


@pytest.mark.parametrize("kind", GRIDS)
def test_segmented_areas_are_the_regions_within_half_of_their_pixel(home, tmp_path, kind):
    slide_id = add_dicom_slide(home)
    result = put_result(home, slide_id, GRIDS[kind], seed=3)
    write_dicom_results(home, slide_id, tmp_path / "out")
    segmentation = hd.seg.segread(tmp_path / "out" / "regions.dcm")
    spacing = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    half_px = float(spacing[0]) / 0.0005 / 2
    read = read_dicom_results(tmp_path / "out")
    assert list(read.areas) == ["adenoma", "carcinoma"]
    for label, found in read.areas.items():
        true = of_class(result, label)
        if true.is_empty or found.is_empty:
            assert true.is_empty and found.is_empty
            continue
        if kind in ("odd", "apart"):
            assert shapely.hausdorff_distance(found.boundary, true.boundary) <= half_px * 1.42
        else:
            assert area(shapely.symmetric_difference(found, true)) == 0
    assert half_px * 2 >= 16 / 8  # of the level-0 px: never the full resolution


@pytest.mark.parametrize("name", ["heatmap", "regions"])
def test_highdicom_places_the_pixels_where_the_tiles_are(home, tmp_path, name):
    """By places on the glass, which our reader does not look at."""
    slide_id = add_dicom_slide(home)
    put_result(home, slide_id, GRIDS["a quarter over"])
    write_dicom_results(home, slide_id, tmp_path / "out")
    source = find_source(home.catalog.slide(slide_id)).level0
    made = hd.seg.segread(tmp_path / "out" / f"{name}.dcm")
    to_source = hd.spatial.ImageToImageTransformer.for_images(
        made, source, for_total_pixel_matrix_from=True, for_total_pixel_matrix_to=True
    )
    px = {"heatmap": 48, "regions": 16}[name]
    corners = np.array([[0, 0], [1, 0], [0, 2], [3, 5]], float)
    expected = corners * px + [100, 3]
    np.testing.assert_allclose(to_source(corners), expected, atol=0.01)


def test_region_with_holes_and_parts_is_cut_into_polygons_without(home, tmp_path):
    slide_id = add_dicom_slide(home)
    ring = {(1, 1), (2, 1), (3, 1), (1, 2), (3, 2), (1, 3), (2, 3), (3, 3), (4, 4), (5, 5)}
    places = grid(columns=8, rows=8, size=64)
    chosen = np.array([0 if (x // 64, y // 64) in ring else 2
                       for x, y in zip(places.x, places.y, strict=True)])  # fmt: skip
    result = put_result(home, slide_id, places, choose=lambda _: chosen)
    (region,) = result.regions
    assert region.outline.geom_type == "MultiPolygon"
    assert sum(len(p.interiors) for p in region.outline.geoms) == 1
    write_dicom_results(home, slide_id, tmp_path / "out")
    read = read_dicom_results(tmp_path / "out")
    check_regions(read.regions, result)
    assert area(shapely.symmetric_difference(read.areas["adenoma"], region.outline)) == 0
    group = hd.ann.annread(tmp_path / "out" / "annotations.dcm").get_annotation_groups()[0]
    rings = [shapely.Polygon(points) for points in group.get_graphic_data("2D")]
    assert len(rings) == 4 and all(r.is_valid for r in rings)
    assert sum(map(area, rings)) == area(region.outline)  # they do not lie on one another
    (listed,) = hd.sr.srread(
        tmp_path / "out" / "report.dcm"
    ).content.get_planar_roi_measurement_groups()
    assert shapely.Polygon(listed.roi.value).bounds == (64, 64, 256, 256)
    assert "holes in it: 1" in str(listed[0].ContentSequence[-1].TextValue)


def test_split_gives_a_chessboard_of_holes_up_exactly():
    board = shapely.box(0, 0, 41, 41)
    holes = [shapely.box(x, y, x + 1, y + 1) for x in range(1, 40, 2) for y in range(1, 40, 2)]
    outline = board.difference(shapely.union_all(holes))
    pieces = list(split(outline))
    assert not any(piece.interiors for piece in pieces)
    assert sum(map(area, pieces)) == area(outline)
    assert area(shapely.symmetric_difference(shapely.union_all(pieces), outline)) == 0


def test_no_abnormal_tile_gives_no_region_and_no_area(home, tmp_path):
    slide_id = add_dicom_slide(home)
    places = grid(columns=4, rows=3, size=64)
    put_result(home, slide_id, places, choose=lambda t: np.full(len(t), 2), slide_class="normal")
    write_dicom_results(home, slide_id, tmp_path / "out")
    read = read_dicom_results(tmp_path / "out")
    assert read.regions == [] and len(read.tiles) == 12
    assert all(outline.is_empty for outline in read.areas.values())
    assert read.report["slide_class"] == "normal"


def test_labels_of_any_script_come_back(home, tmp_path):
    slide_id = add_dicom_slide(home)
    classes = ["Plattenepithel\\karzinom", "腺癌", "normal"]
    put_result(home, slide_id, grid(columns=9, rows=5, size=64), classes=classes)
    write_dicom_results(home, slide_id, tmp_path / "out")
    read = read_dicom_results(tmp_path / "out")
    assert list(read.heatmaps) == ["Plattenepithel/karzinom", "腺癌", "normal"]
    assert {r.label for r in read.regions} == {"Plattenepithel/karzinom", "腺癌"}


# --------------------------------------------------------------------------------- the report
def test_report_says_what_the_model_said_and_is_not_verified(home, tmp_path):
    slide_id = add_dicom_slide(home)
    result = put_result(
        home, slide_id, GRIDS["side by side"], score=0.625, doubts=["The stain is unusual."]
    )
    write_dicom_results(home, slide_id, tmp_path / "out")
    said = read_dicom_results(tmp_path / "out").report
    assert said["slide_class"] == result.slide_class and said["gate_passed"] == "Yes"
    for name in ("abnormal_fraction", "confidence", "tissue_mm2", "n_tiles", "score"):
        assert said[name] == pytest.approx(getattr(result, name), abs=1e-8)
    assert said["model_id"] == "model-7" and not said["is_verified"]
    assert said["n_regions_listed"] == min(40, len(result.regions))
    assert "Research use only" in said["comments"][0]
    assert "Doubt: The stain is unusual." in said["comments"]
    document = dcmread(tmp_path / "out" / "report.dcm")
    assert document.VerificationFlag == "UNVERIFIED"
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert said["parameters"] == [f"weights_sha256={'ab' * 32}", f"runtime={result.runtime}"]


def test_signature_is_told_but_verifies_nothing(home, tmp_path):
    slide_id = add_dicom_slide(home)
    put_result(home, slide_id, GRIDS["one row"])
    signed = Judgement(slide_id=slide_id, kind="signature", verdict="signed", label="carcinoma",
                       note="spoke with Mrs Mustermann")  # fmt: skip
    judge(home, signed, reviewer="Ada Müller")
    write_dicom_results(home, slide_id, tmp_path / "out")
    said = read_dicom_results(tmp_path / "out").report
    assert said["signed_class"] == "carcinoma" and not said["is_verified"]
    (line,) = [text for text in said["comments"] if text.startswith("Signed")]
    assert "Ada Müller" in line and "carcinoma" in line
    assert b"Mustermann" not in (tmp_path / "out" / "report.dcm").read_bytes()


# ------------------------------------------------------------------------- the source and UIDs
def test_all_refer_to_the_levels_of_the_slide_and_not_to_its_label(home, tmp_path):
    slide_id = add_dicom_slide(home)
    put_result(home, slide_id, GRIDS["one row"])
    folder = home.slides / slide_id
    sources = {path.name: dcmread(path) for path in folder.glob("*.dcm")}
    first, second, label = (str(sources[n].SOPInstanceUID) for n in ("a.dcm", "b.dcm", "c.dcm"))
    for path in write_dicom_results(home, slide_id, tmp_path / "out"):
        made, text = dcmread(path), str(dcmread(path))
        assert made.StudyInstanceUID == sources["a.dcm"].StudyInstanceUID
        assert made.SeriesInstanceUID != sources["a.dcm"].SeriesInstanceUID
        assert made.PatientID == f"P-{slide_id}" and made.PatientName == ""
        assert first in text and label not in text
        assert (second in text) == (path.name != "annotations.dcm")  # their px are of level 0
    made = dcmread(tmp_path / "out" / "heatmap.dcm")
    assert made.FrameOfReferenceUID == sources["a.dcm"].FrameOfReferenceUID


def test_the_same_result_gives_the_same_bytes_and_another_one_other_uids(home, tmp_path):
    slide_id = add_dicom_slide(home)
    result = put_result(home, slide_id, GRIDS["half over"])
    once, again = (write_dicom_results(home, slide_id, tmp_path / n) for n in ("a", "b"))
    assert [p.read_bytes() for p in once] == [p.read_bytes() for p in again]
    uids = {str(dcmread(path).SOPInstanceUID) for path in once}
    assert len(uids) == 4
    put_result(home, slide_id, GRIDS["half over"], seed=9)
    other = write_dicom_results(home, slide_id, tmp_path / "c")
    assert uids.isdisjoint(str(dcmread(path).SOPInstanceUID) for path in other)
    assert result.slide_id == slide_id


def test_uids_follow_from_the_content_the_time_and_the_series(home):
    slide_id = add_dicom_slide(home)
    put_result(home, slide_id, GRIDS["one row"])
    job = open_job(home, slide_id, source=None)
    others = [replace(job, content_sha256="0" * 64), replace(job, made_at=datetime.now(UTC)),
              replace(job, source=replace(job.source, levels=job.source.levels[:1]))]  # fmt: skip
    assert len({each.uid("report") for each in (job, replace(job), *others)}) == 4


def test_report_has_another_uid_once_it_is_signed(home, tmp_path):
    slide_id = add_dicom_slide(home)
    put_result(home, slide_id, GRIDS["one row"])
    before = write_dicom_results(home, slide_id, tmp_path / "a")
    signed = Judgement(slide_id=slide_id, kind="signature", verdict="signed", label="adenoma")
    judge(home, signed, reviewer="Ada")
    after = write_dicom_results(home, slide_id, tmp_path / "b")
    same = [dcmread(a).SOPInstanceUID == dcmread(b).SOPInstanceUID
            for a, b in zip(before, after, strict=True)]  # fmt: skip
    assert same == [True, True, True, False]


def plain_slide(home, tmp_path: Path) -> str:
    return add_slide(home, write_slide(tmp_path / "a.svs", 1), "S-9", mask=False)


def test_slide_that_is_no_dicom_needs_a_source_that_shows_it(home, tmp_path):
    slide_id = plain_slide(home, tmp_path)
    put_result(home, slide_id, GRIDS["one row"])
    with pytest.raises(SlideError, match="to-dicom"):
        write_dicom_results(home, slide_id, tmp_path / "out")
    source = write_source(tmp_path / "source").parent
    write_dicom_results(home, slide_id, tmp_path / "out", source=source)
    assert read_dicom_results(tmp_path / "out").slide_id == slide_id
    smaller = write_source(tmp_path / "smaller", size=(SIZE[0] - 1, SIZE[1])).parent
    coarser = write_source(tmp_path / "coarser", mpp=0.51).parent
    for folder, words in ((smaller, "831 × 640 px where"), (coarser, "0.51 where|0.51 µm/px")):
        with pytest.raises(SlideError, match=words):
            write_dicom_results(home, slide_id, tmp_path / "no", source=folder)
    with pytest.raises(SlideError, match="0 DICOM series"):
        write_dicom_results(home, slide_id, tmp_path / "no", source=tmp_path / "nothing")
    assert not (tmp_path / "no").exists()


PLACES = ["ImageOrientationSlide", "TotalPixelMatrixOriginSequence", "FrameOfReferenceUID",
          "SpecimenDescriptionSequence"]  # fmt: skip


@pytest.mark.parametrize("keyword", PLACES)
def test_series_that_does_not_say_where_it_lies_is_refused(home, tmp_path, keyword):
    slide_id = add_dicom_slide(home)
    put_result(home, slide_id, GRIDS["one row"])
    for path in (home.slides / slide_id).glob("*.dcm"):
        dataset = dcmread(path)
        del dataset[keyword]
        dcmwrite(path, dataset)
    with pytest.raises(SlideError, match="does not say where"):
        write_dicom_results(home, slide_id, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_is_said(home, tmp_path):
    with pytest.raises(CatalogError):
        write_dicom_results(home, "S-0", tmp_path / "out")
    slide_id = add_dicom_slide(home)
    with pytest.raises(CatalogError, match="analyse"):
        write_dicom_results(home, slide_id, tmp_path / "out")
    put_result(home, slide_id, GRIDS["one row"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(StorageError, match="exists already"):
        write_dicom_results(home, slide_id, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    with pytest.raises(TableError, match="no results in DICOM"):
        read_dicom_results(tmp_path / "out")


# ------------------------------------------------------------------------------- who it shows


def hide(dataset: Dataset) -> None:
    """Write the name where no reader looks."""
    dataset.add_new(0x00210010, "LO", FAMILY)
    dataset.add_new(0x00211001, "UT", f"{NAME} {BARCODE}")
    dataset.add_new(0x00211002, "OB", NAME.encode("utf-16-le"))
    dataset.add_new(0x00211003, "UN", UMLAUT.encode("latin-1"))


def plant_all(path: Path) -> None:
    dataset = dcmread(path)
    for keyword in ("PatientComments", "InstitutionName", "InstitutionAddress", "OperatorsName",
                    "PerformingPhysicianName", "AccessionNumber", "StudyID", "StudyDescription",
                    "SeriesDescription", "ReferringPhysicianName", "StationName", "LabelText",
                    "BarcodeValue", "DeviceSerialNumber", "Manufacturer", "ManufacturerModelName",
                    "OtherPatientNames", "EthnicGroup", "Occupation", "ClinicalTrialSubjectID",
                    "ClinicalTrialSponsorName", "ImageComments", "PyramidLabel"):  # fmt: skip
        setattr(dataset, keyword, FAMILY)
    dataset.PatientBirthDate, dataset.StudyDate = "19471108", "20261108"
    dataset.OtherPatientIDsSequence = [item(PatientID=BARCODE)]
    dataset.ReferencedRequestSequence = [item(AccessionNumber=BARCODE)]
    dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", FAMILY
    specimen = dataset.SpecimenDescriptionSequence[0]
    specimen.SpecimenShortDescription = specimen.SpecimenDetailedDescription = FAMILY
    specimen.SpecimenPreparationSequence = [
        item(SpecimenPreparationStepContentItemSequence=[item(TextValue=NAME)])
    ]
    plant(dataset, also=hide)
    dataset.add(DataElement(0xFFFCFFFC, "OB", NAME.encode() + b"\0"))
    dataset.preamble = (NAME.encode() + b" " * 128)[:128]
    dcmwrite(path, dataset)
    assert NAME.encode() in path.read_bytes()


def forms(word: str) -> set[bytes]:
    words = {word, word.lower(), word.title()}
    kinds = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le")
    return {w.encode(kind) for w in words for kind in kinds}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_no_byte_names_the_patient(home, tmp_path):
    slide_id = add_dicom_slide(home)
    for path in (home.slides / slide_id).glob("*.dcm"):
        plant_all(path)
        assert FAMILY in str(dcmread(path))
    put_result(home, slide_id, GRIDS["side by side"])
    paths = write_dicom_results(home, slide_id, tmp_path / "out")
    for path in paths:
        content = path.read_bytes()
        for word in (FAMILY, "ERIKA", BARCODE, "PID-815-4711", UMLAUT, "19471108", "20261108",
                     str(tmp_path), "a.dcm"):  # fmt: skip
            for form in forms(word):
                assert form not in content, (path.name, word)
    assert all(not element.tag.is_private for path in paths for element in dcmread(path).iterall())


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID"])
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_name_in_place_of_a_uid_is_refused(home, tmp_path, keyword):
    slide_id = add_dicom_slide(home)
    put_result(home, slide_id, GRIDS["one row"])
    for path in (home.slides / slide_id).glob("*.dcm"):
        dataset = dcmread(path)
        setattr(dataset, keyword, FAMILY)
        dcmwrite(path, dataset)
    with pytest.raises(SlideError) as refused:
        write_dicom_results(home, slide_id, tmp_path / "out")
    assert FAMILY not in str(refused.value)


# --------------------------------------------------------------------------- other people's tools
# Debian's dciodvfy of 2022 has the condition of this attribute the wrong way round: it complains
# where the attribute is absent, as PS3.3 C.37.1.2 asks for 2D coordinates.
WRONG = "Only valid for AnnotationCoordinateType of 3D - attribute <CommonZCoordinateValue>"


def errors_of(path: Path) -> list[str]:
    found = complaints("dciodvfy", path)
    if any(WRONG in line for line in found):
        absent = "CommonZCoordinateValue"
        assert all(absent not in g for g in dcmread(path).AnnotationGroupSequence)
    return [line for line in found if WRONG not in line]


@needs_dciodvfy
@pytest.mark.parametrize("kind", ["side by side", "odd", "one tile", "wide"])
def test_dciodvfy_finds_no_error(home, tmp_path, kind):
    slide_id = add_dicom_slide(home)
    put_result(home, slide_id, GRIDS[kind])
    for path in write_dicom_results(home, slide_id, tmp_path / "out"):
        assert errors_of(path) == [], path.name


@needs_dciodvfy
def test_dciodvfy_finds_an_error_where_there_is_one(home, tmp_path):
    slide_id = add_dicom_slide(home)
    put_result(home, slide_id, GRIDS["one row"])
    for path in write_dicom_results(home, slide_id, tmp_path / "out"):
        dataset = dcmread(path)
        del dataset.Modality
        dcmwrite(path, dataset)
        assert errors_of(path), path.name


@needs_dsrdump
def test_dsrdump_reads_the_report_without_a_complaint(home, tmp_path):
    slide_id = add_dicom_slide(home)
    put_result(home, slide_id, GRIDS["side by side"])
    report = write_dicom_results(home, slide_id, tmp_path / "out")[-1]
    assert complaints("dsrdump", report) == []
    done = subprocess.run(["dsrdump", report], capture_output=True, text=True, check=True)
    for words in ("Imaging Measurement Report", "UNVERIFIED", '"adenoma"', "POLYLINE"):
        assert words in done.stdout


# ------------------------------------------------------------------------------- real and large
@needs_turbojpeg
def test_real_slide_by_its_converted_series(home, data, tmp_path):
    path = data / "slides" / "real" / "CMU-1-Small-Region.svs"
    slide_id = add_slide(home, path, "S-real", mask=False)
    with Slide(path) as slide:
        width, height = slide.size
    places = grid(columns=(width - 30) // 96 - 1, rows=(height - 50) // 96 - 1,
                  size=128, step=96, x=30, y=50)  # fmt: skip
    result = put_result(home, slide_id, places)
    source = to_dicom(path, tmp_path / "series")
    paths = write_dicom_results(home, slide_id, tmp_path / "out", source=source)
    read = read_dicom_results(tmp_path / "out")
    check_regions(read.regions, result)
    check_tiles(read.tiles, result)
    for label, found in read.areas.items():
        assert area(shapely.symmetric_difference(found, of_class(result, label))) == 0
    level0 = find_source(home.catalog.slide(slide_id), source).level0
    to_source = hd.spatial.ImageToImageTransformer.for_images(
        hd.seg.segread(paths[0]), level0, for_total_pixel_matrix_from=True,
        for_total_pixel_matrix_to=True,
    )  # fmt: skip
    np.testing.assert_allclose(to_source(np.zeros((1, 2))), [[30, 50]], atol=0.05)


def test_many_tiles(home, tmp_path):
    side = count(quick=60, full=316)
    slide_id = add_dicom_slide(home)
    result = put_result(home, slide_id, grid(columns=side, rows=side, size=512, step=384))
    paths = write_dicom_results(home, slide_id, tmp_path / "out")
    read = read_dicom_results(tmp_path / "out")
    check_tiles(read.tiles, result)
    check_regions(read.regions, result)
    assert sum(path.stat().st_size for path in paths) < 2e6 + 250 * result.n_tiles


def test_export_loads_no_torch():
    code = (
        "import sys, histo_nb.export.dicom.write, histo_nb.export.dicom.read, "
        "histo_nb.export.dicom.send; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_grid_says_how_it_lies():
    assert str(Grid(x=5, y=7, step=48, fine=3)) == "3 px = 48 px of level 0 from 5, 7"


@pytest.mark.parametrize("classes", [
    ["a" * 64 + "1", "a" * 64 + "2", "normal"],
    ["ad\x00enoma", "carcinoma", "normal"],
])  # fmt: skip
def test_classes_that_dicom_cannot_tell_apart_are_refused(home, tmp_path, classes):
    slide_id = add_dicom_slide(home)
    put_result(home, slide_id, GRIDS["one row"], classes=classes)
    with pytest.raises(TableError, match="cannot be told apart"):
        write_dicom_results(home, slide_id, tmp_path / "objects")
    assert not (tmp_path / "objects").exists()

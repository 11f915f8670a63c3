"""The first look at DICOM instances and series: whole ones pass, others are refused in words."""

import struct
from pathlib import Path

import numpy as np
import openslide
import pytest
from bombs import deflated_dicom
from counts import count
from damage import tissue, truncations, zeroed_blocks, zeroed_tails
from dicoms import NAME, frames_of, write_instance, write_series
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import generate_uid

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.dicom.series import (
    check_instance,
    check_scale,
    check_series,
    group_series,
    read_instance,
)

CODECS = ["JPEG", "JPEG 2000", "explicit"]
RESAMPLED = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
SHARED_GROUPS = b"\x00\x52\x29\x92SQ"  # (5200,9229)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return tissue()[:768, :1024]  # whole tiles: no padding, in which zeros are no damage


@pytest.fixture(scope="module")
def instances(image, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("instances")
    return {
        codec: write_instance(folder / f"{codec}.dcm", image, codec=codec, table="basic")
        for codec in CODECS
    }


@pytest.fixture
def series(image, tmp_path) -> list[Path]:
    return write_series(tmp_path / "series", image)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("table", ["basic", "extended", "none"])
def test_whole_instance_passes_and_is_what_openslide_reads(image, tmp_path, codec, table):
    path = write_instance(tmp_path / "a.dcm", image, codec=codec, table=table)
    check_instance(path)
    check_series([path])
    check_scale([path])
    found = read_instance(path)
    assert (found.size, found.n_frames, found.mpp, found.objective_power) == (
        (1024, 768),
        12,
        0.5,
        20,
    )
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == found.size
        assert float(slide.properties["openslide.mpp-x"]) == found.mpp
        assert float(slide.properties["openslide.objective-power"]) == found.objective_power


def test_frames_in_several_pieces_are_told_apart_by_their_table(image, tmp_path):
    path = write_instance(tmp_path / "a.dcm", image)
    dataset, frames = dcmread(path), frames_of(image, "JPEG", 256)
    for has_table in (True, False):
        dataset.PixelData = encapsulate(frames, fragments_per_frame=2, has_bot=has_table)
        dataset["PixelData"].VR = "OB"
        dataset.save_as(path)
        if has_table:
            check_instance(path)
    with pytest.raises(SlideError, match="24 pieces for 12 frames"):
        check_instance(path)


@pytest.mark.parametrize("codec", CODECS)
def test_damaged_copies_are_refused(instances, tmp_path, codec):
    whole, path = instances[codec].read_bytes(), tmp_path / "damaged.dcm"
    start = whole.index(b"\xe0\x7f\x10\x00OB")
    damaged = [
        *truncations(whole, 22),
        *zeroed_tails(whole, 15),
        *zeroed_blocks(whole, count(quick=20, full=100)),
        whole[:start],  # no pixel data at all
    ]
    for number, content in enumerate(damaged):
        path.write_bytes(content)
        with pytest.raises(SlideError):
            check_instance(path)
            pytest.fail(f"damage {number} of {codec} was not seen")


@given(cut=st.integers(0, 1 << 30))
def test_no_beginning_of_a_file_passes(instances, tmp_path_factory, cut):
    whole = instances["JPEG"].read_bytes()
    path = tmp_path_factory.mktemp("cut") / "cut.dcm"
    path.write_bytes(whole[: cut % len(whole)])
    with pytest.raises(SlideError):
        check_instance(path)


def test_fuzzed_headers_give_named_errors_only(instances, tmp_path):
    whole = instances["JPEG"].read_bytes()
    end, path = whole.index(b"\xe0\x7f\x10\x00OB") + 200, tmp_path / "fuzzed.dcm"
    rng, n_refused = np.random.default_rng(5), 0
    for _ in range(count(quick=300, full=2000)):
        content = bytearray(whole)
        for place in rng.integers(128, end, rng.integers(1, 6)):
            content[place] = rng.choice([0, 1, 0x7F, 0xFF, rng.integers(256)])
        path.write_bytes(content)
        try:
            check_instance(path)
            check_series([path])
        except SlideError:
            n_refused += 1
    assert n_refused > 0


def _insert(whole: bytes, element: bytes) -> bytes:
    place = whole.index(SHARED_GROUPS)
    return whole[:place] + element + whole[place:]


BEGIN = b"\x00\x50\x10\x00SQ\0\0\xff\xff\xff\xff"  # (5000,0010), a sequence without a length
ITEM, OPEN_ITEM = b"\xfe\xff\x00\xe0\0\0\0\0", b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
BOMBS = {
    "2 million elements": BEGIN + ITEM * 2_100_000,
    "sequences within sequences": (BEGIN + OPEN_ITEM) * 100_000,
    "2 GB in one element": b"\x00\x50\x10\x00OB\0\0" + struct.pack("<I", 2 << 30),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_before_they_unfold(instances, tmp_path, kind):
    path = tmp_path / "bomb.dcm"
    path.write_bytes(_insert(instances["JPEG"].read_bytes(), BOMBS[kind]))
    with pytest.raises(SlideError):
        check_instance(path)


def test_deflated_file_is_refused_before_it_is_inflated(tmp_path):
    with pytest.raises(SlideError, match="deflated as a whole"):
        check_instance(deflated_dicom(tmp_path / "deflated.dcm", 1 << 26))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"TotalPixelMatrixColumns": 4_000_000_000, "TotalPixelMatrixRows": 4_000_000_000},
            "any s",
        ),
        ({"Rows": 60_000, "Columns": 60_000}, "more than any slide"),
        ({"NumberOfFrames": 13}, "13 frames and has 12"),
        ({"NumberOfFrames": 11}, "12 pieces for 11 frames"),
        ({"BitsAllocated": 7}, "7 bits"),
        ({"TotalPixelMatrixRows": None}, "0048,0007"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "a CT image"),
        ({"SOPClassUID": "MUSTERMANN"}, "class of no known name;"),
    ],
)
def test_claims_that_no_slide_makes_are_refused(image, tmp_path, values, words):
    path = write_instance(tmp_path / "a.dcm", image, **values)
    with pytest.raises(SlideError, match=words):
        check_instance(path)


def test_tiles_larger_than_said_are_refused(image, tmp_path):
    path = write_instance(tmp_path / "a.dcm", image, Rows=128, Columns=128)
    with pytest.raises(SlideError, match="claims 256 × 256 px"):
        check_instance(path)


def test_implicit_encoding_is_refused_as_openslide_does(image, tmp_path):
    path = write_instance(tmp_path / "a.dcm", image, codec="implicit")
    with pytest.raises(SlideError, match="implicit VR"):
        check_instance(path)
    assert list(group_series(tmp_path)) == [str(dcmread(path).SeriesInstanceUID)]


def test_black_is_no_damage_where_it_is_allowed(image, tmp_path):
    black = image.copy()
    black[100:200, :512] = 0
    path = write_instance(tmp_path / "a.dcm", black, codec="explicit")
    check_instance(path, allow_black=True)
    with pytest.raises(IncompleteError, match="never written"):
        check_instance(path)


# ------------------------------------------------------------------------------------ series
def test_series_is_complete_with_its_full_resolution_only(series):
    check_series(series)
    for path in series:
        check_instance(path)
    with pytest.raises(IncompleteError, match="full-resolution image"):
        check_series(series[1:])


def test_reasons_name_no_patient(series):
    with pytest.raises(IncompleteError) as caught:
        check_series(series[1:])
    assert NAME not in str(caught.value)


def test_two_series_are_not_one(series, image, tmp_path):
    other = write_instance(tmp_path / "other.dcm", image)
    with pytest.raises(SlideError, match="2 DICOM series"):
        check_series([*series, other])


def test_full_tiling_needs_every_tile_and_sparse_tiling_does_not(image, tmp_path):
    frames = frames_of(image, "JPEG", 256)
    full = write_instance(tmp_path / "full.dcm", frames[:-2], size=(1024, 768))
    check_instance(full)
    with pytest.raises(IncompleteError, match="2 of its 12 tiles"):
        check_series([full])
    sparse = {"size": (1024, 768), "DimensionOrganizationType": "TILED_SPARSE"}
    check_series([write_instance(tmp_path / "sparse.dcm", frames[:-2], **sparse)])
    with pytest.raises(SlideError, match="13 tiles, more than the 12"):
        check_series([write_instance(tmp_path / "more.dcm", [*frames, frames[0]], **sparse)])


def test_concatenation_needs_all_its_parts(image, tmp_path):
    frames, uid, series_uid = frames_of(image, "JPEG", 256), generate_uid(), generate_uid()
    parts = [
        write_instance(
            tmp_path / f"part{i}.dcm",
            frames[4 * i : 4 * i + 4],
            size=(1024, 768),
            series_uid=series_uid,
            ConcatenationUID=uid,
            InConcatenationNumber=i + 1,
            InConcatenationTotalNumber=3,
            ConcatenationFrameOffsetNumber=4 * i,
        )
        for i in range(3)
    ]
    check_series(parts)
    for missing in range(3):
        with pytest.raises(IncompleteError, match="lack"):
            check_series([part for i, part in enumerate(parts) if i != missing])


def test_instance_that_says_not_what_it_shows_is_refused(image, tmp_path):
    path = write_instance(tmp_path / "a.dcm", image, ImageType=None)
    with pytest.raises(SlideError, match="Image Type"):
        check_series([path])


def test_coarse_image_that_claims_to_be_the_finest_waits(image, tmp_path):
    with pytest.raises(IncompleteError, match=r"0\.5 µm/px"):
        check_scale([write_instance(tmp_path / "coarse.dcm", image, mpp=2.0)])
    check_scale([write_instance(tmp_path / "fine.dcm", image, mpp=0.5)])


def test_files_are_grouped_by_series_and_strangers_stand_alone(series, image, tmp_path):
    folder = series[0].parent
    other = write_instance(folder / "other.dcm", image)
    (folder / "junk.dcm").write_bytes(b"junk")
    groups = group_series(folder)
    assert sorted(map(len, groups.values())) == [1, 1, 3]
    assert groups["junk.dcm"] == [folder / "junk.dcm"]
    assert groups[read_instance(other).series_uid] == [other]


REAL = {  # what `check_instance` and `check_series` answer
    "highdicom_sm_image": None,
    "osp_boxes_0": None,
    "osp_boxes_1": "full-resolution image",
    "multiframe_camelyon_challenge_image": "full-resolution image",
    "panimg_full_with_bot": "full-resolution image",
    "panimg_sparse_with_bot": "full-resolution image",
    "ezwsi_test": "full-resolution image",
    "ezwsi_test_wsi": "full-resolution image",
    "highdicom_sm_image_jpegls": "JPEG-LS",
    "highdicom_sm_image_jpegls_nobot": "JPEG-LS",
    "small_dicom": "Image Type",
}


def test_real_files_are_taken_or_refused_for_the_right_reason(data):
    paths = sorted((data / "slides").rglob("*.dcm"))
    assert {path.stem for path in paths} == set(REAL)
    for path in paths:
        reason = ""
        try:
            check_instance(path)
            check_series([path])
        except SlideError as error:
            reason = str(error)
        assert (REAL[path.stem] or "") in reason
        assert bool(reason) == bool(REAL[path.stem]), path.stem

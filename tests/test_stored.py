"""The stored JPEG tiles of a slide: OpenSlide's pixels, or an error, or nothing at all."""

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from analysed import WORDS, draw

import histo_nb.slide as slides
from histo_nb.errors import SlideError
from histo_nb.slide import Slide
from histo_nb.stored import StoredTiles, open_stored

SIZE = (500, 420)  # px: no multiple of a stored tile
TILE = (128, 96)  # width, height of a stored tile: 4 × 5 of them
WHITE = 255
JPEG = {"compression": "jpeg", "compressionargs": {"level": 90}, "subsampling": (2, 2)}


def write(path: Path, *, steps=(1, 2), tile=TILE, **options) -> Path:
    options = {"photometric": "rgb", "metadata": None, **(options or JPEG)}
    layout = {"tile": tile[::-1]} if tile else {"rowsperstrip": 16}
    with tifffile.TiffWriter(path) as tiff:
        for step in steps:
            size = (SIZE[0] // step, SIZE[1] // step)
            level = cv2.resize(draw(3, SIZE), size, interpolation=cv2.INTER_AREA)
            words = WORDS.format(mpp=0.5) if step == 1 else ""
            tiff.write(level, **layout, description=words, **options)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("stored") / "a.svs")


@pytest.fixture
def slide(path):
    with Slide(path) as opened:
        yield opened


@pytest.fixture
def stored(slide) -> StoredTiles:
    found = slide.stored(0)
    assert found is not None
    return found


def levels_of(path: Path, sizes=(SIZE, (250, 210))) -> list[StoredTiles]:
    return open_stored(path, sizes)


# ------------------------------------------------------------------------------ what is taken
def test_levels_are_found_with_their_geometry(path):
    first, second = levels_of(path)
    assert (first.size, first.tile, first.columns, first.rows) == (SIZE, TILE, 4, 5)
    assert (second.size, second.columns, second.rows) == ((250, 210), 2, 3)
    assert len(first.counts) == 20
    assert (first.counts > 0).all()


@pytest.mark.parametrize(
    ("sizes", "n"),
    [
        ([SIZE], 1),
        ([(250, 210)], 1),
        ([(499, 420), (250, 210)], 0),
        ([SIZE, (249, 210)], 1),
        ([], 0),
    ],
)
def test_the_list_ends_before_a_level_that_is_not_there(path, sizes, n):
    assert len(levels_of(path, sizes)) == n


OTHERS = {
    "striped": {"tile": None, **JPEG},
    "deflate": {"compression": "zlib"},
    "lzw": {"compression": "lzw"},
    "uncompressed": {"compression": None},
    "JPEG 2000": {"compression": "aperio_jp2000_rgb"},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_stored_otherwise_is_left_to_openslide(tmp_path, kind):
    path = write(tmp_path / "a.tif", **OTHERS[kind])
    assert levels_of(path) == []
    if kind != "striped":  # no slide for OpenSlide either
        with Slide(path, slide_mpp=0.5) as slide:
            assert slide.stored(0) is None


@pytest.mark.parametrize(
    "content", [b"", b"no TIFF", b"II*\0", b"II*\0\xff\xff\xff\xff", b"\x89PNG\r\n" * 9], ids=str
)
def test_what_is_no_tiff_gives_nothing(tmp_path, content):
    (tmp_path / "a.svs").write_bytes(content)
    assert levels_of(tmp_path / "a.svs") == []


def test_a_file_that_is_cut_off_gives_nothing(path, tmp_path):
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        pages = [zip(page.dataoffsets, page.databytecounts, strict=True) for page in tiff.pages]
        end = max(offset + count for page in pages for offset, count in page)
    for kept in [*range(0, len(whole), len(whole) // 40), end - 1, end - 100]:
        (tmp_path / "a.svs").write_bytes(whole[:kept])
        assert len(levels_of(tmp_path / "a.svs")) < 2


def test_a_file_that_is_cut_off_while_it_is_read_is_an_error(path, tmp_path):
    copy = tmp_path / "a.svs"
    copy.write_bytes(path.read_bytes())
    with Slide(copy) as slide:
        stored, out = slide.stored(0), np.empty((96, 128, 3), np.uint8)
        kept = int(np.median(stored.offsets))
        os.truncate(copy, kept)
        for number, end in enumerate(stored.offsets + stored.counts):
            if end <= kept:
                stored.decode(number, out)
            else:
                with pytest.raises(SlideError, match=r"a\.svs cannot be read.*cut off"):
                    stored.decode(number, out)


def test_a_file_that_contradicts_itself_gives_nothing(path, tmp_path):
    """A tile less in the table of offsets."""
    with tifffile.TiffFile(path) as tiff:
        tags = [page.tags[name].offset for page in tiff.pages for name in (324, 325)]
    for offset in tags[:2]:
        content = bytearray(path.read_bytes())
        content[offset + 4 : offset + 8] = (7).to_bytes(4, "little")
        (tmp_path / "a.svs").write_bytes(content)
        assert levels_of(tmp_path / "a.svs") == []


# --------------------------------------------------------------------------------- its pixels
REGIONS = [
    (0, 0, 500, 420), (0, 0, 1, 1), (127, 95, 2, 2), (128, 96, 128, 96), (499, 419, 1, 1),
    (100, 50, 333, 222), (-30, -40, 100, 100), (450, 400, 200, 200), (-10, 100, 520, 7),
    (500, 0, 50, 50), (0, 420, 50, 50), (512, 0, 40, 40), (530, 10, 300, 50), (505, 0, 10, 420),
    (0, 480, 60, 60), (0, 422, 64, 64), (700, 700, 9, 9), (-200, -200, 50, 50), (-200, 0, 100, 30),
    (0, -90, 40, 50), (-128, 0, 128, 96),
]  # fmt: skip


@pytest.mark.parametrize("region", REGIONS, ids=str)
def test_pixels_are_openslides_and_white_outside(slide, stored, region):
    x, y, *size = region
    found = stored.read(x, y, size=tuple(size))
    expected = slide.read_region(x, y, level=0, size=tuple(size))
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1
    rows, columns = np.indices(found.shape[:2])
    outside = (columns + x < 0) | (columns + x >= 500) | (rows + y < 0) | (rows + y >= 420)
    assert (found[outside] == WHITE).all()


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_scaled_decode_is_the_averaged_picture(stored, scale):
    width, height = (-(-extent // scale) for extent in SIZE)
    found = stored.read(0, 0, size=(width, height), scale=scale)
    assert found.shape == (height, width, 3)
    inner = (SIZE[0] // scale, SIZE[1] // scale)
    whole = stored.read(0, 0, size=(inner[0] * scale, inner[1] * scale))
    average = cv2.resize(whole, inner, interpolation=cv2.INTER_AREA)
    difference = np.abs(found[: inner[1], : inner[0]].astype(int) - average)
    assert difference.mean() < 3
    x, y = 17, 9
    part = stored.read(x, y, size=(40, 30), scale=scale)
    inside = found[y : y + 30, x : x + 40]
    np.testing.assert_array_equal(part[: len(inside), : inside.shape[1]], inside)
    right = stored.read(width + 3, 0, size=(60, 40), scale=scale)
    assert (right == WHITE).all()


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_a_stored_tile_has_the_size_that_its_scale_gives(stored, scale):
    out = np.zeros((96 // scale, 128 // scale, 3), np.uint8)
    stored.decode(0, out, scale=scale)
    assert out.std() > 5
    for wrong in ((96 // scale, 128 // scale + 8, 3), (8, 8, 3)):
        with pytest.raises(SlideError):
            stored.decode(0, np.zeros(wrong, np.uint8), scale=scale)


def test_many_threads_read_what_one_reads(path, monkeypatch):
    import histo_nb.stored as module  # noqa: PLC0415

    with Slide(path) as slide:
        expected = slide.stored(0).read(0, 0, size=SIZE)
        monkeypatch.setattr(module, "MANY_ROWS", 1)
        monkeypatch.setattr(module, "N_THREADS", 4)
        for _ in range(5):
            np.testing.assert_array_equal(slide.stored(0).read(0, 0, size=SIZE), expected)


# ------------------------------------------------------------------------------------- damage
def test_a_tile_that_is_not_stored_is_an_error_and_not_blank(stored):
    """Count 0: a sparse file. OpenSlide would make up white."""
    counts = stored.counts.copy()
    counts[6] = 0
    sparse = replace(stored, counts=counts)
    out = np.zeros((96, 128, 3), np.uint8)
    with pytest.raises(SlideError, match=r"a\.svs cannot be read at x=256, y=96 \(not stored\)"):
        sparse.decode(6, out)
    with pytest.raises(SlideError, match="not stored"):
        sparse.read(200, 50, size=(100, 100))
    sparse.read(0, 0, size=(200, 90))


@pytest.mark.parametrize("kept", [1, 2, 3, 50, 300, -1, -2])
def test_a_tile_that_ends_early_is_an_error(stored, kept):
    counts = stored.counts.copy()
    counts[6] = kept if kept > 0 else counts[6] + kept
    with pytest.raises(SlideError, match="x=256, y=96"):
        replace(stored, counts=counts).decode(6, np.zeros((96, 128, 3), np.uint8))


@pytest.mark.parametrize("n", [10**6, 2**31, 2**32 - 1])
def test_a_count_larger_than_the_file_gives_nothing(path, tmp_path, n):
    """Read as it stands, it would ask for that much memory."""
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].tags["TileByteCounts"].valueoffset
        assert tiff.pages[0].tags["TileByteCounts"].dtype.value == 4
    content = bytearray(path.read_bytes())
    content[place + 6 * 4 : place + 7 * 4] = n.to_bytes(4, "little")
    (tmp_path / "a.svs").write_bytes(content)
    assert levels_of(tmp_path / "a.svs") == []


@pytest.mark.parametrize("offset", [-1, 2**40, 2**62])
def test_an_offset_outside_the_file_is_an_error(stored, offset):
    offsets = stored.offsets.copy()
    offsets[6] = offset
    with pytest.raises(SlideError, match="x=256, y=96"):
        replace(stored, offsets=offsets).decode(6, np.zeros((96, 128, 3), np.uint8))


def damaged(path: Path, target: Path, numbers, *, level: int = 0) -> Path:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        places = [(page.dataoffsets[k], page.databytecounts[k]) for k in numbers]
    content = bytearray(path.read_bytes())
    for offset, count in places:
        content[offset : offset + count] = bytes(count)
    target.write_bytes(content)
    return target


def test_a_zeroed_tile_is_an_error_wherever_it_is_read(path, tmp_path):
    with Slide(path) as whole:
        fullest = np.argsort(-whole.stored(0).counts, kind="stable")
    for number in (int(fullest[0]), int(fullest[-1])):
        copy = damaged(path, tmp_path / f"{number}.svs", [number])
        with Slide(copy) as slide:
            stored = slide.stored(0)
            assert stored is not None, "other places prove it"
            assert slide.size == SIZE, "the handle is alive after the proof"
            assert slide.level_downsamples[1] == pytest.approx(2)
            x, y = number % 4 * 128 + 5, number // 4 * 96 + 5
            with pytest.raises(SlideError, match="damaged"):
                stored.read(x, y, size=(8, 8))
            other = (number + 10) % 20
            at = other % 4 * 128 + 40, other // 4 * 96 + 10
            found = stored.read(*at, size=(20, 10))
            with Slide(copy) as fresh:
                expected = fresh.read_region(*at, level=0, size=(20, 10))
            assert np.abs(found.astype(int) - expected).max() <= 1


def test_a_slide_of_which_no_place_can_be_read_is_left_to_openslide(path, tmp_path):
    with Slide(damaged(path, tmp_path / "a.svs", range(20))) as slide:
        assert slide.stored(0) is None
        assert slide.size == SIZE
        with pytest.raises(SlideError):
            slide.read_region(0, 0, level=0, size=(10, 10))


# -------------------------------------------------------------------------------------- proof
def test_a_level_that_is_not_what_openslide_reads_is_not_taken(path, monkeypatch):
    """Other colours by one value more than rounding explains, at one of the proved places."""
    original = StoredTiles.read

    def off(self, x, y, *, size, scale=1):
        region = original(self, x, y, size=size, scale=scale)
        if self.size == SIZE:
            region[3, 5, 1] = (int(region[3, 5, 1]) + 2) % 256
        return region

    monkeypatch.setattr(StoredTiles, "read", off)
    with Slide(path) as slide:
        assert slide.stored(0) is None
        assert slide.stored(1) is not None, "each level is proved by itself"
        with pytest.raises(SlideError, match=r"read_path='level0/4'.*level0"):
            slide.need_stored("level0/4")


def test_it_is_proved_at_places_with_something_on_them(path, monkeypatch):
    seen = []
    original = StoredTiles.read

    def note(self, x, y, *, size, scale=1):
        if self.size == SIZE:
            seen.append((x, y))
        return original(self, x, y, size=size, scale=scale)

    monkeypatch.setattr(StoredTiles, "read", note)
    with Slide(path) as slide:
        stored = slide.stored(0)
        fullest = np.argsort(-stored.counts, kind="stable")[: slides.N_PROBES]
        corners = [(k % 4 * 128, k // 4 * 96) for k in fullest.tolist()]
        half = slides.PROBE_PX // 2
        assert seen == [(max(x - half, 0), max(y - half, 0)) for x, y in corners]
        again = slide.stored(0)
        assert again is stored
        assert len(seen) == slides.N_PROBES, "once while the slide is open"


def test_a_level_of_an_uneven_downsample_is_not_taken(tmp_path):
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as tiff:
        for size in (SIZE, (200, 168)):
            level = cv2.resize(draw(3, SIZE), size, interpolation=cv2.INTER_AREA)
            words = WORDS.format(mpp=0.5) if size == SIZE else ""
            tiff.write(
                level, tile=TILE[::-1], description=words, photometric="rgb", metadata=None, **JPEG
            )
    with Slide(path) as slide:
        assert slide.level_downsamples[1] == 2.5
        assert slide.stored(0) is not None
        assert slide.stored(1) is None


def test_levels_that_are_not_there_have_none(slide):
    assert slide.stored(2) is None
    assert slide.stored(-1) is None


def test_a_closed_slide_gives_its_file_back(path):
    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        pytest.skip("open files are counted on Linux only")
    before = len(list(handles.iterdir()))
    for _ in range(20):
        with Slide(path) as slide:
            slide.stored(0)
    assert len(list(handles.iterdir())) <= before


def test_a_slide_that_is_deleted_after_it_was_opened_is_an_error(path, tmp_path):
    copy = tmp_path / "a.svs"
    copy.write_bytes(path.read_bytes())
    with Slide(copy) as slide:
        copy.unlink()
        try:
            assert slide.stored(0) is None
        except SlideError as error:
            assert "a.svs" in str(error)


def test_a_slide_gives_its_files_back_also_when_nobody_closes_it(path):
    def n_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    Slide(path).stored(0)
    before = n_open()
    for _ in range(5):
        Slide(path).stored(0)
    assert n_open() <= before


@pytest.mark.parametrize("mpp", [2.0, 8.0])
def test_a_missing_stored_tile_is_white_in_the_thumbnail_and_the_rest_is_there(tmp_path, mpp):
    """Scanners leave glass out: OpenSlide draws nothing there."""
    path = tmp_path / "sparse.svs"
    image = np.full((960, 960, 3), 120, np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, tile=(240, 240), photometric="rgb", compression="jpeg", metadata=None,
                   description="Aperio Image Library v12\n|AppMag = 20|MPP = 0.5")  # fmt: skip
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        counts = list(tag.value)
        counts[5] = 0
        tag_offset, kind = tag.valueoffset, tag.dtype
    with path.open("r+b") as file:
        file.seek(tag_offset)
        file.write(np.array(counts, {3: "<u2", 4: "<u4", 16: "<u8"}[int(kind)]).tobytes())
    with Slide(path) as slide:
        assert slide.stored(0) is not None
        thumbnail, downsample = slide.thumbnail(mpp=mpp)
        place = slice(round(250 / downsample), round(470 / downsample))
        assert thumbnail[place, place].min() > 250
        assert np.abs(thumbnail[: int(230 / downsample)].astype(int) - 120).max() <= 4

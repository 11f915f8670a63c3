"""Tiles by the plan are the tiles that OpenSlide gives one by one."""

import os
import shutil
import threading

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from histo_nb.errors import MppError, SlideError
from histo_nb.masking.tissue import TissueMask
from histo_nb.slide import Slide
from histo_nb.tiling import reader
from histo_nb.tiling.grid import TileSpec, tile_slide
from histo_nb.tiling.reader import plan_reading, read_tiles

WIDTH, HEIGHT = 1900, 1500


def picture() -> np.ndarray:
    """Structure at all scales, in colour, different everywhere."""
    rng = np.random.default_rng(5)
    planes = [cv2.resize(rng.random((n, n, 3), np.float32), (WIDTH, HEIGHT)) for n in (7, 60, 400)]
    return (255 * sum(planes) / 3).astype(np.uint8)


def write_slide(path, *, tile=(240, 240), levels=(1, 4), subsampling=(2, 2), rgb=False, **kind):
    """An Aperio-like slide of JPEG tiles."""
    image = picture()
    with tifffile.TiffWriter(path) as tiff:
        for downsample in levels:
            size = (WIDTH // downsample, HEIGHT // downsample)
            tiff.write(
                cv2.resize(image, size, interpolation=cv2.INTER_AREA),
                tile=tile[::-1],
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 90, **({"outcolorspace": "rgb"} if rgb else {})},
                subsampling=(1, 1) if rgb else subsampling,
                description="Aperio Image Library v12\n|AppMag = 20|MPP = 0.5" if downsample == 1
                else "",
                metadata=None,
                **kind,
            )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slide") / "slide.svs")


def cut(slide, **spec):
    everywhere = TissueMask(np.ones((HEIGHT // 10, WIDTH // 10), bool), 10, 0.5)
    spec = {"tile_size": 256, **spec}
    return tile_slide(slide, everywhere, spec=TileSpec(**spec), slide_id="S", patient_id=None)


def one_by_one(size):
    return lambda source, row: source.read_tile(row, size=size)


def read_all(rows, size=128, **how):
    found = list(read_tiles(rows, one_by_one(size), size=size, **how))
    assert sorted(number for number, _ in found) == list(range(len(rows)))
    return dict(found)


@pytest.mark.parametrize("tile", [(240, 240), (256, 128), (512, 512)])
@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("stride", [0, 100])
def test_planned_tiles_are_those_of_openslide(tmp_path, tile, subsampling, stride):
    path = write_slide(tmp_path / "a.svs", tile=tile, subsampling=subsampling)
    with Slide(path) as slide:
        rows = cut(slide, stride=stride)
        assert plan_reading(rows, slide) is not None
        for number, pixels in read_all(rows).items():
            expected = slide.read_tile(rows.iloc[number].to_dict(), size=128)
            assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_tiles_in_rgb_without_a_colour_transform_are_read_too(tmp_path):
    path = write_slide(tmp_path / "a.svs", rgb=True)
    with Slide(path) as slide:
        rows = cut(slide)
        assert plan_reading(rows, slide) is not None
        expected = slide.read_tile(rows.iloc[0].to_dict(), size=256)
        assert np.abs(read_all(rows, size=256)[0].astype(int) - expected).max() <= 1


def test_every_stored_tile_is_decoded_once(slide_path, monkeypatch):
    decoded, lock = [], threading.Lock()
    with Slide(slide_path) as slide:
        rows = cut(slide, stride=100)
        stored = type(slide.stored(0))
        original = stored.decode

        def count(self, number, out, *, scale=1):
            with lock:
                decoded.append(number)
            original(self, number, out, scale=scale)

    def plan_first(tiles, source):  # proving decodes too
        plan = plan_reading(tiles, source)
        monkeypatch.setattr(stored, "decode", count)
        return plan

    monkeypatch.setattr(reader, "plan_reading", plan_first)
    read_all(rows)
    assert len(decoded) == len(set(decoded)) > 20


@pytest.mark.parametrize("swath_bytes", [3 * 256**2, 10**9])
def test_pixels_are_the_same_for_all_threads_and_swaths(slide_path, monkeypatch, swath_bytes):
    with Slide(slide_path) as slide:
        rows = cut(slide, stride=200)
    usual = read_all(rows)
    monkeypatch.setattr(reader, "OPEN_BYTES", swath_bytes)
    for n_threads in (1, 2, 7):
        found = read_all(rows, n_threads=n_threads)
        assert all(np.array_equal(pixels, usual[number]) for number, pixels in found.items())


def test_a_narrow_swath_keeps_few_tiles_open(slide_path, monkeypatch):
    with Slide(slide_path) as slide:
        rows = cut(slide)
        assert len(plan_reading(rows, slide).swaths) == 1
        monkeypatch.setattr(reader, "OPEN_BYTES", 3 * 256**2 * 4)
        swaths = plan_reading(rows, slide).swaths
    assert len(swaths) == -(-rows.x.nunique() // 2)
    assert sorted(number for swath in swaths for number in swath) == list(range(len(rows)))


@pytest.mark.parametrize(("read_path", "tolerance"), [("level0/2", 2.0), ("level0/4", 1.5)])
def test_a_scaled_decode_is_close_to_the_average(slide_path, read_path, tolerance):
    with Slide(slide_path) as slide:
        rows, whole = cut(slide, read_path=read_path), cut(slide)
        size = 256 // int(read_path[-1])
        assert set(rows.read_size) == {size}
        assert ((whole.x - rows.x) < 4).all()
        pixels = read_all(rows, size)
        for number, found in pixels.items():
            row = {**whole.iloc[number].to_dict(), "x": rows.x[number], "y": rows.y[number]}
            assert np.abs(found.astype(int) - slide.read_tile(row, size=size)).mean() < tolerance
            alone = slide.read_tile(rows.iloc[number].to_dict(), size=size)
            assert np.array_equal(alone, found)


def test_a_level_of_the_pyramid_is_planned_too(slide_path):
    with Slide(slide_path) as slide:
        rows = cut(slide, read_path="pyramid/4")
        assert set(rows.level) == {1}
        assert plan_reading(rows, slide) is not None
        for number, pixels in read_all(rows, 64).items():
            expected = slide.read_tile(rows.iloc[number].to_dict(), size=64)
            assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_a_slide_without_the_level_is_refused(tmp_path):
    path = write_slide(tmp_path / "a.svs", levels=(1,))
    with Slide(path) as slide, pytest.raises(MppError, match="needs a level"):
        cut(slide, read_path="pyramid/4")


def test_a_slide_that_is_no_jpeg_is_read_by_openslide_or_refused(tmp_path):
    path = tmp_path / "a.tif"
    image = picture()
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", compression="deflate",
                     resolution=(20000, 20000), resolutionunit="CENTIMETER")  # fmt: skip
    with Slide(path, slide_mpp=0.5) as slide:
        rows = cut(slide)
        assert plan_reading(rows, slide) is None
        x, y = rows.x[3], rows.y[3]
        pixels = read_all(rows, 256)
        assert np.array_equal(pixels[3], image[y : y + 256, x : x + 256])
        with pytest.raises(SlideError, match="level0/4"):
            read_all(cut(slide, read_path="level0/4"), 64)


def test_a_slide_whose_stored_tiles_are_not_what_openslide_reads_is_read_by_it(
    slide_path, monkeypatch
):
    import histo_nb.slide as slides  # noqa: PLC0415

    monkeypatch.setattr(slides, "MAX_DIFFERENCE", -1)
    with Slide(slide_path) as slide:
        assert slide.stored(0) is None
        rows = cut(slide)
        assert plan_reading(rows, slide) is None
        assert np.array_equal(read_all(rows)[2], slide.read_tile(rows.iloc[2].to_dict(), size=128))


def damage(path, column, row):
    """Overwrite the bytes of one stored tile of level 0."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        number = row * -(-page.imagewidth // page.tilewidth) + column
        offset, n = page.dataoffsets[number], page.databytecounts[number]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x00" * n)


def test_a_damaged_stored_tile_fails_the_tiles_over_it_and_no_other(slide_path, tmp_path):
    path = tmp_path / "a.svs"
    shutil.copy(slide_path, path)
    damage(path, 3, 2)  # level-0 px 720–960, 480–720
    with Slide(slide_path) as whole:
        rows = cut(whole)
    rows = rows.assign(slide_path=str(path))
    found = read_all(rows)
    over = (rows.x < 960) & (rows.x + 256 > 720) & (rows.y < 720) & (rows.y + 256 > 480)
    failed = [isinstance(found[number], SlideError) for number in range(len(rows))]
    assert failed == over.tolist()
    assert 0 < sum(failed) < len(rows)
    assert "damaged" in str(found[int(np.flatnonzero(over)[0])])
    good = read_all(rows.assign(slide_path=str(slide_path)))
    assert all(np.array_equal(found[i], good[i]) for i in range(len(rows)) if not failed[i])


@pytest.mark.parametrize("how", ["deleted", "replaced", "cut off"])
def test_a_slide_that_changes_while_it_is_read_is_an_error(slide_path, tmp_path, how):
    path = tmp_path / "a.svs"
    shutil.copy(slide_path, path)
    with Slide(path) as slide:
        rows = cut(slide)
    answers = read_tiles(rows, one_by_one(128), size=128, n_threads=1)
    next(answers)
    if how == "deleted":
        path.unlink()
    elif how == "replaced":
        shutil.copy(slide_path, tmp_path / "b.svs").replace(path)
    else:
        os.truncate(path, path.stat().st_size // 3)
    with pytest.raises(SlideError, match=r"deleted|replaced"):
        list(answers)


def test_what_finish_makes_of_the_pixels_is_yielded(slide_path):
    with Slide(slide_path) as slide:
        rows = cut(slide)
    means = read_all(rows, finish=lambda tile: tile.mean())
    tiles = read_all(rows)
    assert all(means[number] == tiles[number].mean() for number in tiles)


def test_turned_rows_and_rows_of_several_sizes_are_read_one_by_one(slide_path):
    with Slide(slide_path) as slide:
        rows = cut(slide)
        assert plan_reading(rows.assign(angle=33.0), slide) is None
        mixed = pd.concat([rows, cut(slide, tile_size=300)], ignore_index=True)
        assert plan_reading(mixed, slide) is None


def test_a_canvas_is_used_again_only_when_its_tile_was_handed_on(slide_path):
    """Tiles kept at their own size must be copies: the array behind is filled again."""
    with Slide(slide_path) as slide:
        rows = cut(slide, stride=64)
    first = read_all(rows, size=256)
    again = {n: t.copy() for n, t in read_tiles(rows, one_by_one(256), size=256)}
    assert all(np.array_equal(first[n], again[n]) for n in again)

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from histo_nb import slide as module
from histo_nb.errors import MppError, SlideError
from histo_nb.geometry import plan_read
from histo_nb.slide import Slide, shrink

SMOOTH = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 255, (700, 900, 3), np.uint8), (0, 0), 9
)


@pytest.fixture(scope="module")
def tiff(tmp_path_factory) -> Path:
    """A slide of two levels whose pixels are known, and which states no mpp."""
    path = tmp_path_factory.mktemp("slides") / "known.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(SMOOTH, tile=(128, 128), photometric="rgb")
        half = cv2.resize(SMOOTH, (450, 350), interpolation=cv2.INTER_AREA)
        writer.write(half, tile=(128, 128), photometric="rgb", subfiletype=1)
    return path


@given(st.data())
def test_pixels_are_those_of_the_file(tiff, data):
    x, y = data.draw(st.integers(-50, 950)), data.draw(st.integers(-50, 750))
    width, height = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 200))
    around = np.pad(SMOOTH, ((50, 300), (50, 300), (0, 0)), constant_values=255)
    with Slide(tiff) as slide:
        region = slide.read_region(x, y, level=0, size=(width, height))
    assert (region == around[y + 50 : y + 50 + height, x + 50 : x + 50 + width]).all()


@pytest.mark.parametrize("mpp", [0.1, 0.5, 0.8, 1, 2.3, 7.9])
@pytest.mark.parametrize("block_px", [module.BLOCK_PX, 50_000])
def test_a_thumbnail_is_the_area_average(tiff, monkeypatch, mpp, block_px):
    monkeypatch.setattr(module, "BLOCK_PX", block_px)
    with Slide(tiff, slide_mpp=0.5) as slide:
        thumbnail, downsample = slide.thumbnail(mpp=mpp)
    assert downsample == max(mpp / 0.5, 1)
    height, width = (int(np.ceil(extent / downsample)) for extent in (700, 900))
    assert thumbnail.shape == (height, width, 3)
    inside = thumbnail[: int(700 / downsample), : int(900 / downsample)]
    centres = [(np.arange(n) + 0.5) * downsample - 0.5 for n in inside.shape[1::-1]]
    x, y = (axis.astype(np.float32) for axis in np.meshgrid(*centres))
    expected = cv2.remap(SMOOTH, x, y, cv2.INTER_LINEAR)  # SMOOTH hardly varies within a pixel
    assert np.abs(inside.astype(int) - expected).mean() < 1


@pytest.mark.parametrize("read_path", ["level0", "pyramid"])
def test_a_tile_is_read_from_its_row(tiff, read_path):
    with Slide(tiff, slide_mpp=0.5) as slide:
        plan = plan_read(
            mpp=1,
            tile_size=64,
            slide_mpp=slide.slide_mpp,
            level_downsamples=slide.level_downsamples,
            read_path=read_path,
        )
        tile = slide.read_tile({"x": 130, "y": 40, "read_path": read_path, **vars(plan)}, size=32)
    expected = cv2.resize(SMOOTH[40:168, 130:258], (32, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(tile.astype(int) - expected).max() <= 2


def test_tiles_are_never_enlarged():
    with pytest.raises(MppError, match="image_size"):
        shrink(SMOOTH[:32, :32], 64)


def test_many_threads_share_a_slide(tiff):
    with Slide(tiff) as slide, ThreadPoolExecutor(8) as pool:
        read = pool.map(lambda x: slide.read_region(x, 0, level=0, size=(9, 9)), range(500))
        assert all((r == SMOOTH[:9, x : x + 9]).all() for x, r in enumerate(read))


def test_a_slide_without_mpp_asks_for_it(tiff):
    with Slide(tiff) as slide, pytest.raises(MppError, match="--slide-mpp"):
        _ = slide.slide_mpp
    with Slide(tiff, slide_mpp=0.25) as slide:
        assert slide.slide_mpp == 0.25
        assert slide.bounds == (0, 0, 900, 700)
        assert slide.objective_power is None
    with Slide(tiff, slide_mpp=1000) as slide, pytest.raises(MppError, match=r"known\.tif"):
        _ = slide.slide_mpp


def test_a_thumbnail_of_any_size_is_refused(tiff, monkeypatch):
    monkeypatch.setattr(module, "MAX_THUMBNAIL_PX", 1000)
    with Slide(tiff, slide_mpp=0.5) as slide, pytest.raises(SlideError, match="coarser mpp"):
        slide.thumbnail(mpp=1)


def test_a_file_cut_off_is_named(tiff, tmp_path):
    path = tmp_path / "half.tif"
    path.write_bytes(tiff.read_bytes()[: tiff.stat().st_size // 3])
    with pytest.raises(SlideError, match=r"half\.tif"), Slide(path) as slide:
        slide.read_region(0, 600, level=0, size=(900, 100))


@pytest.mark.parametrize("content", [b"", b"<html>", b"II*\x00\x08\x00\x00\x00"])
def test_what_is_no_slide_is_named(tmp_path, content):
    (tmp_path / "a.svs").write_bytes(content)
    with pytest.raises(SlideError, match=r"a\.svs"):
        Slide(tmp_path / "a.svs")
    for path in (tmp_path / "b.svs", tmp_path):
        with pytest.raises(SlideError, match="does not exist"):
            Slide(path)


def test_a_real_slide_is_read(data):
    with Slide(data / "slides/real/CMU-1-Small-Region.svs") as slide:
        assert slide.size == (2220, 2967)
        assert slide.slide_mpp == pytest.approx(0.499)
        assert slide.objective_power == 20
        thumbnail, downsample = slide.thumbnail(mpp=8)
        whole = slide.read_region(0, 0, level=0, size=slide.size)
    assert downsample == pytest.approx(8 / 0.499)
    assert np.abs(thumbnail.mean((0, 1)) - whole.mean((0, 1))).max() < 2


def test_a_real_slide_without_mpp_asks_for_it(data):
    with Slide(data / "slides/real/TCGA-CR-7395-01A-01-TS1.svs") as slide:
        with pytest.raises(MppError, match="--slide-mpp"):
            _ = slide.slide_mpp
        assert slide.read_region(0, 0, level=1, size=(64, 64)).shape == (64, 64, 3)


def test_a_slide_with_bounds_knows_them(data):
    with Slide(data / "slides/synthetic/panimg_no_dzi.tif") as slide:
        assert slide.bounds == (0, 512, 3072, 3456)


def test_malformed_files_are_read_or_refused_by_name(data):
    """In a process of its own: a hostile file must not take the other tests with it."""
    code = """if True:
        import sys
        from pathlib import Path
        from histo_nb.errors import HistoError
        from histo_nb.slide import Slide
        n = 0
        for path in sorted(Path(sys.argv[1]).rglob("*")):
            if path.is_dir() or path.parent.name == "abort":  # these end the process
                continue
            n += 1
            try:
                with Slide(path, slide_mpp=0.5) as slide:
                    slide.read_region(0, 0, level=0, size=(64, 64))
                    slide.thumbnail(mpp=8)
            except HistoError as error:
                assert path.name in str(error), error
        print(n)
    """
    child = subprocess.run(
        [sys.executable, "-c", code, str(data / "malformed")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) > 100

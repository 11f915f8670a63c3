"""The tile grid: every row proves its place, its size and its share of tissue."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from glasses import PlaneGlass, waves

from histo_nb.errors import MppError, NoTissueError, SlideError, SpecError
from histo_nb.masking.masks import mask_path, write_mask
from histo_nb.masking.tissue import MaskSpec, TissueMask
from histo_nb.scanning.console import scan_rack
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.virtual.scanner import write_scan
from histo_nb.slide import Slide
from histo_nb.tiling.grid import TileSpec, tile_slide, tile_slides

WIDTH, HEIGHT = 2300, 1700
DOWNSAMPLE = 16.0


@pytest.fixture(scope="module")
def plane() -> np.ndarray:
    return waves(WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def slide(plane, tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "a.svs"
    with Slide(write_scan(PlaneGlass(plane), path, spec=ScanSpec())) as opened:
        yield opened


def mask_of(*boxes: tuple[int, int, int, int]) -> TissueMask:
    """Tissue in boxes `x, y, right, bottom` of level-0 px."""
    array = np.zeros((-(-HEIGHT // 16), -(-WIDTH // 16)), bool)
    for x, y, right, bottom in boxes:
        array[y // 16 : -(-bottom // 16), x // 16 : -(-right // 16)] = True
    return TissueMask(array, DOWNSAMPLE, 0.5)


EVERYWHERE = mask_of((0, 0, WIDTH, HEIGHT))


def cut(slide, mask, **spec):
    return tile_slide(slide, mask, spec=TileSpec(**spec), slide_id="S", patient_id=None)


@pytest.mark.parametrize("tile_size", [64, 128, 448, 1024])
@pytest.mark.parametrize(("mpp", "read_path"), [(0.5, "level0"), (0.8, "level0"), (0.8, "pyramid")])
def test_a_row_alone_reads_its_tile(slide, plane, tile_size, mpp, read_path):
    rows = cut(slide, EVERYWHERE, tile_size=tile_size, mpp=mpp, read_path=read_path)
    assert (rows.tile_size == tile_size).all()
    assert (rows.size_l0 == round(tile_size * mpp / 0.5)).all()
    assert rows.effective_mpp.to_numpy() == pytest.approx(mpp, rel=0.01)
    for row in rows.iloc[[0, len(rows) // 2, len(rows) - 1]].to_dict("records"):
        x, y, size = row["x"], row["y"], row["size_l0"]
        tile = slide.read_tile(row, size=tile_size).astype(int)
        seen = cv2.resize(plane[y : y + size, x : x + size], tile.shape[:2],
                          interpolation=cv2.INTER_AREA)  # fmt: skip
        assert np.abs(tile - seen).mean() < 1.5
        assert np.abs(tile - np.roll(seen, 4, axis=1)).mean() > 3, "a shift of 4 px would show"


@pytest.mark.parametrize("stride", [0, 100, 200, 300])
def test_tiles_are_whole_and_a_stride_apart(slide, stride):
    rows = cut(slide, EVERYWHERE, tile_size=200, stride=stride)
    step = stride or 200
    assert len(rows) == ((WIDTH - 200) // step + 1) * ((HEIGHT - 200) // step + 1)
    assert rows.x.min() >= 0
    assert rows.y.min() >= 0
    assert (rows.x + rows.size_l0).max() <= WIDTH
    assert (rows.y + rows.size_l0).max() <= HEIGHT
    assert set(np.diff(np.unique(rows.x))) == set(np.diff(np.unique(rows.y))) == {step}
    assert rows.tile_id.is_unique
    assert rows.tile_id[0] == f"S/{rows.x[0]},{rows.y[0]}/200"


def test_a_stride_is_in_pixels_at_mpp(slide):
    rows = cut(slide, EVERYWHERE, tile_size=100, mpp=1.0, stride=150)
    assert set(np.diff(np.unique(rows.x))) == {300}


def test_tissue_is_the_share_of_the_mask_under_the_tile(slide):
    mask = mask_of((320, 160, 1100, 900), (1500, 1200, WIDTH, HEIGHT))
    rows = cut(slide, mask, tile_size=150, min_tissue=0)
    pixels = np.kron(mask.array, np.ones((16, 16), np.uint8))
    expected = [
        pixels[y : y + 150, x : x + 150].mean() for x, y in zip(rows.x, rows.y, strict=True)
    ]
    assert rows.tissue.to_numpy() == pytest.approx(expected, abs=1e-9)
    assert rows.tissue.min() > 0
    half = cut(slide, mask, tile_size=150, min_tissue=0.5)
    assert half.tile_id.tolist() == rows.tile_id[rows.tissue >= 0.5].tolist()
    assert 0 < len(half) < len(rows)


def test_a_corrected_mask_moves_no_tile(slide):
    small, more = (320, 160, 1100, 900), (1500, 1200, WIDTH, HEIGHT)
    before = cut(slide, mask_of(small), tile_size=150, min_tissue=0.3)
    after = cut(slide, mask_of(small, more, (0, 0, 16, 16)), tile_size=150, min_tissue=0.3)
    assert set(before.tile_id) < set(after.tile_id)


def test_a_tile_larger_than_the_slide_is_named(slide):
    assert len(cut(slide, EVERYWHERE, tile_size=HEIGHT)) == 1
    with pytest.raises(SlideError, match=r"tile_size=1701 .* smaller tile_size"):
        cut(slide, EVERYWHERE, tile_size=HEIGHT + 1)


def test_tiles_are_never_upsampled(slide):
    with pytest.raises(MppError, match=r"mpp ≥ 0\.5"):
        cut(slide, EVERYWHERE, mpp=0.25)


def test_too_little_tissue_is_named(slide):
    with pytest.raises(NoTissueError):
        cut(slide, mask_of(), tile_size=64)
    with pytest.raises(NoTissueError, match=r"min_tissue=0.9 .*smaller min_tissue"):
        cut(slide, mask_of((800, 800, 900, 900)), tile_size=512, min_tissue=0.9)


@pytest.mark.parametrize("wrong", [{"tile_size": 0}, {"mpp": -1}, {"min_tissue": 1.1},
                                   {"stride": -1}, {"tile_size": float("nan")}])  # fmt: skip
def test_a_bad_spec_is_named(wrong):
    with pytest.raises(SpecError, match=next(iter(wrong))):
        TileSpec(**wrong)


def test_slides_that_cannot_be_tiled_are_listed(home):
    rack = [PlaneGlass(waves(700, 600, phase=p), patient_id=f"P{p}") for p in range(3)]
    good, small, unmasked = scan_rack(rack, home).slide_id
    for name, tissue in ((good, True), (small, False)):
        mask = TissueMask(np.full((38, 44), tissue), 16.0, 0.5)
        write_mask(mask, mask_path(home, name), spec=MaskSpec())
    tiles, failures = tile_slides(home, [], spec=TileSpec(tile_size=256))
    assert tiles.slide_id.unique().tolist() == [good]
    assert tiles.patient_id.unique().tolist() == ["P0"]
    assert Path(tiles.slide_path[0]).is_file()
    assert failures.slide_id.tolist() == [small, unmasked]
    assert f"histo-nb mask {unmasked}" in failures.error[1]
    tiles, failures = tile_slides(home, [good])
    assert tiles.empty
    assert "tile_size=1024" in failures.error[0]

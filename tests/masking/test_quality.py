"""Artefacts and quality: each defect of glass is found, and nothing on clean slides."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from glasses import bare
from hypothesis import given
from hypothesis import strategies as st

from histo_nb.masking.artefacts import drop_lines, find_pen, find_unscanned
from histo_nb.masking.masks import mask_slides, read_mask, write_mask
from histo_nb.masking.methods import METHODS
from histo_nb.masking.quality import (
    MEASURES,
    Quality,
    QualityRule,
    find_soft,
    measure_quality,
    measure_sharpness,
)
from histo_nb.masking.tissue import MaskSpec, TissueMask, find_tissue, mask_slide
from histo_nb.scanning.console import scan_rack
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.virtual.defects import spoil_glass
from histo_nb.scanning.virtual.drawn import DrawnGlass, DrawnSpec, draw_glass
from histo_nb.scanning.virtual.scanner import write_scan
from histo_nb.slide import Slide
from histo_nb.tiling.grid import TileSpec, tile_slides

STAIN = (196, 120, 170)
FLAGS = {  # defect of the glass → flags of its scan
    "": [],
    "pen": ["pen"],
    "fold": ["fold"],
    "out_of_focus": ["out of focus"],
    "bubble": ["bubble", "out of focus"],
    "faint": ["faint"],
    "empty": ["no tissue"],
    "border": ["cut by the scan's border"],
    "dust": [],
    "coverslip": [],
}


@pytest.fixture(scope="module")
def glass() -> DrawnGlass:
    return draw_glass("P1", diagnosis="adenoma", seed=3, spec=DrawnSpec(size_um=(4200, 3200)))


@pytest.mark.parametrize("defect", FLAGS)
def test_each_defect_raises_its_flag_and_no_other(glass, tmp_path, defect):
    seen = spoil_glass(glass, defect) if defect else glass
    with Slide(write_scan(seen, tmp_path / "a.svs", spec=ScanSpec())) as slide:
        mask = mask_slide(slide, spec=MaskSpec())
        assert mask.quality.flags() == FLAGS[defect]


def look(glass):
    """A glass at 8 µm/px, seen without a scanner."""
    return glass.look(0, 0, size=tuple(round(e / 8) for e in glass.size_um), mpp=8.0)


@pytest.mark.parametrize(("seed", "diagnosis"), [(103, "adenoma")])
def test_strong_ink_does_not_make_tissue_vanish(seed, diagnosis):
    """Otsu's threshold lies between ink and tissue there, above all tissue."""
    spec = DrawnSpec(size_um=(1500, 1200))
    glass = draw_glass("P", diagnosis=diagnosis, seed=seed, spec=spec)
    clean, inked = look(glass), look(spoil_glass(glass, "pen"))
    truth = find_tissue(clean, mpp=8.0, spec=MaskSpec())
    found = find_tissue(inked, mpp=8.0, spec=MaskSpec())
    visible = truth & ~find_pen(inked, mpp=8.0)
    assert (found & visible).sum() > 0.97 * visible.sum() > 0


def test_dark_tissue_is_no_black_ink():
    spec = DrawnSpec(size_um=(2500, 2000), stain_spread=2.0)
    rgb = look(draw_glass("P", diagnosis="adenoma", seed=100, spec=spec))
    assert np.median(rgb[find_tissue(rgb, mpp=8.0, spec=MaskSpec())], axis=0).max() < 110
    assert not find_pen(rgb, mpp=8.0).any()


@pytest.mark.parametrize("ink", [(30, 70, 150), (25, 110, 60), (20, 20, 25)])
@pytest.mark.parametrize("mpp", [4.0, 8.0, 16.0])
def test_ink_is_found_where_it_is(ink, mpp):
    side = round(4000 / mpp)
    rgb = bare(side, side)
    cv2.circle(rgb, (side // 2, side // 2), side // 4, STAIN, -1)
    truth = np.zeros((side, side), np.uint8)
    cv2.line(truth, (side // 8, side // 8), (side * 7 // 8, side * 3 // 4), 1, round(200 / mpp))
    rgb[truth > 0] = ink
    found = find_pen(rgb, mpp=mpp)
    assert found[truth > 0].mean() > 0.97
    around = cv2.dilate(truth, np.ones((2 * round(80 / mpp) + 1,) * 2, np.uint8)) > 0
    assert not found[~around].any()
    tissue = find_tissue(rgb, mpp=mpp, spec=MaskSpec())
    assert not (tissue & (truth > 0)).any()
    with_ink = find_tissue(rgb, mpp=mpp, spec=MaskSpec(without_pen=False))
    assert with_ink.sum() > tissue.sum()


def test_stained_tissue_is_no_ink(glass):
    rgb = glass.look(0, 0, size=(525, 400), mpp=8.0)
    assert not find_pen(rgb, mpp=8.0).any()


@pytest.mark.parametrize("colour", [0, 255])
def test_what_was_never_scanned_is_no_tissue(colour):
    rgb = np.full((300, 400, 3), STAIN, np.uint8)
    rgb[:, 250:] = colour
    assert find_unscanned(rgb)[:, 255:].all()
    assert not find_unscanned(rgb)[:, :245].any()
    for method in METHODS:
        found = find_tissue(rgb, mpp=8.0, spec=MaskSpec(method=method))
        assert not found[:, 265:].any()


def test_long_thin_lines_go_and_tissue_stays():
    mask = np.zeros((400, 400), bool)
    mask[:, 390:393] = True
    mask[50:150, 50:150] = True
    kept = drop_lines(mask, mpp=8.0)
    assert not kept[:, 390:].any()
    assert kept[50:150, 50:150].all()


@pytest.mark.parametrize("method", ["hysteresis", "otsu_saturation", "stain_density"])
def test_faint_tissue_is_found(glass, method):
    faint = spoil_glass(glass, "faint")
    view = {name: g.look(0, 0, size=(525, 400), mpp=8.0) for name, g in
            (("clean", glass), ("faint", faint))}  # fmt: skip
    clean, found = (
        find_tissue(rgb, mpp=8.0, spec=MaskSpec(method=method)) for rgb in view.values()
    )
    assert 2 * (clean & found).sum() / (clean.sum() + found.sum()) > 0.95


def test_sharpness_cancels_stain_and_contrast(glass):
    rgb = glass.look(800, 800, size=(600, 500), mpp=2.0)
    tissue = np.ones(rgb.shape[:2], bool)
    sharp = measure_sharpness(rgb, tissue, mpp=2.0)
    pale = measure_sharpness(200 + rgb // 5, tissue, mpp=2.0)
    blurred = measure_sharpness(cv2.GaussianBlur(rgb, (0, 0), 2), tissue, mpp=2.0)
    assert np.nanmedian(pale / sharp) > 0.6
    assert np.nanmedian(blurred / sharp) < 0.3
    half = sharp.copy()
    half[:, : half.shape[1] // 4] *= 0.2
    assert find_soft(half)[:, : half.shape[1] // 4].mean() > 0.9
    assert np.isnan(measure_sharpness(rgb, ~tissue, mpp=2.0)).all()


@given(st.dictionaries(st.sampled_from(MEASURES), st.floats(0, 1)))
def test_flags_follow_the_rule_and_never_fail(values):
    usual = dict.fromkeys(MEASURES, 0.0) | {"density": 0.3, "tissue": 0.4}
    quality = Quality(**usual | values)
    assert len(set(quality.flags())) == len(quality.flags())
    strict = QualityRule(max_pen=-1, max_fold=-1, max_soft=-1, max_border=-1, max_bubble=-1)
    assert set(quality.flags()) <= set(quality.flags(strict))


def test_a_slide_of_one_colour_is_measured_without_a_word():
    """The mean of its glass is that of its tissue: nothing divides by what is not there."""
    everywhere = np.ones((50, 50), bool)
    plane = np.full((50, 50, 3), STAIN, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drop_lines(everywhere, mpp=8.0).all()
        quality = measure_quality(plane, everywhere, ~everywhere, mpp=8.0)
    assert quality.flags() == ["almost all tissue", "cut by the scan's border"]


def test_what_was_not_measured_raises_no_flag():
    nowhere = np.zeros((50, 50), bool)
    quality = measure_quality(bare(50, 50), nowhere, nowhere, mpp=8.0)
    assert np.isnan(quality.soft)
    assert quality.flags() == ["no tissue"]


def test_masks_come_with_measures_and_flags(home, glass):
    scan_rack([glass, spoil_glass(glass, "pen")], home)
    masks, failures = mask_slides(home, [])
    assert failures.empty
    assert masks.quality_flags.tolist() == ["", "pen"]
    assert set(MEASURES) <= set(masks.columns)
    assert (masks.tissue == masks.tissue_fraction).all()


def test_real_slides_are_masked(data):
    for name, mpp in (("CMU-1-Small-Region.svs", None), ("TCGA-CR-7395-01A-01-TS1.svs", 0.25)):
        with Slide(Path(data) / "slides" / "real" / name, slide_mpp=mpp) as slide:
            mask = mask_slide(slide, spec=MaskSpec())
            assert 0.2 < mask.array.mean() <= 1
            assert mask.quality.flags() == ["cut by the scan's border"]


def test_poor_tiles_are_marked_and_left_out_only_when_asked(home, glass):
    rows = scan_rack([spoil_glass(glass, "pen"), spoil_glass(glass, "out_of_focus")], home)
    mask_slides(home, [], spec=MaskSpec(without_pen=False))
    tiles, _ = tile_slides(home, [], spec=TileSpec(tile_size=256))
    pen, soft = (tiles[tiles.slide_id == name] for name in rows.slide_id)
    assert (pen.pen > 0.5).sum() > 3
    assert (pen.pen == 0).mean() > 0.5
    assert (soft.soft > 0.5).sum() > 3
    assert (soft.soft == 0).mean() > 0.5
    assert (soft.pen == 0).all()
    good, failures = tile_slides(home, [], spec=TileSpec(tile_size=256, min_quality=0.9))
    assert failures.empty
    poor = np.fmax(tiles.pen, tiles.soft) > 0.1
    assert set(good.tile_id) == set(tiles.tile_id[~poor])


def test_where_a_slide_is_poor_survives_its_file(tmp_path):
    rng = np.random.default_rng(0)
    planes = rng.random((3, 30, 40)) < 0.5
    for pen, soft in ((planes[1], planes[2]), (planes[1], None), (None, None)):
        mask = TissueMask(planes[0], 16.0, 0.5, pen=pen, soft=soft)
        read = read_mask(write_mask(mask, tmp_path / "m.png", spec=MaskSpec()))
        assert np.array_equal(read.array, planes[0])
        for name, plane in (("pen", pen), ("soft", soft)):
            got = getattr(read, name)
            assert (got is None) == (plane is None)
            assert plane is None or np.array_equal(got, plane)

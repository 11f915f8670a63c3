"""Finding tissue: the right area at any scale, nothing on bare glass."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from glasses import PlaneGlass, bare
from PIL import Image

from histo_nb.errors import NoTissueError, SlideError, SpecError
from histo_nb.masking.masks import mask_path, mask_slides, read_mask, write_mask
from histo_nb.masking.methods import METHODS
from histo_nb.masking.tissue import MaskSpec, TissueMask, clean_mask, find_tissue
from histo_nb.scanning.console import scan_rack

STAIN = (196, 120, 170)  # H&E pink
RAW = MaskSpec(open_um=1, close_um=1)  # neither opens nor closes


def disc(side: int, radius: float, *, colour=STAIN, noise: float = 2.0):
    """A stained disc on noisy glass, and where it is."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    truth = np.hypot(x, y) < radius
    rgb = np.where(truth[..., None], colour, bare(side, side)).astype(float)
    rgb += np.random.default_rng(0).normal(0, noise, rgb.shape)
    return rgb.clip(0, 255).astype(np.uint8), truth


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mpp", [4, 8, 16])
def test_a_stained_disc_is_found(method, mpp):
    rgb, truth = disc(round(3200 / mpp), 1000 / mpp)
    found = find_tissue(rgb, mpp=mpp, spec=MaskSpec(method=method))
    assert dice(found, truth) >= 0.97


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("noise", [0, 2])
def test_bare_glass_is_empty(method, noise):
    rgb, _ = disc(400, 0, noise=noise)
    assert not find_tissue(rgb, mpp=8, spec=MaskSpec(method=method)).any()


def test_grey_finds_tissue_without_colour():
    rgb, truth = disc(400, 120, colour=(120, 120, 120))
    assert dice(find_tissue(rgb, mpp=8, spec=MaskSpec(method="otsu_grey")), truth) >= 0.97


def square(side: int, part: int) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[20 : 20 + part, 20 : 20 + part] = True
    return mask


@pytest.mark.parametrize(("mpp", "part", "kept"), [(8, 17, False), (8, 18, True),
                                                   (4, 35, False), (4, 36, True)])  # fmt: skip
def test_specks_and_holes_have_a_size_in_um2(mpp, part, kept):
    # 20,000 µm² are 17.7² px of 8 µm, 35.4² px of 4 µm
    mask = square(120, part)
    assert (clean_mask(mask, mpp=mpp, spec=RAW) == (mask if kept else False)).all()
    assert (clean_mask(~mask, mpp=mpp, spec=RAW) == (~mask if kept else True)).all()


@pytest.mark.parametrize("mpp", [4, 8])
def test_strands_go_and_gaps_close_by_their_width_in_um(mpp):
    spec = MaskSpec(min_speck_um2=1, min_hole_um2=1)
    mask = np.ones((1600 // mpp, 1600 // mpp), bool)
    mask[:, 800 // mpp : 840 // mpp] = False  # 40 µm: closed at 60
    mask[1000 // mpp : 1100 // mpp] = False  # 100 µm: stays
    expected = np.ones_like(mask)
    expected[1000 // mpp : 1100 // mpp] = False
    assert (clean_mask(mask, mpp=mpp, spec=spec) == expected).mean() > 0.995
    strand = np.zeros_like(mask)
    strand[:, 800 // mpp : 808 // mpp] = True  # 8 µm: goes at 16
    assert not clean_mask(strand, mpp=mpp, spec=spec).any()


def test_tissue_at_the_edge_of_the_picture_stays():
    mask = np.zeros((200, 200), bool)
    mask[:, :60] = True
    assert (clean_mask(mask, mpp=8, spec=MaskSpec()) == mask).all()


def test_a_mask_is_written_and_read_exactly(tmp_path):
    array = np.random.default_rng(1).random((37, 53)) < 0.5
    mask = TissueMask(array, 16.032, 0.499)
    read = read_mask(write_mask(mask, tmp_path / "S.png", spec=MaskSpec()))
    assert (read.array == array).all()
    assert (read.downsample, read.slide_mpp) == (16.032, 0.499)
    assert read.tissue_mm2 == pytest.approx(array.sum() * (16.032 * 0.499) ** 2 / 1e6)
    assert write_mask(mask, tmp_path / "T.png", spec=MaskSpec()).stat().st_size < 37 * 53


def test_bounds_are_in_level_0_pixels():
    array = np.zeros((30, 40), bool)
    array[5:9, 10:20] = True
    assert TissueMask(array, 16, 0.5).bounds_l0 == (160, 80, 160, 64)
    with pytest.raises(NoTissueError):
        _ = TissueMask(~np.ones_like(array), 16, 0.5).bounds_l0


def test_what_is_no_mask_of_ours_is_named(tmp_path):
    Image.fromarray(bare(9, 9)).save(tmp_path / "foreign.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    for name in ("foreign", "broken", "missing"):
        with pytest.raises(SlideError, match=f"histo-nb mask {name}"):
            read_mask(tmp_path / f"{name}.png")


def test_an_unknown_method_is_named():
    with pytest.raises(SpecError, match="otsu_grey"):
        MaskSpec(method="magic")


def test_a_slide_without_tissue_fails_and_the_others_go_on(home):
    plane = bare(1600, 1200)
    cv2.circle(plane, (700, 500), 400, STAIN, -1)
    blank = PlaneGlass(bare(900, 800), patient_id="blank")
    rows = scan_rack([blank, PlaneGlass(plane)], home)
    masks, failures = mask_slides(home, [])
    assert failures.slide_id.tolist() == rows.slide_id.tolist()[:1]
    assert "--method otsu_grey" in failures.error[0]
    (made,) = masks.to_dict("records")
    assert made["slide_id"] == rows.slide_id[1]
    assert made["tissue_mm2"] == pytest.approx(np.pi * 0.2**2, rel=0.03)
    assert Path(made["mask_path"]) == mask_path(home, made["slide_id"])
    assert read_mask(mask_path(home, made["slide_id"])).bounds_l0 == pytest.approx(
        (300, 100, 800, 800), abs=17
    )
    _, failures = mask_slides(home, [rows.slide_id[0]], spec=MaskSpec(method="otsu_grey"))
    assert "--method otsu_saturation" in failures.error[0]

import cv2
import numpy as np
import pytest
import torch

from histo_nb.balancing.pixels import measure_statistics, read_tile, store_size
from histo_nb.balancing.transforms import (
    StainJitter,
    evaluation_transform,
    training_transform,
)
from histo_nb.scanning.virtual.pyramid import PyramidSpec, write_pyramid
from histo_nb.slide import Slide

STATISTICS = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "variance": [0.04, 0.04, 0.04]}


@pytest.fixture(scope="module")
def smooth_slide(tmp_path_factory):
    """A slide of slow waves: a small error in place shows as a small error in colour."""
    y, x = np.mgrid[:1024, :1280].astype(np.float32)
    waves = [np.sin(x / 90), np.cos(y / 70), np.sin((x + y) / 120)]
    plane = np.stack([(128 + 90 * w).astype(np.uint8) for w in waves], axis=2)
    thing = np.zeros((64, 64, 3), np.uint8)
    path = tmp_path_factory.mktemp("slide") / "smooth.svs"
    strips = [plane[top : top + 256] for top in range(0, 1024, 256)]
    write_pyramid(
        strips, path, spec=PyramidSpec(size=(1280, 1024)), label=thing, macro=lambda _: thing
    )
    return path, plane


def row(**changes):
    return {"x": 400, "y": 300, "size_l0": 256, "level": 0, "read_size": 256, "tile_size": 256,
            "read_path": "level0",
            "angle": 0.0, "flip": False, **changes}  # fmt: skip


@pytest.mark.parametrize("angle", [0.0, 90.0, 180.0, 270.0, 33.0, 145.5, 301.2])
@pytest.mark.parametrize("flip", [False, True])
def test_rotated_copies_are_real_tissue_up_to_the_corners(smooth_slide, angle, flip):
    path, plane = smooth_slide
    with Slide(path) as slide:
        tile = read_tile(slide, row(angle=angle, flip=flip))
    centre = (400 + 127.5, 300 + 127.5)
    turn = cv2.getRotationMatrix2D(centre, angle, 1.0)
    turn[:, 2] -= np.array(centre) - 127.5
    expected = cv2.warpAffine(plane, turn, (256, 256))
    expected = expected[:, ::-1] if flip else expected
    assert np.abs(tile.astype(int) - expected).max() <= 12  # JPEG and interpolation
    assert np.abs(tile.astype(int) - expected).mean() < 2


def test_large_tiles_are_kept_at_512(smooth_slide):
    assert store_size(1024) == 512
    assert store_size(64) == 64
    path, plane = smooth_slide
    with Slide(path) as slide:
        wide = row(x=0, y=0, size_l0=1024, read_size=1024, tile_size=1024)
        tile = read_tile(slide, wide)
    expected = cv2.resize(plane[:, :1024], (512, 512), interpolation=cv2.INTER_AREA)
    assert np.abs(tile.astype(int) - expected).mean() < 1


def test_statistics_equal_the_plain_formula():
    pixels = np.random.default_rng(0).integers(0, 256, (150, 16, 16, 3), dtype=np.uint8)
    rows = np.arange(10, 140)
    found = measure_statistics(pixels, rows)
    values = pixels[rows].reshape(-1, 3) / 255
    np.testing.assert_allclose(found["mean"], values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["std"], values.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["variance"], values.var(axis=0), rtol=1e-9)


def test_training_crops_cover_30_to_100_percent_at_3_4_to_4_3():
    crop = training_transform(image_size=64, statistics=STATISTICS, normalize="std").transforms[0]
    image = torch.zeros(3, 512, 512, dtype=torch.uint8)
    torch.manual_seed(0)
    boxes = [crop.make_params([image]) for _ in range(2000)]
    areas = np.array([b["height"] * b["width"] for b in boxes]) / 512**2
    ratios = np.array([b["width"] / b["height"] for b in boxes])
    assert 0.29 < areas.min() < 0.32
    assert 0.95 < areas.max() <= 1.0
    assert 0.74 < ratios.min() < 0.77
    assert 1.29 < ratios.max() < 1.34
    assert 0.5 < areas.mean() < 0.7


def test_variance_divides_by_the_variance():
    image = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    settings = {"image_size": 8, "statistics": STATISTICS}
    by_std = evaluation_transform(normalize="std", **settings)(image)
    by_variance = evaluation_transform(normalize="variance", **settings)(image)
    assert by_std.mean().item() == pytest.approx(0.5 / 0.2, rel=1e-6)
    assert by_variance.mean().item() == pytest.approx(0.5 / 0.04, rel=1e-6)


def test_evaluation_does_not_depend_on_the_batch():
    tiles = torch.randint(0, 256, (5, 3, 100, 100), dtype=torch.uint8)
    transform = evaluation_transform(image_size=64, statistics=STATISTICS, normalize="std")
    assert torch.equal(transform(tiles)[3], transform(tiles[3]))


def test_stain_jitter_keeps_glass_white_and_colours_in_range():
    torch.manual_seed(1)
    image = torch.rand(3, 16, 16)
    image[:, 0] = 1.0
    jittered = StainJitter(0.25)(image)
    assert torch.equal(jittered[:, 0], image[:, 0])
    assert not torch.allclose(jittered, image, atol=1e-3)
    assert jittered.min() >= 0
    assert jittered.max() <= 1

"""Loose images in class folders: what is taken, what is refused and in which words."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histo_nb.balancing.pixels import read_tile
from histo_nb.errors import DatasetError, MppError, SlideError, SpecError
from histo_nb.image import ImageFile, open_source
from histo_nb.tiling.images import ImageSpec, image_sizes, tile_images

RNG = np.random.default_rng(5)


def draw(path, width=96, height=96, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    depth = {"RGB": 3, "RGBA": 4}.get(mode)
    shape = (height, width, depth) if depth else (height, width)
    Image.fromarray(RNG.integers(0, 255, shape, dtype=np.uint8), mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of three images, one of them wide, and a manifest with patients and sites."""
    names = [f"{label}/{label}{i}.png" for label in ("benign", "bad") for i in range(3)]
    for name in names:
        draw(tmp_path / name)
    draw(tmp_path / "bad/bad2.png", width=250)
    table = pd.DataFrame({"file": names, "patient": ["p1", "p2", "p3"] * 2, "site": list("aabaab")})
    table.to_csv(tmp_path / "m.csv", index=False)
    return tmp_path


def test_images_become_labelled_tiles(folder):
    tiles, failures = tile_images(folder, groups="m.csv:patient,site")
    assert failures.empty
    assert tiles.label.value_counts().to_dict() == {"bad": 5, "benign": 3}  # 250 px: three tiles
    assert set(tiles.patient_id) == {"p1", "p2", "p3"}
    assert set(tiles.site) == {"a", "b"}
    assert tiles.mpp.isna().all()
    assert tiles.slide_id.nunique() == 6
    wide = tiles[tiles.image_width == 250]
    assert wide.x.tolist() == [0, 77, 154]
    assert image_sizes(tiles).width.max() == 250


def test_a_tile_is_the_pixels_of_its_place(folder):
    tiles, _ = tile_images(folder, spec=ImageSpec(tile_size=80, image_mpp=0.5))
    assert set(tiles.mpp) == {0.5}
    row = tiles[tiles.x > 0].iloc[-1]
    with open_source(row) as source:
        tile = read_tile(source, row.to_dict())
    whole = np.asarray(Image.open(row.slide_path))
    assert np.array_equal(tile, whole[row.y : row.y + 80, row.x : row.x + 80])


def test_centre_only_gives_one_tile_with_room(folder):
    tiles, _ = tile_images(folder, spec=ImageSpec(tile_size=60, centre_only=True))
    assert len(tiles) == 6
    assert tiles.y.tolist() == [18] * 6


def test_without_groups_each_image_stands_for_a_patient(folder):
    tiles, _ = tile_images(folder)
    assert (tiles.patient_id == tiles.slide_id).all()


def test_broken_images_are_named_and_the_others_taken(folder):
    whole = (folder / "bad/bad0.png").read_bytes()
    (folder / "bad/bad0.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bad/bad1.png").write_bytes(b"no picture at all")
    tiles, failures = tile_images(folder)
    assert failures.slide_id.tolist() == ["bad/bad0.png", "bad/bad1.png"]
    assert "cut off" in failures.error[0]
    assert "no image" in failures.error[1]
    assert tiles.slide_id.nunique() == 4


@pytest.mark.parametrize("fault", ["jpeg", "float", "alpha", "grey"])
def test_what_is_no_whole_8_bit_colour_image_is_refused(tmp_path, fault):
    path = tmp_path / "x.tif"
    if fault == "jpeg":
        path = draw(tmp_path / "x.jpg")
        path.write_bytes(path.read_bytes()[:-300])
    elif fault == "float":
        pixels = np.zeros((8, 8), np.float32)
        pixels[3, 3] = np.nan
        Image.fromarray(pixels).save(path)
    else:
        path = draw(tmp_path / "x.png", mode={"alpha": "RGBA", "grey": "L"}[fault])
    with pytest.raises(SlideError, match="cut off" if fault == "jpeg" else "8-bit RGB"):
        ImageFile(path)


def test_an_opaque_alpha_channel_is_no_fault(tmp_path):
    pixels = np.full((8, 8, 4), 255, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert ImageFile(tmp_path / "x.png").pixels.shape == (8, 8, 3)


def test_a_replaced_image_is_noticed(folder):
    tiles, _ = tile_images(folder)
    row = tiles[tiles.x > 0].iloc[0]
    draw(folder / "bad/bad2.png")
    with open_source(row) as source, pytest.raises(SlideError, match="replaced"):
        read_tile(source, row.to_dict())


def test_the_same_bytes_twice(folder):
    twice = (folder / "bad/bad0.png").read_bytes()
    (folder / "bad/again.png").write_bytes(twice)
    tiles, _ = tile_images(folder)
    assert tiles.slide_id.nunique() == 6
    (folder / "benign/again.png").write_bytes(twice)
    with pytest.raises(DatasetError, match="same image with two values of label"):
        tile_images(folder)


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ("m.csv", "MANIFEST.csv:COLUMN"),
        ("nowhere.csv:patient", "no table"),
        ("m.csv:person", "no column person"),
        ("m.csv:patient,label", "cannot be called label"),
    ],
)
def test_groups_that_cannot_be_read(folder, groups, reason):
    with pytest.raises((DatasetError, SpecError), match=reason):
        tile_images(folder, groups=groups)


def test_a_manifest_is_read_strictly(folder):
    table = pd.read_csv(folder / "m.csv", dtype=str)
    table.loc[0, "patient"] = "p1 "  # a blank makes no other patient
    table.to_csv(folder / "m.csv", index=False)
    tiles, _ = tile_images(folder, groups="m.csv:patient")
    assert set(tiles.patient_id) == {"p1", "p2", "p3"}
    twice = pd.concat([table, table.iloc[[0]].assign(patient="p2")])
    twice.to_csv(folder / "m.csv", index=False)
    with pytest.raises(DatasetError, match=r"different things of benign/benign0\.png"):
        tile_images(folder, groups="m.csv:patient")
    table.assign(patient="NA").to_csv(folder / "m.csv", index=False)
    assert set(tile_images(folder, groups="m.csv:patient")[0].patient_id) == {"NA"}


def test_images_outside_class_folders_are_not_left_out_silently(folder):
    draw(folder / "bad/deeper/x.png")
    with pytest.raises(DatasetError, match=r"1 images lie outside .* bad/deeper/x.png"):
        tile_images(folder)


def test_images_are_shrunk_to_the_scale_asked_for(folder):
    spec = ImageSpec(tile_size=40, image_mpp=0.25, mpp=0.5)
    tiles, _ = tile_images(folder, spec=spec)
    assert set(tiles.size_l0) == {80}
    with open_source(tiles.iloc[0]) as source:
        assert read_tile(source, tiles.iloc[0].to_dict()).shape == (40, 40, 3)
    with pytest.raises(MppError, match="never enlarged"):
        tile_images(folder, spec=ImageSpec(image_mpp=1.0, mpp=0.5))


def test_an_image_without_a_group(folder):
    draw(folder / "bad/new.png")
    with pytest.raises(DatasetError, match=r"1 images have no patient in m.csv, first bad/new.png"):
        tile_images(folder, groups="m.csv:patient")


def test_folders_and_sizes_that_do_not_fit(folder, tmp_path):
    with pytest.raises(DatasetError, match="is no folder"):
        tile_images(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no class folders"):
        tile_images(folder / "bad")
    with pytest.raises(DatasetError, match="tile_size ≤ 96"):
        tile_images(folder, spec=ImageSpec(tile_size=97))

"""Near-duplicates across a cut: found whatever was done to the copy; other tissue is no copy."""

import cv2
import numpy as np
import pandas as pd
import pytest
from textures import draw_tissue, draw_tissue_folder

from histo_nb.balancing.certificate import make_certificate
from histo_nb.balancing.dataset import StoreSpec, make_dataset
from histo_nb.balancing.duplicates import DuplicateSpec, find_duplicates, join_duplicates
from histo_nb.balancing.split import find_units
from histo_nb.errors import DatasetError, SpecError
from histo_nb.tiling.images import tile_images


def turn_and_zoom(image, angle, zoom=1.3):
    size = image.shape[0]
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), angle, zoom)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC)


def store_again(image, quality=60):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


CHANGES = {
    "the same bytes": lambda image: image.copy(),
    "JPEG": store_again,
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=0.85, beta=25),
    "90°": lambda image: np.rot90(image).copy(),
    "mirrored": lambda image: image[:, ::-1].copy(),
    "mirrored and 180°": lambda image: np.rot90(image[:, ::-1], 2).copy(),
    "21° and zoomed": lambda image: turn_and_zoom(image, 21),
    "mirrored, −17°, JPEG": lambda image: store_again(turn_and_zoom(image[:, ::-1], -17)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_among_other_tiles(change):
    tiles = [draw_tissue(seed) for seed in range(8)]
    found = find_duplicates([*tiles, CHANGES[change](tiles[3])], [0] * 8 + [1])
    assert found[["i", "j"]].to_numpy().tolist() == [[3, 8]]


def test_other_tiles_of_the_same_kind_are_no_copies():
    tiles = [draw_tissue(seed) for seed in range(30)]
    assert find_duplicates(tiles, np.arange(30)).empty
    assert join_duplicates(tiles).tolist() == list(range(30))


def test_only_pairs_across_the_cut_count():
    tiles = [draw_tissue(0), draw_tissue(0), draw_tissue(1), draw_tissue(1)]
    found = find_duplicates(tiles, ["train", "train", "train", "test"])
    assert found[["i", "j"]].to_numpy().tolist() == [[2, 3]]
    assert join_duplicates(tiles).tolist() == [0, 0, 1, 1]


def test_blank_tiles_say_nothing():
    rng = np.random.default_rng(0)
    blank = [np.full((224, 224, 3), 240, np.uint8) for _ in range(2)]
    noise = [(240 + rng.normal(0, 1, (224, 224, 3))).clip(0, 255).astype(np.uint8)] * 2
    assert find_duplicates([*blank, *noise], [0, 1, 0, 1]).empty


def test_the_answer_is_the_same_again():
    tiles = [draw_tissue(seed % 5) for seed in range(12)]
    first = find_duplicates(tiles, np.arange(12))
    pd.testing.assert_frame_equal(first, find_duplicates(tiles, np.arange(12)))


def test_what_is_asked_wrongly():
    with pytest.raises(DatasetError, match="2 groups for 1 images"):
        find_duplicates([draw_tissue(0)], [0, 1])
    with pytest.raises(SpecError, match="min_inliers"):
        DuplicateSpec(min_inliers=3)


@pytest.fixture
def folder(tmp_path):
    return draw_tissue_folder(tmp_path / "images")


def test_a_rotated_copy_on_the_other_side_is_refused_or_joined(home, folder):
    tiles, _ = tile_images(folder, groups="manifest.csv:patient")
    dataset = make_dataset(tiles, home)
    assert "no near-duplicates on two sides" in dataset.certificate["checked"]
    rows = dataset.rows
    seen = rows[rows.split == "test"].iloc[0]
    learnt = rows[(rows.split == "train") & rows.parent_id.isna() & (rows.label == seen.label)]
    copy = turn_and_zoom(cv2.imread(seen.slide_path), 12)
    cv2.imwrite(learnt.slide_path.iloc[0], copy)
    tiles, _ = tile_images(folder, groups="manifest.csv:patient")
    with pytest.raises(DatasetError, match=r"1 pairs of tiles on two sides .* --join-duplicates"):
        make_dataset(tiles, home)
    joined = make_dataset(tiles, home, store=StoreSpec(join_duplicates=True))
    assert joined.certificate["groups"] == ["look_alike"]
    sides = joined.rows.set_index("patient_id").split
    assert {sides[seen.patient_id].iloc[0]} == {sides[learnt.patient_id.iloc[0]].iloc[0]}


def test_without_a_search_the_certificate_says_so(home, folder):
    tiles, _ = tile_images(folder)
    dataset = make_dataset(tiles, home, store=StoreSpec(search_duplicates=False))
    assert dataset.certificate["unknown"] == [
        "patients: each image stands for one",
        "near-duplicates: nobody looked",
    ]
    assert make_certificate(dataset.rows)["unknown"] == dataset.certificate["unknown"]
    searched = make_dataset(tiles, home)
    assert searched.certificate["unknown"] == ["patients: each image stands for one"]


def test_lc25000(data):
    """Tiles turned by up to 25°, zoomed and flipped; the first groups of its table."""
    table = pd.read_csv(data / "lc25000_colon/groups.csv")
    table = table[table.group.isin(sorted(table.group.unique())[:40])].reset_index(drop=True)
    tiles = [cv2.imread(str(data / "lc25000_colon" / file)) for file in table.file]
    found = find_duplicates(tiles, np.arange(len(tiles)))
    same = table.group.to_numpy()[found[["i", "j"]].to_numpy()]
    n_true = sum(n * (n - 1) // 2 for n in table.group.value_counts())
    right = (same[:, 0] == same[:, 1]).sum()
    assert right / n_true > 0.9
    assert right / len(found) > 0.97
    units = find_units(
        table.assign(patient_id=table.file, look_alike=join_duplicates(tiles)), ["look_alike"]
    )
    torn = units.groupby(table.group).nunique().gt(1).mean()
    assert torn < 0.1

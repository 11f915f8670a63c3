"""The pixel store: decoded once, shared, resumed after a kill; data sets on top of it."""

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from textures import draw_folder, draw_tissue_folder

from histo_nb.balancing import pixels as stores
from histo_nb.balancing.balance import BalanceSpec
from histo_nb.balancing.dataset import StoreSpec, make_dataset, open_dataset
from histo_nb.balancing.pixels import fill_store, open_pixels, originals, read_tile, store_path
from histo_nb.balancing.split import SplitSpec
from histo_nb.errors import DatasetError, HistoError, SlideError, StorageError
from histo_nb.image import open_source
from histo_nb.tiling.images import ImageSpec, tile_images

TRUST = StoreSpec(search_duplicates=False)


@pytest.fixture
def tiles(tmp_path):
    """Tiles with room to turn, of six patients a class; one class is rarer."""
    folder = draw_folder(tmp_path / "images")
    for patient in range(6):
        (folder / f"bad/p{patient}_3.png").unlink()
    return tile_images(
        folder, groups="manifest.csv:patient", spec=ImageSpec(tile_size=40, centre_only=True)
    )[0]


def test_every_row_has_the_pixels_that_its_read_path_gives(home, tiles):
    dataset = make_dataset(tiles, home, store=TRUST)
    rows = dataset.rows
    assert rows.parent_id.notna().any()
    assert (rows.angle % 90 != 0).any()
    assert rows.flip.any()
    for number, row in enumerate(rows.to_dict("records")):
        with open_source(row) as source:
            assert np.array_equal(read_tile(source, row), dataset.pixels[number])
    assert dataset.pixels.shape == (len(rows), 40, 40, 3)


def test_tiles_are_decoded_once_for_all_splits(home, tiles, monkeypatch):
    make_dataset(tiles, home, store=TRUST, balance=BalanceSpec(free_angles=False))

    def never(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(stores, "read_tile", never)
    again = make_dataset(
        tiles,
        home,
        store=TRUST,
        split=SplitSpec(seed=3),
        balance=BalanceSpec(free_angles=False, balance_seed=3),
    )
    assert again.pixels[0].shape == (40, 40, 3)


def test_a_killed_decoding_goes_on_where_it_was(tmp_path, tiles):
    sources, folder = originals(tiles), tmp_path / "stores"
    tiles.to_parquet(tmp_path / "tiles.parquet")
    script = (
        "import sys, time, pandas as pd\n"
        "from pathlib import Path\n"
        "from histo_nb.balancing import pixels\n"
        "read = pixels.read_tile\n"
        "pixels.read_tile = lambda *a: (time.sleep(0.05), read(*a))[1]\n"
        "rows = pixels.originals(pd.read_parquet(sys.argv[1]))\n"
        "pixels.fill_store(rows, Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "tiles.parquet"), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    marks = store_path(sources, folder).with_suffix(".done")
    while process.poll() is None and not (marks.exists() and sum(marks.read_bytes()) >= 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    n_done = sum(marks.read_bytes())
    assert 5 <= n_done < len(sources)
    assert not store_path(sources, folder).exists()
    read = []
    whole = stores.read_tile
    try:
        stores.read_tile = lambda source, row: read.append(row["tile_id"]) or whole(source, row)
        fill_store(sources, folder)
    finally:
        stores.read_tile = whole
    assert len(read) == len(sources) - n_done
    pixels = open_pixels(sources.assign(parent_id=None), folder)
    for number, row in enumerate(sources.to_dict("records")):
        with open_source(row) as source:
            assert np.array_equal(read_tile(source, row), pixels[number])
    assert sorted(p.suffix for p in folder.iterdir()) == [".lock", ".npy"]


def test_the_size_is_said_before_and_a_small_disk_refused(tmp_path, tiles, monkeypatch, capsys):
    fill_store(originals(tiles), tmp_path / "a")
    assert "42 of 42 tiles into a store of 0.00 GB" in capsys.readouterr().out
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="GB are needed"):
        fill_store(originals(tiles), tmp_path / "b")


def test_an_image_that_broke_meanwhile_is_named(home, tiles, tmp_path):
    path = tmp_path / "images/bad/p0_0.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SlideError, match=r"p0_0\.png is damaged or cut off"):
        make_dataset(tiles, home, store=TRUST)
    assert not list(home.datasets.glob("D-*"))


def test_a_store_that_is_gone_is_said_when_the_data_set_opens(home, tiles):
    dataset = make_dataset(tiles, home, store=TRUST)
    for path in (home.datasets / "pixels").glob("*.npy"):
        path.unlink()
    with pytest.raises(DatasetError, match="decodes its tiles anew"):
        open_dataset(dataset.folder)
    assert make_dataset(tiles, home, store=TRUST).pixels[0].any()


@pytest.mark.parametrize("name", ["certificate.json", "statistics.json", "tiles.parquet"])
def test_a_damaged_data_set_is_named_and_made_again(home, tiles, name):
    dataset = make_dataset(tiles, home, store=TRUST)
    path = dataset.folder / name
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(HistoError, match="make"):
        open_dataset(dataset.folder)
    assert make_dataset(tiles, home, store=TRUST).dataset_id == dataset.dataset_id
    assert open_dataset(dataset.folder).statistics


def test_a_store_that_was_cut_off_is_decoded_again(home, tiles):
    dataset = make_dataset(tiles, home, store=TRUST)
    path = max((home.datasets / "pixels").glob("*.npy"), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match="cut off"):
        open_dataset(dataset.folder)
    assert make_dataset(tiles, home, store=TRUST).pixels[0].any()


def test_a_learning_curve_stays_when_its_data_set_is_made_again(home, tmp_path):
    tiles, _ = tile_images(draw_tissue_folder(tmp_path / "tissue"), groups="manifest.csv:patient")
    folder = make_dataset(tiles, home, store=TRUST).folder
    (folder / "learning_curve.csv").write_text("patients\n3\n")
    make_dataset(tiles, home)  # now with the search for near-duplicates
    assert (folder / "learning_curve.csv").read_text() == "patients\n3\n"
    make_dataset(tiles, home, store=TRUST)
    assert "no near-duplicates on two sides" in open_dataset(folder).certificate["checked"]


def test_tiles_of_two_scales_are_not_learnt_together(home, tiles):
    with pytest.raises(DatasetError, match="different mpp"):
        make_dataset(tiles.assign(mpp=[None] * 21 + [0.5] * 21), home, store=TRUST)

"""Stored slides hashed again: every flipped bit is found."""

import random

import pytest
from counts import count
from glasses import PlaneGlass, waves

from histo_nb.errors import CatalogError
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.intake import receive
from histo_nb.scanning.verify import verify_slides
from histo_nb.scanning.virtual.scanner import write_scan


@pytest.fixture
def stored(home, tmp_path):
    for i in range(3):
        path = write_scan(PlaneGlass(waves(500 + i, 400)), tmp_path / f"{i}.svs", spec=ScanSpec())
        receive(path, home)
    return home.catalog.slides()


def test_whole_slides_are_whole_and_wait_for_their_next_turn(home, stored):
    whole, damaged = verify_slides(home)
    assert damaged.empty
    assert set(whole.slide_id) == set(stored.slide_id)
    assert home.catalog.slide_files().verified_at.notna().all()
    again, _ = verify_slides(home, older_than_days=1)
    assert again.empty
    assert len(verify_slides(home, [stored.slide_id[0]])[0]) == 1
    with pytest.raises(CatalogError):
        verify_slides(home, ["S-0"])


def test_every_single_flipped_bit_is_found(home, stored):
    rng = random.Random(5)
    for _ in range(count(quick=12, full=100)):
        row = stored.iloc[rng.randrange(len(stored))]
        path = home.slides / f"{row.slide_id}.svs"
        whole = path.read_bytes()
        flipped = bytearray(whole)
        place = rng.randrange(8 * len(whole))
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        _, damaged = verify_slides(home)
        assert damaged.slide_id.tolist() == [row.slide_id], place
        files = home.catalog.slide_files()
        assert files[files.damage.notna()].slide_id.tolist() == [row.slide_id]
        path.write_bytes(whole)
    assert verify_slides(home)[1].empty
    assert home.catalog.slide_files().damage.isna().all()


def test_a_slide_that_is_gone_or_emptied_is_named(home, stored):
    (home.slides / f"{stored.slide_id[0]}.svs").unlink()
    (home.slides / f"{stored.slide_id[1]}.svs").write_bytes(b"")
    whole, damaged = verify_slides(home)
    assert whole.slide_id.tolist() == [stored.slide_id[2]]
    errors = damaged.set_index("slide_id").error
    assert "is gone" in errors[stored.slide_id[0]]
    assert "SHA-256" in errors[stored.slide_id[1]]

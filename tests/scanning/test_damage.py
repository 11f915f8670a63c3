"""No damage of a kind that disks and copying programs do gets past the structure walk."""

from pathlib import Path

import pytest
from counts import count
from damage import CODECS, DAMAGES, write_slide

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.structure.check import check_structure

COUNTS = {
    "truncation": count(quick=8, full=22),
    "zeroed tail": count(quick=5, full=15),
    "zeroed block": count(quick=16, full=100),
}


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("codec", CODECS)
def test_damaged_slides_are_refused(codec: str, bigtiff: bool, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slide.svs", codec, bigtiff=bigtiff, tile=240 if bigtiff else 256)
    check_structure(path)
    whole = path.read_bytes()
    for kind, make in DAMAGES.items():
        for n, spoilt in enumerate(make(whole, COUNTS[kind])):
            assert spoilt != whole
            path.write_bytes(spoilt)
            with pytest.raises(SlideError, match=r"^slide\.svs "):
                check_structure(path)
                pytest.fail(f"{codec}: {kind} {n} was accepted")


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs"])
def test_damaged_real_slides_are_refused(name: str, data: Path, tmp_path: Path) -> None:
    whole = (data / "slides" / "real" / name).read_bytes()
    path = tmp_path / "slide.svs"
    for kind, make in DAMAGES.items():
        for spoilt in make(whole, COUNTS[kind]):
            path.write_bytes(spoilt)
            with pytest.raises(SlideError):
                check_structure(path)
                pytest.fail(f"{kind} was accepted")


@pytest.mark.parametrize("codec", ["JPEG", "uncompressed"])
def test_a_block_lost_beside_any_directory_is_noticed(codec: str, tmp_path: Path) -> None:
    """Also what a lost block does to directories, lists of tiles and texts is refused."""
    path = write_slide(tmp_path / "slide.svs", codec, tile=64)
    whole = path.read_bytes()
    mark = whole.find(b"Aperio")
    while mark > 0:
        for start in range(max(mark - 5000, 0), mark + 1000, count(quick=499, full=17)):
            if not whole[start : start + 4096].strip(b"\0"):
                continue  # padding of a tile: nothing changes
            path.write_bytes(whole[:start] + bytes(4096) + whole[start + 4096 :])
            with pytest.raises(SlideError):
                check_structure(path)
        mark = whole.find(b"Aperio", mark + 1)


def test_the_reason_is_in_words_and_says_what_to_do(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "slide.svs", "JPEG")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IncompleteError, match=r"slide\.svs is cut off.*copy it again, or scan"):
        check_structure(path)
    path.write_bytes(whole[:300_000] + bytes(4096) + whole[304_096:])
    with pytest.raises(IncompleteError, match=r"never written.*copy it again, or scan"):
        check_structure(path)

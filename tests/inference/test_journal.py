"""The journal of a slide: what was written whole stays, whatever became of the rest."""

import subprocess
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_nb.errors import SlideError, StorageError
from histo_nb.inference.journal import Journal

N, CLASSES = 40, 3
KEPT = ("number", "probabilities", "distance", "colour", "sharpness")
DECIDES = ["M-1", "openvino fp32", 3.5]
WRITTEN = [5, 3, 9, *range(10, 20), 30, 31, 39, 0, 1, 2, 4]


def said(numbers) -> dict[str, np.ndarray]:
    """Answers that follow from the tile's number, NaN among them."""
    numbers = np.array(numbers, int)
    rng = [np.random.default_rng(int(number)) for number in numbers]
    return {
        "number": numbers,
        "probabilities": np.array([r.dirichlet([1] * CLASSES) for r in rng], "f4").reshape(-1, 3),
        "distance": np.where(numbers % 5 == 0, np.nan, numbers / 3),
        "colour": np.array([r.random(3) for r in rng]).reshape(-1, 3),
        "sharpness": numbers / 7,
    }


def open_journal(path: Path, decides=DECIDES):
    return closing(Journal(path, decides, n_tiles=N, n_classes=CLASSES))


def write(path: Path, *writes, decides=DECIDES) -> bytes:
    with open_journal(path, decides) as journal:
        for numbers in writes:
            journal.write(**said(numbers))
    return path.read_bytes()


def check(path: Path, numbers, decides=DECIDES) -> None:
    """A journal holds the answers of these tiles, to the last bit, and knows the others."""
    expected = said(numbers)
    with open_journal(path, decides) as journal:
        assert journal.n_done == len(expected["number"])
        for name in KEPT:
            np.testing.assert_array_equal(journal.records[name], expected[name])
        assert journal.todo.tolist() == sorted(set(range(N)) - set(numbers))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "S-1" / "M-1.journal"


@pytest.fixture
def whole(path) -> bytes:
    """What a journal of 20 tiles in three writes holds."""
    return write(path, WRITTEN[:3], WRITTEN[3:13], WRITTEN[13:])


def size_of_record(content: bytes) -> int:
    return (len(content) - len(header(content))) // len(WRITTEN)


def header(content: bytes) -> bytes:
    return content[: content.index(b"\n") + 1]


def test_a_new_journal_knows_nothing(path):
    check(path, [])
    check(path, [])


def test_answers_are_read_back_to_the_last_bit(path, whole):
    check(path, WRITTEN)
    assert path.read_bytes() == whole


def test_answers_are_on_the_disk_as_soon_as_they_are_written(path):
    """Else a kill costs more than the tiles in the network."""
    with open_journal(path) as journal:
        sizes = []
        for number in range(3):
            journal.write(**said([number]))
            sizes.append(path.stat().st_size)
    assert np.diff(sizes).tolist() == [sizes[1] - sizes[0]] * 2
    assert sizes[1] > sizes[0] > 0


def test_it_is_gone_when_the_result_is_written(path, whole):
    with open_journal(path) as journal:
        journal.remove()
        assert not path.exists()
    check(path, [])


def test_no_write_changes_what_was_written_before(path, whole):
    assert write(path, [7], [8]).startswith(whole)
    check(path, [*WRITTEN, 7, 8])


@pytest.mark.parametrize("lost", [1, 3, 40, 63, 64, 65, 66, 67, 100, 700])
def test_a_torn_end_is_cut_off_and_written_again(path, whole, lost):
    path.write_bytes(whole[:-lost])
    record = size_of_record(whole)
    n = len(WRITTEN) - -(-lost // record)
    check(path, WRITTEN[:n])
    assert path.read_bytes() == whole[: len(whole) - record * (len(WRITTEN) - n)]
    assert write(path, WRITTEN[n:]) == whole
    check(path, WRITTEN)


@given(data=st.data())
def test_a_flipped_bit_costs_its_record_and_all_after(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "j"
    content = bytearray(write(path, WRITTEN))
    start, record = len(header(content)), size_of_record(content)
    place = data.draw(st.integers(start, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    check(path, WRITTEN[: (place - start) // record])


@given(tail=st.binary(max_size=300) | st.integers(1, 400).map(bytes))
def test_no_garbage_is_taken_for_an_answer(tmp_path_factory, tail):
    """Zeros too: so a file ends where power failed before its data were on the disk."""
    path = tmp_path_factory.mktemp("tail") / "j"
    content = write(path, [1, 2])
    path.write_bytes(content + tail)
    check(path, [1, 2])
    assert path.read_bytes() == content


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_file_cut_off_in_its_header_is_begun_anew(path, whole, kept):
    path.write_bytes(header(whole)[:kept])
    check(path, [])
    path.write_bytes(header(whole)[:kept])
    write(path, [6])
    check(path, [6])


@pytest.mark.parametrize("bit", [0, 5, 30])
def test_a_damaged_header_is_begun_anew(path, whole, bit):
    path.write_bytes(bytes([*whole[:bit], whole[bit] ^ 1, *whole[bit + 1 :]]))
    write(path, [6])
    check(path, [6])


@pytest.mark.parametrize(
    "other",
    [
        ["M-2", "openvino fp32", 3.5],
        ["M-1", "openvino int8", 3.5],
        ["M-1", "openvino fp32", 3.5000000001],
        ["M-1", "openvino fp32", None],
        [["M-1", "openvino fp32", 3.5]],
    ],
    ids=str,
)
def test_the_journal_of_another_analysis_is_never_gone_on_with(path, whole, other):
    write(path, [6], decides=other)
    check(path, [6], other)
    check(path, [])


def test_what_is_no_journal_is_replaced(path):
    path.parent.mkdir()
    path.write_text('{"histo_nb": 1}\n' + "x" * 500)
    write(path, [6])
    check(path, [6])


def test_two_analyses_of_one_slide_at_once_are_told_apart(path):
    """Both would append, and each tile would stand there twice."""
    with open_journal(path) as journal:
        journal.write(**said([0, 1]))
        with pytest.raises(SlideError, match=r"S-1 is being analysed by another process"):
            Journal(path, DECIDES, n_tiles=N, n_classes=CLASSES)
        journal.write(**said([2]))
    check(path, [0, 1, 2])


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KB, where mounting is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs root on Linux")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def test_a_full_disk_is_named_and_the_answers_before_it_stay(small_disk):
    path = small_disk / "j"
    with open_journal(path) as journal:
        journal.write(**said(range(10)))
        filler = fill(small_disk)
        with pytest.raises(StorageError, match="disk is full"):
            for _ in range(100):  # what is left of its last page takes some
                journal.write(**said([10, 11, 12]))
        n_written = journal.n_done
        assert n_written < 300
    with open_journal(path) as again:
        assert n_written <= again.n_done <= n_written + 3
        np.testing.assert_array_equal(again.records["number"][:13], range(13))
        filler.unlink()
        again.write(**said([20, 21]))
        n_written = again.n_done
    with open_journal(path) as last:
        assert last.records["number"][-2:].tolist() == [20, 21]
        assert last.n_done == n_written


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "S-1").touch()
    with pytest.raises(StorageError, match="S-1"):
        open_journal(tmp_path / "S-1" / "M-1.journal")

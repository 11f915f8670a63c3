import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from histo_nb import files, processes
from histo_nb.errors import SpecError, StorageError
from histo_nb.files import (
    check_free_space,
    hash_content,
    hash_file,
    locked,
    write_json,
    writing,
    writing_folder,
)
from histo_nb.home import FOLDERS, open_home

NOISE = np.random.default_rng(0).integers(0, 255, (1000, 1000), np.uint8)


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_is_whole_or_the_old_one(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with writing(path) as temporary:
        temporary.write_text("old")
        assert temporary.suffix == ".txt"
        assert not path.exists()
    with pytest.raises(SpecError), writing(path) as temporary:
        temporary.write_text("half")
        raise SpecError("no")
    assert path.read_text() == "old"
    assert names(tmp_path / "a") == ["b.txt"]


def test_a_folder_is_whole_or_the_old_one(tmp_path):
    path = tmp_path / "a" / "b"
    for word in ("old", "new"):
        with writing_folder(path, replace=True) as temporary:
            (temporary / word).touch()
    with pytest.raises(StorageError, match="exists already"), writing_folder(path) as temporary:
        (temporary / "other").touch()
    with pytest.raises(KeyboardInterrupt), writing_folder(path, replace=True) as temporary:
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert names(tmp_path / "a") == ["b", "new"]


def test_files_get_the_rights_of_their_folder(tmp_path):
    umask = os.umask(0o027)
    try:
        with writing(tmp_path / "a") as temporary:
            temporary.touch()
        with writing_folder(tmp_path / "b") as temporary:
            pass
    finally:
        os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750


def test_a_killed_writer_leaves_the_old_file_and_blocks_nobody(tmp_path):
    write_json(tmp_path / "a.json", "old")
    code = """if True:
        import sys, time
        from pathlib import Path
        from histo_nb.files import writing, writing_folder
        folder = Path(sys.argv[1])
        with writing(folder / "a.json") as a, writing_folder(folder / "b", replace=True) as b:
            a.write_text("half")
            (b / "half").touch()
            time.sleep(60)
    """
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while not any(name == "half" for name in names(tmp_path)):
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert json.loads((tmp_path / "a.json").read_text()) == "old"
    assert not (tmp_path / "b").exists()
    write_json(tmp_path / "a.json", "new")
    with writing_folder(tmp_path / "b", replace=True) as temporary:
        (temporary / "whole").touch()
    assert names(tmp_path) == ["a.json", "b", "whole"], "what the killed one left is swept"


def leave(path, *, pid, machine=None, kind="n"):
    left = path.with_name(f".{kind}{machine or processes.machine()}-{pid}-01234567-{path.name}")
    left.mkdir()
    (left / "half").touch()
    return left


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_what_a_living_process_writes_is_not_swept(tmp_path):
    living = leave(tmp_path / "a", pid=os.getppid())
    with writing_folder(tmp_path / "a") as own:
        write_json(tmp_path / "b.json", 1)
        assert {path.name for path in (living, own)} <= set(names(tmp_path))


def test_what_another_machine_writes_is_swept_after_a_day(tmp_path, ended):
    elsewhere = leave(tmp_path / "a.json", pid=ended, machine="0" * 16)
    write_json(tmp_path / "a.json", 1)
    assert elsewhere.exists()
    os.utime(elsewhere, (time.time() - 2 * 86400,) * 2)
    write_json(tmp_path / "a.json", 1)
    assert not elsewhere.exists()


def test_a_killed_process_that_has_the_number_of_another_is_swept_after_a_day(tmp_path):
    left = leave(tmp_path / "a.json", pid=os.getpid())
    os.utime(left, (time.time() - 2 * 86400,) * 2)
    write_json(tmp_path / "a.json", 1)
    assert not left.exists()


def test_a_set_aside_folder_is_kept_while_it_is_all_there_is(tmp_path, ended):
    aside = leave(tmp_path / "a", pid=ended, kind="o")
    write_json(tmp_path / "b.json", 1)
    assert aside.exists()
    for _ in range(2):
        with writing_folder(tmp_path / "a", replace=True):
            pass
    assert names(tmp_path) == ["a", "b.json"]


def test_names_that_only_look_alike_are_left_alone(tmp_path, ended):
    alike = [".0123456789ab-a", f".n{processes.machine()}-x-01234567-a", "n-a"]
    for name in alike:
        (tmp_path / name).touch()
    write_json(tmp_path / "a", 1)
    assert names(tmp_path) == sorted([*alike, "a"])


def test_a_large_folder_is_looked_through_seldom(tmp_path, ended, monkeypatch):
    monkeypatch.setattr(files, "QUICK_S", 0.0)  # each is large
    monkeypatch.setattr(files, "REST", 1e9)
    write_json(tmp_path / "a.json", 1)
    left = leave(tmp_path / "a.json", pid=ended)
    write_json(tmp_path / "a.json", 1)
    assert left.exists()


def _hold(path):
    with locked(path, timeout_s=20.0):
        return "held"


def test_a_lock_is_waited_for(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        with locked(tmp_path / "lock"):
            waiting = [pool.submit(_hold, tmp_path / "lock") for _ in range(8)]
            time.sleep(0.1)
            assert not any(one.done() for one in waiting)
        assert [one.result() for one in waiting] == ["held"] * 8


def test_a_lock_is_given_up_after_a_while_and_free_again(tmp_path):
    with locked(tmp_path / "lock"):
        for _ in range(3):
            with pytest.raises(TimeoutError), locked(tmp_path / "lock", timeout_s=0.05):
                pass
    for _ in range(2):
        time.sleep(0.1)  # it is theirs for a moment
        assert _hold(tmp_path / "lock") == "held", "those who gave up do not keep it"


def test_many_writers_of_one_name_leave_one_whole_file(tmp_path):
    path = tmp_path / "a.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_json(path, [i] * 1000), range(50)))
    assert len(set(json.loads(path.read_text()))) == 1
    assert names(tmp_path) == ["a.json"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KB, where mounting is allowed."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs root on Linux")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(NOISE.tobytes()),
        lambda path: tifffile.imwrite(path, NOISE),
        lambda path: save_file({"noise": NOISE}, path),
        lambda path: cv2.imwrite(str(path), NOISE),
    ],
    ids=["bytes", "tifffile", "safetensors", "opencv"],
)
def test_a_full_disk_is_named(small_disk, write):
    write_json(small_disk / "a.png", "old")
    with pytest.raises(StorageError, match="disk is full"), writing(small_disk / "a.png") as path:
        write(path)
    with pytest.raises(StorageError), writing_folder(small_disk / "b") as folder:
        (folder / "noise").write_bytes(NOISE.tobytes())
    assert names(small_disk) == ["a.png"]
    assert json.loads((small_disk / "a.png").read_text()) == "old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_refusals_of_the_system_are_named(tmp_path, number):
    with pytest.raises(StorageError, match="then run again"), writing(tmp_path / "a"):
        raise OSError(number, os.strerror(number))


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "a"):
        raise ZeroDivisionError
    assert not names(tmp_path)


def test_space_is_checked_before_it_is_used(tmp_path):
    check_free_space(tmp_path, 1)
    with pytest.raises(StorageError, match="HISTO_HOME"):
        check_free_space(tmp_path, 1 << 60)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_like), st.randoms())
def test_a_content_hash_does_not_depend_on_order(content, random):
    items = list(content.items())
    random.shuffle(items)
    assert hash_content(dict(items)) == hash_content(content)
    assert hash_content({**content, "more": 1, "and": [content]}) != hash_content(content)


def test_a_file_hash_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a").startswith("ba7816bf8f01cfea")  # FIPS 180-2, appendix B.1


def test_a_home_has_its_rooms(tmp_path, monkeypatch):
    monkeypatch.setenv("HISTO_HOME", str(tmp_path / "by name"))
    home = open_home()
    assert names(home.root) == sorted(FOLDERS)
    assert all(getattr(home, name) == home.root / name for name in FOLDERS)
    assert home.identity.stat().st_mode & 0o777 == 0o700
    assert open_home() == home
    assert open_home(tmp_path / "given").root == tmp_path / "given"


def test_a_file_in_the_place_of_a_home_is_named(tmp_path):
    (tmp_path / "home").touch()
    for root in (tmp_path / "home", tmp_path / "home" / "below"):
        with pytest.raises(StorageError, match="home"):
            open_home(root)

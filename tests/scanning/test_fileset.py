"""Slides of several files are taken whole, under names that tell nothing."""

from pathlib import Path

import pytest

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.fileset import find_slides, gather
from histo_nb.scanning.intake import receive


@pytest.fixture
def mirax(tmp_path) -> Path:
    folder = tmp_path / "Maria"
    folder.mkdir()
    (folder / "Slidedat.ini").write_bytes(
        b"\xef\xbb\xbf[DATAFILE]\r\nFILE_COUNT = 2\r\nFILE_0 = Data0.dat\r\nFILE_1 = Data1.dat\r\n"
        b"[HIERARCHICAL]\r\nINDEXFILE = Index.dat\r\n"
    )
    for name in ("Data0.dat", "Data1.dat", "Index.dat"):
        (folder / name).write_bytes(b"data of " + name.encode())
    main = tmp_path / "Maria.mrxs"
    main.write_bytes(b"\xff\xd8 overview \xff\xd9")
    return main


@pytest.fixture
def hamamatsu(tmp_path) -> Path:
    main = tmp_path / "a.vms"
    main.write_text(
        "[Virtual Microscope Specimen]\nImageFile=a(0,0).jpg\nImageFile(1,0)=a(1,0).jpg\n"
        "MapFile=a_map.jpg\nOptimisationFile=a.opt\nPatientID=secret\n"
    )
    for name in ("a(0,0).jpg", "a(1,0).jpg", "a_map.jpg", "a.opt"):
        (tmp_path / name).write_bytes(b"\xff\xd8" + name.encode() + b"\xff\xd9")
    return main


def test_a_mirax_slide_is_its_file_and_its_folder(mirax):
    found = gather(mirax)
    assert found.main == mirax
    assert found.names == (
        "slide.mrxs", "slide/Data0.dat", "slide/Data1.dat", "slide/Index.dat", "slide/Slidedat.ini",
    )  # fmt: skip
    assert found.main_name == "slide.mrxs"
    assert found.n_bytes == sum(p.stat().st_size for p in found.files)
    assert list(find_slides(mirax.parent)) == [mirax]


@pytest.mark.parametrize("missing", ["Data1.dat", "Index.dat", "Slidedat.ini"])
def test_a_mirax_slide_without_a_part_is_incomplete(mirax, missing):
    (mirax.with_suffix("") / missing).unlink()
    with pytest.raises(IncompleteError, match=r"Maria\.mrxs lacks"):
        gather(mirax)


def test_a_hamamatsu_slide_is_what_its_file_lists(hamamatsu):
    names = gather(hamamatsu).names
    assert names == ("slide.vms", "a(0,0).jpg", "a(1,0).jpg", "a_map.jpg", "a.opt")
    assert list(find_slides(hamamatsu.parent)) == [hamamatsu]
    (hamamatsu.parent / "a(1,0).jpg").unlink()
    with pytest.raises(IncompleteError, match="lacks 1 of its 4 files"):
        gather(hamamatsu)


@pytest.mark.parametrize("outside", ["../secret.jpg", "/etc/passwd", "..\\a.jpg"])
def test_files_elsewhere_are_not_followed(hamamatsu, outside):
    hamamatsu.write_text(f"[V]\nImageFile={outside}\n")
    with pytest.raises(SlideError, match="outside its folder"):
        gather(hamamatsu)


def test_a_refused_slide_of_many_files_is_kept_whole(home, mirax):
    arrival = receive(mirax, home)
    folder = home.quarantine / arrival.quarantine_id
    kept = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert kept == {*gather(mirax).names, "reason.json"}
    assert "Maria" not in arrival.reason
    assert arrival.quarantine_id in arrival.reason


def test_a_main_file_without_its_folder_says_what_to_copy(home, mirax, tmp_path):
    alone = tmp_path / "alone" / "Maria.mrxs"
    alone.parent.mkdir()
    alone.write_bytes(mirax.read_bytes())
    arrival = receive(alone, home)
    assert arrival.step == "files"
    assert "together with the folder" in arrival.reason
    assert "Maria" not in arrival.reason


@pytest.mark.parametrize("stub", ["Mirax2-Fluorescence-1.mrxs", "Hamamatsu-VMS/*.vms"])
def test_stubs_of_real_slides_are_refused_with_all_their_files(home, data, stub):
    (main,) = (data / "malformed" / "multifile_stubs").rglob(stub)
    arrival = receive(main, home)
    assert arrival.slide_id is None
    assert len(list((home.quarantine / arrival.quarantine_id).rglob("*"))) > 5

"""The intake desk: whole and once, or in quarantine with its reason."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile
from counts import count
from glasses import PlaneGlass, waves

from histo_nb.errors import CatalogError, MppError, SlideError, SpecError, StorageError
from histo_nb.files import hash_file, staging
from histo_nb.scanning import intake
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.intake import IntakeSpec, correct_slide, receive, release, take_in
from histo_nb.scanning.probe import probe_slide
from histo_nb.scanning.virtual.scanner import write_scan

HOSTILE = [
    "slides/git_lfs_pointer_default.svs",
    "slides/histolab_broken-html.svs",
    "slides/histolab_broken.svs",
    "slides/large_image_zero_gi.tif",
    "slides/osp_unopenable.tiff",
    "slides/osp_unreadable.svs",
    "slides/panimg_invalid_resolutions_tiff.tif",
    "abort/CRASH_openslide_1_2155_t_jp2k.svs",
    "abort/CRASH_openslide_2_18_t_jpeg.svs",
    "abort/CRASH_openslide_2_2615_t_jp2k.svs",
]


@pytest.fixture
def scan(tmp_path) -> Path:
    return write_scan(PlaneGlass(waves(700, 600)), tmp_path / "a.svs", spec=ScanSpec())


def check_clean(home) -> None:
    """Nothing is half-filed: files and rows agree, staging is empty."""
    rows = home.catalog.slide_files()
    assert sorted(rows.name) == sorted(
        str(p.relative_to(home.slides)) for p in home.slides.rglob("*") if p.is_file()
    )
    for row in rows.to_dict("records"):
        assert hash_file(home.slides / row["name"]) == row["sha256"]
    assert not [p for p in home.staging.iterdir() if p.name != ".sweeping"]
    assert not [p for p in home.root.rglob(".*") if p.name != ".sweeping"]


def check_refused(home, path: Path) -> str:
    """The file is refused, kept in quarantine with its reason, and not in the catalogue."""
    rows, refused = take_in([path], home)
    assert rows.empty
    (row,) = refused.to_dict("records")
    folder = home.quarantine / row["slide_id"]
    (kept,) = [p for p in folder.iterdir() if p.name != "reason.json"]
    assert kept.read_bytes() == path.read_bytes()
    reason = json.loads((folder / "reason.json").read_text())
    assert reason["reason"].replace(row["slide_id"], path.name) == row["error"]
    assert reason["step"] == row["step"]
    assert row["slide_id"] in reason["reason"]
    assert "slide." not in reason["reason"], "the staging name tells a technician nothing"
    assert home.catalog.refusals().reason.tolist() == [reason["reason"]]
    assert home.catalog.events().subject.tolist() == [row["slide_id"]]
    with pytest.raises(CatalogError, match="no slides"):
        home.catalog.slides()
    check_clean(home)
    return str(row["error"])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_and_nobody_is_harmed(home, data, name):
    check_refused(home, data / "malformed" / name)


def test_every_hostile_slide_is_in_the_list(data):
    there = {f"{room}/{p.name}" for room in ("slides", "abort") for p in
             (data / "malformed" / room).iterdir()}  # fmt: skip
    assert there == set(HOSTILE)


@pytest.mark.parametrize("share", [0, 0.3, 0.97])
def test_a_file_cut_off_is_refused(home, scan, share):
    scan.write_bytes(scan.read_bytes()[: int(share * scan.stat().st_size)])
    check_refused(home, scan)


def test_a_good_file_beside_a_bad_one_is_taken(home, scan, tmp_path):
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    missing = tmp_path / "missing.svs"
    files = [tmp_path / "bad.svs", missing, scan]
    rows, refused = take_in(files, home, spec=IntakeSpec(patient_id="P9"))
    assert rows.patient_id.tolist() == ["P9"]
    assert rows.mpp_source.tolist() == ["file"]
    assert Path(rows.slide_path[0]).read_bytes() == scan.read_bytes()
    assert len(refused) == 2
    assert "missing.svs does not exist" in refused.error[1]
    assert len(list(home.quarantine.iterdir())) == 1
    check_clean(home)


def test_a_folder_is_taken_with_all_its_slides(home, scan, tmp_path):
    (tmp_path / "deeper").mkdir()
    other = write_scan(PlaneGlass(waves(600, 500)), tmp_path / "deeper" / "b.svs", spec=ScanSpec())
    (tmp_path / "notes.txt").write_text("no slide, and nobody's business")
    rows, refused = take_in([tmp_path], home)
    assert refused.empty
    assert set(rows.sha256) == {hash_file(scan), hash_file(other)}


def test_the_same_file_twice_is_one_slide(home, scan, tmp_path):
    copy = tmp_path / "other name.svs"
    copy.write_bytes(scan.read_bytes())
    first, second = receive(scan, home), receive(copy, home)
    assert first.slide_id == second.slide_id
    assert (first.new, second.new) == (True, False)
    assert len(home.catalog.slides()) == 1
    check_clean(home)


def test_other_words_about_a_known_slide_are_not_swallowed(home, scan):
    slide_id = receive(scan, home, spec=IntakeSpec(patient_id="P1")).slide_id
    receive(scan, home, spec=IntakeSpec(patient_id="P1"))
    for spec in (IntakeSpec(patient_id="P2"), IntakeSpec(slide_mpp=0.25)):
        with pytest.raises(CatalogError, match=f"histo-nb correct {slide_id}"):
            receive(scan, home, spec=spec)
    correct_slide(slide_id, home, patient_id="P2", slide_mpp=0.25)
    row = home.catalog.slide(slide_id)
    assert (row["patient_id"], row["slide_mpp"], row["mpp_source"]) == ("P2", 0.25, "given")
    receive(scan, home, spec=IntakeSpec(patient_id="P2", slide_mpp=0.25))
    with pytest.raises(SpecError, match="--patient"):
        correct_slide(slide_id, home)
    with pytest.raises(MppError):
        correct_slide(slide_id, home, slide_mpp=1000)


def test_a_slide_that_cannot_be_filed_leaves_no_row(home, scan, monkeypatch):
    def fail(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(type(home.catalog), "add_slide", fail)
        with pytest.raises(StorageError):
            receive(scan, home)
    with monkeypatch.context() as broken:
        broken.setattr(intake, "copy_hashed", fail)
        with pytest.raises(StorageError):
            receive(scan, home)
    assert receive(scan, home).new
    check_clean(home)


def test_a_file_that_grows_while_it_is_copied_is_not_taken(home, scan, monkeypatch):
    copy = intake.copy_hashed

    def slow(source: Path, target: Path) -> str:
        digest = copy(source, target)
        with scan.open("ab") as file:
            file.write(b"more")
        return digest

    monkeypatch.setattr(intake, "copy_hashed", slow)
    with pytest.raises(SlideError, match=r"a\.svs changed while it was copied"):
        receive(scan, home)
    check_clean(home)


def test_a_slide_without_mpp_waits_for_it_in_quarantine(home, data):
    path = data / "slides" / "real" / "TCGA-CR-7395-01A-01-TS1.svs"
    with pytest.raises(MppError, match="--slide-mpp"):
        probe_slide(path)
    assert "--slide-mpp" in check_refused(home, path)
    (quarantine_id,) = home.catalog.refusals().quarantine_id
    again = release(quarantine_id, home)
    assert (again.quarantine_id, again.step) == (quarantine_id, "mpp")
    arrival = release(quarantine_id, home, spec=IntakeSpec(slide_mpp=0.25, patient_id="P3"))
    row = home.catalog.slide(arrival.slide_id)
    assert (row["slide_mpp"], row["mpp_source"], row["patient_id"]) == (0.25, "given", "P3")
    assert row["sha256"] == hash_file(path)
    assert home.catalog.refusals().empty
    assert home.catalog.refusals(released=True).slide_id.tolist() == [arrival.slide_id]
    assert not list(home.quarantine.iterdir())
    check_clean(home)
    with pytest.raises(CatalogError, match="histo-nb quarantine"):
        release(quarantine_id, home)


@pytest.mark.parametrize("wrong", [0, -0.5, 1000, float("nan")])
def test_an_absurd_mpp_given_is_refused(scan, wrong):
    with pytest.raises(MppError, match=r"a\.svs"):
        probe_slide(scan, slide_mpp=wrong)


def with_words(path: Path, old: bytes, new: bytes) -> Path:
    """Change what a file says of itself; both must be as long."""
    assert len(old) == len(new)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


@pytest.mark.parametrize(
    "said",
    [b"MPX = 0.5", b"MPP = 0.0", b"MPP = nan", b"MPP = 1e3", b"MPP = 1.0", b"MPP =-0.5"],
    ids=["missing", "0", "NaN", "1000", "twice the true value", "negative"],
)
def test_no_wrong_mpp_is_silently_used(home, scan, said):
    with_words(scan, b"MPP = 0.5", said)
    assert "--slide-mpp" in check_refused(home, scan)
    (quarantine_id,) = home.catalog.refusals().quarantine_id
    arrival = release(quarantine_id, home, spec=IntakeSpec(slide_mpp=0.5))
    row = home.catalog.slide(arrival.slide_id)
    assert (row["slide_mpp"], row["mpp_source"]) == (0.5, "given")


def test_a_real_slide_is_taken(home, data):
    path = data / "slides" / "real" / "CMU-1-Small-Region.svs"
    for verify in ("sample", "full"):
        facts = probe_slide(path, verify=verify)
        assert (facts["width"], facts["height"], facts["slide_mpp"]) == (2220, 2967, 0.499)
    rows, refused = take_in([path], home)
    assert refused.empty
    said = rows[["width", "height", "slide_mpp", "objective_power"]].iloc[0].tolist()
    assert said == [2220, 2967, 0.499, 20]


def test_a_folder_is_no_slide(tmp_path):
    with pytest.raises(SlideError, match="does not exist"):
        probe_slide(tmp_path)


def test_what_is_asked_of_verify_must_exist():
    with pytest.raises(SpecError, match="sample"):
        IntakeSpec(verify="half")  # type: ignore[arg-type]


def test_full_verification_finds_a_tile_that_does_not_decode(home, scan):
    """A tile of JPEG marks around nonsense: its structure is whole, its pixels are not."""
    with tifffile.TiffFile(scan) as tiff:
        page = tiff.pages[0]
        offset, n_bytes = page.dataoffsets[4], page.databytecounts[4]
    content = bytearray(scan.read_bytes())
    start = content.index(b"\xff\xda", offset) - offset  # where the pixels begin
    noise = random.Random(1).randbytes(n_bytes - start - 30)
    content[offset + start + 20 : offset + n_bytes - 10] = noise.replace(b"\xff", b"\xfe")
    scan.write_bytes(content)
    arrival = receive(scan, home, spec=IntakeSpec(verify="full"))
    assert arrival.step in ("structure", "read"), arrival


def test_the_name_of_a_refused_file_is_kept_in_the_identity_store_only(home, tmp_path):
    path = tmp_path / "Maria Mustermann 1947.svs"
    path.write_bytes(b"no slide at all")
    _, refused = take_in([path], home)
    assert len(refused) == 1
    home.catalog.engine.dispose()
    kept = [file for file in home.root.rglob("*") if file.is_file()]
    assert len(kept) >= 3
    named = [f for f in kept if b"Mustermann" in f.read_bytes() or "Mustermann" in f.name]
    assert named == [home.identity / refused.slide_id[0] / "facts.json"]
    assert home.identity.stat().st_mode & 0o077 == 0


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_holds_is_not(tmp_path):
    folder = tmp_path / "staging"
    code = """if True:
        import sys, time
        from pathlib import Path
        from histo_nb.files import staging
        with staging(Path(sys.argv[1])) as mine:
            (mine / "half").write_bytes(b"half")
            print(mine, flush=True)
            time.sleep(60)
    """
    child = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
    assert child.stdout
    theirs = Path(child.stdout.readline().decode().strip())
    with staging(folder):
        assert (theirs / "half").is_file()
    child.kill()
    child.wait()
    with staging(folder) as mine:
        assert not theirs.exists()
    assert not mine.exists()


def test_killed_at_any_moment_an_intake_ends_whole_when_it_is_started_again(home, tmp_path):
    drop = tmp_path / "drop"
    drop.mkdir()
    n_slides = count(quick=6, full=20)
    for i in range(n_slides):
        write_scan(PlaneGlass(waves(400 + 8 * i, 400)), drop / f"{i}.svs", spec=ScanSpec())
    whole = {hash_file(path) for path in drop.iterdir()}
    before = {path: path.read_bytes() for path in drop.iterdir()}
    command = [sys.executable, "-m", "histo_nb.running.cli", "intake", str(drop)]
    rng = random.Random(3)
    environment = os.environ | {"HISTO_HOME": str(home.root)}
    for _ in range(count(quick=4, full=50)):
        child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        try:
            child.wait(rng.uniform(0.8, 0.8 + 0.6 * n_slides))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        filed = {hash_file(path) for path in home.slides.iterdir()}
        assert filed <= whole, "never half a file"
        rows = home.catalog.slide_files()
        assert set(rows.sha256) <= filed, "never a row without its file"
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert len(home.catalog.slides()) == n_slides
    assert {hash_file(path) for path in home.slides.iterdir()} == whole
    assert {path: path.read_bytes() for path in drop.iterdir()} == before
    check_clean(home)

"""Slides through the pipeline: the same answers whatever happens on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from analysed import (
    TILE,
    add_slide,
    change_prepared,
    copy_model,
    draw,
    learnt,
    prepared,
    put_learnt,
    slides,
    write_slide,
)

from histo_nb.balancing.pixels import read_tile
from histo_nb.errors import BundleError, CatalogError, SpecError, StorageError
from histo_nb.home import Home
from histo_nb.inference import pipeline
from histo_nb.inference.pipeline import AnalysisSpec, analyse_slides
from histo_nb.inference.result import find_result, read_result
from histo_nb.inference.runtime import classify_tiles, open_runtime, prepare
from histo_nb.inference.stain import tile_colour
from histo_nb.model.card import read_card
from histo_nb.model.prepared import PREPARED, RUNTIMES_FILE, seal_prepared
from histo_nb.model.registry import promote
from histo_nb.model.seal import CARD, write_gate
from histo_nb.tiling.grid import TileSpec, tile_slides
from histo_nb.tiling.reader import read_tiles
from histo_nb.widgets.facts import slide_facts

N_TILES = 130  # of each slide: 13 × 10
OPENVINO = AnalysisSpec(runtime="openvino", precision="fp32", n_threads=1)


@pytest.fixture
def ward(home) -> Home:
    """A home with the prepared model in production and three slides, whose files are its own."""
    copy_model(home)
    for path in slides():
        own = home.slides / path.name
        shutil.copy2(path, own)
        add_slide(home, own, path.stem)
    return home


@pytest.fixture(scope="module")
def usual(tmp_path_factory) -> dict[str, Path]:
    """The results of an analysis that nothing disturbed, by slide."""
    home = Home(tmp_path_factory.mktemp("usual"))
    for name in ("masks", "models", "results"):
        (home.root / name).mkdir()
    copy_model(home)
    for path in slides():
        add_slide(home, path, path.stem)
    folders, failures = analyse_slides(home, [], spec=OPENVINO)
    assert failures.empty
    return {folder.parent.name: folder for folder in folders}


class Watched:
    """A runtime that counts the images it is given, and can be told to fail after some answers."""

    def __init__(self, runtime, seen: list, *, error: BaseException | None, after: int) -> None:
        self._runtime, self._seen, self._error, self._after = runtime, seen, error, after
        self.card, self.name = runtime.card, runtime.name

    def run(self, images):
        def count():
            for key, image in images:
                self._seen.append(key)
                yield key, image

        for n, said in enumerate(self._runtime.run(count())):
            if n == self._after and self._error is not None:
                raise self._error
            yield said


@pytest.fixture
def watch(monkeypatch):
    """Lets each analysis from now on count its images; the error comes once."""

    def start(error: BaseException | None = None, *, after: int = -1) -> list:
        seen: list = []
        errors = [error]

        def open_watched(*arguments, **options):
            runtime = original(*arguments, **options)
            return Watched(runtime, seen, error=errors.pop() if errors else None, after=after)

        monkeypatch.setattr(pipeline, "open_runtime", open_watched)
        return seen

    original = pipeline.open_runtime
    return start


def journals(home: Home) -> list[Path]:
    return sorted(home.results.rglob("*.journal"))


def check_same(folder: Path, other: Path) -> None:
    """Two results are one to the last bit, but for the time they took and the files' places."""
    first, second = (read_result(f).predictions.drop(columns="slide_path") for f in (folder, other))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert (folder / "regions.geojson").read_bytes() == (other / "regions.geojson").read_bytes()
    assert (folder / "result.json").read_bytes() == (other / "result.json").read_bytes()


# --------------------------------------------------------------------- nothing goes wrong
def test_all_slides_are_answered_and_filed(ward, usual, watch):
    seen = watch()
    folders, failures = analyse_slides(ward, [], spec=OPENVINO)
    assert failures.empty
    assert list(failures.columns) == ["slide_id", "step", "error"]
    assert [folder.parent.name for folder in folders] == ["S0", "S1", "S2"]
    assert len(seen) == 3 * N_TILES
    for folder in folders:
        check_same(folder, usual[folder.parent.name])
        assert find_result(ward, folder.parent.name) == folder
        assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
        assert pd.read_csv(folder / "failures.csv").empty
    assert ward.catalog.results().n_tiles.tolist() == [N_TILES] * 3


def test_a_result_read_back_says_what_it_is_worth(usual):
    result = read_result(usual["S0"])
    assert result.runtime == "openvino fp32"
    assert result.n_tiles == N_TILES
    assert 0 <= result.score <= 1
    assert any("Little tissue" in doubt for doubt in result.doubts)
    assert result.seconds > 0
    rows = result.predictions
    assert np.isfinite(rows[["distance", "od_red", "od_green", "od_blue"]].to_numpy()).all()
    shown = [f"prob_{name}" for name in result.classes]
    np.testing.assert_allclose(rows[shown].sum(axis=1), 1, atol=1e-6)
    best = rows[shown].to_numpy().argmax(axis=1)
    assert rows.prediction.tolist() == [result.classes[i] for i in best]
    assert rows.prediction.nunique() > 1, "an untrained model that always says the same"
    assert slide_facts(result)["warnings"] == result.doubts


def test_each_row_has_what_the_network_says_of_its_tile(ward, usual):
    """Rows stand in the order of the tile table, whatever order they were read in."""
    rows = read_result(usual["S0"]).predictions
    tiles, _ = tile_slides(ward, ["S0"], spec=TileSpec(tile_size=TILE))
    assert rows.tile_id.tolist() == tiles.tile_id.tolist()
    pixels = dict(read_tiles(tiles, read_tile, size=TILE))
    runtime = open_runtime(prepared(), runtime="openvino", precision="fp32")
    found = np.stack(list(classify_tiles(runtime, [pixels[i] for i in range(N_TILES)])))
    shown = [f"prob_{name}" for name in runtime.card.classes]
    np.testing.assert_array_equal(rows[shown].to_numpy(np.float32), found)
    images = [prepare(pixels[i], runtime.card) for i in range(N_TILES)]
    colours = np.stack([tile_colour(image) for image in images])
    np.testing.assert_array_equal(rows[["od_red", "od_green", "od_blue"]].to_numpy(), colours)


def test_slides_in_one_call_are_answered_as_one_by_one(ward, usual):
    """The last tiles of a slide share a batch with the first of the next."""
    for name in ("S2", "S0", "S1"):
        ((folder,), failures) = analyse_slides(ward, [name], spec=OPENVINO)
        assert failures.empty
        check_same(folder, usual[name])
    folders, _ = analyse_slides(ward, ["S2", "S0"], spec=OPENVINO)
    assert [folder.parent.name for folder in folders] == ["S2", "S0"]
    for folder in folders:
        check_same(folder, usual[folder.parent.name])


@pytest.mark.parametrize("n_threads", [2, 3])
def test_the_tables_are_equal_for_any_number_of_threads(ward, usual, n_threads):
    folders, _ = analyse_slides(ward, [], spec=replace(OPENVINO, n_threads=n_threads))
    for folder in folders:
        check_same(folder, usual[folder.parent.name])


def test_torch_gives_the_same_answers_for_any_number_of_threads(ward, usual):
    found = []
    for n_threads in (1, 2):
        spec = AnalysisSpec(runtime="torch", n_threads=n_threads)
        ((folder,), _) = analyse_slides(ward, ["S1"], spec=spec)
        found.append(read_result(folder))
    pd.testing.assert_frame_equal(found[0].predictions, found[1].predictions, check_exact=True)
    other = read_result(usual["S1"])
    assert (found[0].runtime, found[0].slide_class) == ("torch fp32", other.slide_class)
    for name in ("prob_adenoma", "prob_carcinoma", "prob_normal"):
        np.testing.assert_allclose(found[0].predictions[name], other.predictions[name], atol=1e-5)
    np.testing.assert_allclose(found[0].predictions.distance, other.predictions.distance, rtol=1e-3)


def test_a_tile_table_in_another_order_gives_the_same_answers(ward, usual):
    tiles, _ = tile_slides(ward, ["S1", "S0"], spec=TileSpec(tile_size=TILE))
    folders, _ = analyse_slides(ward, ["S0", "S1"], tiles=tiles, spec=OPENVINO)
    for folder in folders:
        check_same(folder, usual[folder.parent.name])
    shuffled = tiles.sample(frac=1, random_state=1)
    ((folder,), _) = analyse_slides(ward, ["S0"], tiles=shuffled, spec=OPENVINO)
    rows = read_result(folder).predictions.sort_values("tile_id", ignore_index=True)
    expected = read_result(usual["S0"]).predictions.sort_values("tile_id", ignore_index=True)
    pd.testing.assert_frame_equal(
        rows.drop(columns="slide_path"), expected.drop(columns="slide_path"), check_exact=True
    )


# -------------------------------------------------------------------------- interruptions
@pytest.mark.parametrize(
    ("after", "error"),
    [(1, KeyboardInterrupt()), (64, KeyboardInterrupt()), (129, KeyboardInterrupt()),
     (170, KeyboardInterrupt()), (65, RuntimeError("anything"))],
    ids=repr,
)  # fmt: skip
def test_an_interrupted_analysis_goes_on_with_the_rest_only(ward, usual, watch, after, error):
    watch(error, after=after)
    with pytest.raises(type(error)):
        analyse_slides(ward, [], spec=OPENVINO)
    assert journals(ward)
    done = after if after < N_TILES else after - N_TILES
    results = list(ward.results.rglob("result.json"))
    assert len(results) == after // N_TILES
    seen = watch()
    names = ["S0", "S1"] if after < N_TILES else ["S1"]
    folders, failures = analyse_slides(ward, names, spec=OPENVINO)
    assert failures.empty
    assert len(seen) == N_TILES * len(names) - done, "all that was answered before is kept"
    for folder in folders:
        check_same(folder, usual[folder.parent.name])
    assert not journals(ward)


def test_what_the_reader_raises_leaves_a_journal_too(ward, usual, watch, monkeypatch):
    original = pipeline.read_tiles

    def broken(*arguments, **options):
        for n, read in enumerate(original(*arguments, **options)):
            if n == 100:
                raise RuntimeError("a fault of ours")
            yield read

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="a fault of ours"):
        patch.setattr(pipeline, "read_tiles", broken)
        analyse_slides(ward, ["S0"], spec=OPENVINO)
    assert len(journals(ward)) == 1
    seen = watch()
    ((folder,), _) = analyse_slides(ward, ["S0"], spec=OPENVINO)
    assert 30 <= len(seen) < 60
    check_same(folder, usual["S0"])


KILLED = """
import os, signal, sys
from histo_nb.home import open_home
from histo_nb.inference import journal, pipeline
from histo_nb.inference.pipeline import AnalysisSpec, analyse_slides

original, n = journal.Journal.write, [0]

def write(self, **columns):
    original(self, **columns)
    n[0] += 1
    if n[0] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

journal.Journal.write = write
spec = AnalysisSpec(runtime="openvino", precision="fp32", n_threads=2)
analyse_slides(open_home(sys.argv[1]), [], spec=spec)
"""


@pytest.mark.parametrize(("writes", "done"), [(2, {"S0": 128}), (5, {"S0": 130, "S1": 128})])
def test_a_killed_analysis_goes_on_without_the_tiles_that_are_done(
    ward, usual, watch, writes, done
):
    call = [sys.executable, "-c", KILLED, str(ward.root), str(writes)]
    killed = subprocess.run(call, check=False, capture_output=True, env=os.environ)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    finished = [name for name, n in done.items() if n == N_TILES]
    assert [path.parent.parent.name for path in ward.results.rglob("result.json")] == finished
    seen = watch()
    wanted = [name for name in usual if name not in finished]
    folders, failures = analyse_slides(ward, wanted, spec=OPENVINO)
    assert failures.empty
    assert len(seen) == N_TILES * 3 - sum(done.values())
    for folder in folders:
        check_same(folder, usual[folder.parent.name])
    assert not journals(ward)
    names = {path.name for path in ward.results.rglob("*") if path.is_dir()}
    assert not [name for name in names if name.startswith(".")], "half-written folders"


def interrupt(ward: Home, watch, after: int = 64) -> None:
    watch(KeyboardInterrupt(), after=after)
    with pytest.raises(KeyboardInterrupt):
        analyse_slides(ward, ["S0"], spec=OPENVINO)
    assert len(journals(ward)) == 1


def test_a_journal_whose_end_is_torn_costs_its_tiles_only(ward, usual, watch):
    interrupt(ward, watch)
    (journal,) = journals(ward)
    os.truncate(journal, journal.stat().st_size - 30)
    seen = watch()
    ((folder,), _) = analyse_slides(ward, ["S0"], spec=OPENVINO)
    assert len(seen) == N_TILES - 63
    check_same(folder, usual["S0"])


def test_a_slide_that_another_process_analyses_is_a_failure(ward, usual, monkeypatch):
    """Both would write the same journal."""
    reading, inner = pipeline.read_tiles, []

    def then_analyse(rows, *arguments, **options):
        for n, read in enumerate(reading(rows, *arguments, **options)):
            if n == 100 and not inner:
                inner.append(None)
                inner[0] = analyse_slides(ward, ["S0", "S1"], spec=OPENVINO)
            yield read

    monkeypatch.setattr(pipeline, "read_tiles", then_analyse)
    folders, failures = analyse_slides(ward, ["S0"], spec=OPENVINO)
    assert failures.empty
    check_same(folders[0], usual["S0"])
    ((other,), refused) = inner[0]
    check_same(other, usual["S1"])
    assert refused.slide_id.tolist() == ["S0"]
    assert "another process" in refused.error[0]


@pytest.mark.parametrize("what", ["slide", "tiles", "runtime", "model", "prepared", "code"])
def test_another_analysis_does_not_go_on_with_the_answers_of_this(ward, watch, what, monkeypatch):
    interrupt(ward, watch)
    spec, tiles = OPENVINO, None
    if what == "slide":
        os.utime(ward.slides / "S0.svs", ns=(1, 10**18))
    elif what == "tiles":
        tiles, _ = tile_slides(ward, ["S0"], spec=TileSpec(tile_size=TILE))
        tiles = tiles.assign(x=tiles.x.replace(0, 2))
    elif what == "runtime":
        spec = AnalysisSpec(runtime="torch")
    elif what == "code":
        monkeypatch.setattr(pipeline, "code_facts", lambda: {"source_sha256": "newer"})
    elif what == "prepared":  # anew, with other networks
        folder = ward.models / prepared().name
        for suffix in ("xml", "bin"):
            shutil.copy(folder / PREPARED / f"int8.{suffix}", folder / PREPARED / f"fp32.{suffix}")
        change_prepared(folder, lambda facts: None)
    else:
        make_other_model(ward)
    seen = watch()
    ((folder,), failures) = analyse_slides(ward, ["S0"], tiles=tiles, spec=spec)
    assert failures.empty
    assert len(seen) == N_TILES
    assert read_result(folder).n_tiles == N_TILES


def make_other_model(home: Home) -> None:
    """Put the same network with another temperature into production, prepared as the first."""
    model_id = put_learnt(home, learnt()[1], temperature=2.0)
    folder = home.models / model_id
    shutil.copytree(prepared() / PREPARED, folder / PREPARED)
    facts = json.loads((folder / PREPARED / RUNTIMES_FILE).read_text())
    (folder / PREPARED / RUNTIMES_FILE).unlink()
    seal_prepared(folder / PREPARED, read_card(folder / CARD), facts)
    promote(home, model_id, reason="test")


# --------------------------------------------------------------------------- damaged slides
def hurt(path: Path, n: int = 1, *, beside_the_fullest: bool = False) -> list[int]:
    """Zero stored tiles, away from the places where a slide is probed, or just there."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offsets, counts = np.array(page.dataoffsets), np.array(page.databytecounts)
    fullest = np.argsort(-counts, kind="stable")
    probed = {int(k) - step for k in fullest[:4] for step in (0, 1, 7, 8)}
    chosen = [int(k) for k in fullest if (int(k) in probed) == beside_the_fullest][:n]
    with path.open("r+b") as file:
        for number in chosen:
            file.seek(offsets[number])
            file.write(bytes(int(counts[number])))
    return chosen


def over(rows: pd.DataFrame, stored: list[int]) -> pd.Series:
    """Which tiles lie over stored tiles of 128 px, 7 a row."""
    return (rows.y // 128 * 7 + rows.x // 128).isin(stored)


@pytest.mark.parametrize("beside_the_fullest", [False, True])
def test_a_damaged_stored_tile_costs_its_tiles_and_no_other(ward, usual, beside_the_fullest):
    stored = hurt(ward.slides / "S1.svs", beside_the_fullest=beside_the_fullest)
    folders, failures = analyse_slides(ward, [], spec=OPENVINO)
    assert failures.empty
    assert [folder.parent.name for folder in folders] == ["S0", "S1", "S2"]
    check_same(folders[0], usual["S0"])
    check_same(folders[2], usual["S2"])
    whole, found = read_result(usual["S1"]).predictions, read_result(folders[1])
    expected = whole[~over(whole, stored)].reset_index(drop=True)
    assert 0 < len(whole) - len(expected) <= 4
    pd.testing.assert_frame_equal(
        found.predictions.drop(columns="slide_path"),
        expected.drop(columns="slide_path"),
        check_exact=True,
    )
    said = pd.read_csv(folders[1] / "failures.csv")
    assert len(said) == found.n_failures == len(whole) - len(expected)
    assert set(said.slide_id) == {"S1"}
    assert said.error.str.contains("damaged").all()
    assert any("could not be read" in doubt for doubt in found.doubts)
    assert ward.catalog.results().set_index("slide_id").n_failures["S1"] == found.n_failures


def test_a_damaged_tile_is_tried_again_when_an_analysis_goes_on(ward, watch):
    hurt(ward.slides / "S0.svs")
    watch(KeyboardInterrupt(), after=100)
    with pytest.raises(KeyboardInterrupt):
        analyse_slides(ward, ["S0"], spec=OPENVINO)
    watch()
    ((folder,), _) = analyse_slides(ward, ["S0"], spec=OPENVINO)
    result = read_result(folder)
    assert result.n_failures == len(pd.read_csv(folder / "failures.csv")) > 0
    assert result.n_tiles == N_TILES - result.n_failures


def test_a_slide_of_which_too_much_is_unreadable_has_no_answer(ward, usual):
    hurt(ward.slides / "S1.svs", 5)
    folders, failures = analyse_slides(ward, [], spec=OPENVINO)
    assert [folder.parent.name for folder in folders] == ["S0", "S2"]
    for folder in folders:
        check_same(folder, usual[folder.parent.name])
    (failure,) = failures.to_dict("records")
    assert failure["slide_id"] == "S1"
    assert "of 130 tiles of S1 cannot be read" in failure["error"]
    assert "damaged" in failure["error"]
    assert not list((ward.results / "S1").rglob("*.parquet"))
    with pytest.raises(CatalogError):
        find_result(ward, "S1")


def replace_file(path: Path, image: np.ndarray) -> None:
    write_slide(path.with_name("new.svs"), 0, image=image).replace(path)


HARMS = {
    "deleted": lambda path: path.unlink(),
    "replaced": lambda path: replace_file(path, draw(77)),
    "replaced by a smaller one": lambda path: replace_file(path, draw(77, (500, 400))),
    "replaced by no slide": lambda path: path.write_bytes(b"no slide" * 500),
}


@pytest.fixture
def harm_when(monkeypatch):
    """Lets something happen to a slide's file when it was cut, or is being read."""

    def set_up(when: str, path: Path, harm) -> None:
        begin, reading = pipeline.result_folder, pipeline.read_tiles

        def begin_later(home, slide_id, model_id):
            if when == "cut" and slide_id == path.stem:
                harm(path)
            return begin(home, slide_id, model_id)

        def harm_soon(rows, *arguments, **options):
            for n, read in enumerate(reading(rows, *arguments, **options)):
                if when == "read" and n == 20 and rows.slide_path.iloc[0] == str(path):
                    harm(path)
                yield read

        monkeypatch.setattr(pipeline, "result_folder", begin_later)
        monkeypatch.setattr(pipeline, "read_tiles", harm_soon)

    return set_up


@pytest.mark.parametrize(
    "case", [*(("S1", harm) for harm in HARMS), ("S0", "deleted"), ("S2", "deleted")], ids=" ".join
)
@pytest.mark.parametrize("when", ["cut", "read"])
def test_a_slide_that_changes_under_way_fails_alone(ward, usual, harm_when, case, when):
    """After it was cut and before it is read, or while it is read."""
    name, harm = case
    path = ward.slides / f"{name}.svs"
    harm_when(when, path, HARMS[harm])
    folders, failures = analyse_slides(ward, [], spec=OPENVINO)
    assert [folder.parent.name for folder in folders] == [n for n in usual if n != name]
    for folder in folders:
        check_same(folder, usual[folder.parent.name])
    (failure,) = failures.to_dict("records")
    assert failure["slide_id"] == name
    assert path.name in failure["error"]
    assert not list((ward.results / name).rglob("*.parquet"))
    assert not list((ward.results / name).rglob(".*"))


def test_an_old_tile_table_of_a_slide_that_is_smaller_now_makes_up_no_pixels(ward):
    tiles, _ = tile_slides(ward, ["S0"], spec=TileSpec(tile_size=TILE))
    replace_file(ward.slides / "S0.svs", draw(77, (500, 400)))
    folders, failures = analyse_slides(ward, ["S0"], tiles=tiles, spec=OPENVINO)
    assert not folders
    assert failures.slide_id.tolist() == ["S0"]


# ------------------------------------------------------------------- what cannot be analysed
def test_slides_that_cannot_be_cut_are_failures_with_their_step(ward, usual):
    coarse = write_slide(ward.slides / "coarse.svs", 5, mpp=1.0)
    add_slide(ward, coarse, "coarse")
    bare = np.full((640, 832, 3), 243, np.uint8)
    add_slide(ward, write_slide(ward.slides / "bare.svs", 5, image=bare), "bare", mask=False)
    gone = write_slide(ward.slides / "gone.svs", 6)
    add_slide(ward, gone, "gone")
    gone.unlink()
    tiny = write_slide(ward.slides / "tiny.svs", 7, image=draw(7, (60, 60)))
    add_slide(ward, tiny, "tiny")
    asked = ["coarse", "S0", "bare", "gone", "S1", "tiny"]
    folders, failures = analyse_slides(ward, asked, spec=OPENVINO)
    assert [folder.parent.name for folder in folders] == ["S0", "S1"]
    for folder in folders:
        check_same(folder, usual[folder.parent.name])
    said = failures.set_index("slide_id")
    assert said.step.to_dict() == {
        "coarse": "tiling", "bare": "masking", "gone": "tiling", "tiny": "tiling",
    }  # fmt: skip
    assert "finer than the slide" in said.error["coarse"]
    assert "no tissue" in said.error["bare"]
    assert "does not exist" in said.error["gone"]
    assert "tile_size" in said.error["tiny"]
    assert sorted(path.name for path in ward.results.iterdir()) == ["S0", "S1"]


def test_a_slide_without_a_mask_is_masked_first(ward):
    add_slide(ward, write_slide(ward.slides / "new.svs", 8), "new", mask=False)
    ((folder,), failures) = analyse_slides(ward, ["new"], spec=OPENVINO)
    assert failures.empty
    assert (ward.masks / "new.png").is_file()
    assert read_result(folder).n_tiles > 50


def test_an_unknown_slide_is_named_before_anything_is_done(ward):
    with pytest.raises(CatalogError, match="S-9"):
        analyse_slides(ward, ["S0", "S-9"], spec=OPENVINO)
    assert not list(ward.results.iterdir())


def test_a_slide_that_the_given_tiles_lack_is_a_failure(ward):
    tiles, _ = tile_slides(ward, ["S0"], spec=TileSpec(tile_size=TILE))
    folders, failures = analyse_slides(ward, ["S0", "S1"], tiles=tiles, spec=OPENVINO)
    assert [folder.parent.name for folder in folders] == ["S0"]
    assert failures.slide_id.tolist() == ["S1"]


@pytest.mark.parametrize("other", [{"tile_size": 80}, {"mpp": 1.0}, {"read_path": "level0/2"}])
def test_tiles_of_another_card_are_refused(ward, other):
    spec = TileSpec(**{"tile_size": TILE, "min_tissue": 0.1, **other})
    tiles, _ = tile_slides(ward, ["S0"], spec=spec)
    ((name, _),) = other.items()
    with pytest.raises(BundleError, match=rf"{name}=.*as the card says"):
        analyse_slides(ward, ["S0"], tiles=tiles, spec=OPENVINO)
    assert not list(ward.results.iterdir())


def spoil(folder: Path, what: str) -> None:
    path = folder / what.split(maxsplit=1)[0]
    if what.endswith("gone"):
        path.unlink()
    elif path.suffix == ".json":
        content = json.loads(path.read_text())
        if path.name == "card.json":
            content["classes"] = ["adenoma", "carcinoma", "normal", "more"]
        else:
            content["model_id" if path.name == "gate.json" else "at"] = "now"
        path.write_text(json.dumps(content))
    else:
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)


SPOILT = [
    "card.json", "model.safetensors", "model.safetensors gone", "gate.json", "checksums.json gone",
    "prepared/runtimes.json", "prepared/reference.safetensors gone", "prepared/fp32.bin",
]  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_a_bundle_that_was_tampered_with_classifies_nothing(ward, what):
    spoil(ward.models / prepared().name, what)
    with pytest.raises(BundleError):
        analyse_slides(ward, [], spec=OPENVINO)
    assert not list(ward.results.iterdir())


def test_a_forged_tile_size_is_tampering_too(ward):
    path = ward.models / prepared().name / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tile_size": 0}))
    with pytest.raises(BundleError):
        analyse_slides(ward, [], spec=OPENVINO)


@pytest.mark.parametrize(
    "wrong", [{"n_threads": -1}, {"n_threads": -7}, {"runtime": "onnx"}, {"precision": "int4"}]
)
def test_a_wrong_spec_is_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(SpecError, match=f"{name}={value!r}"):
        AnalysisSpec(**wrong)


# ------------------------------------------------------------------------------- full disks
@pytest.fixture
def small_results(ward):
    """The results on a disk with room for a journal only, where mounting is allowed."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(ward.results)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs root on Linux")
    yield ward
    subprocess.run(["umount", str(ward.results)], check=True)


def test_a_full_disk_at_the_result_keeps_the_answers(small_results, usual, watch):
    ward = small_results
    with pytest.raises(StorageError, match="disk is full"):
        analyse_slides(ward, ["S0"], spec=OPENVINO)
    left = sorted(path.name for path in ward.results.rglob("*"))
    assert left == [f"{prepared().name}.journal", "S0"], "nothing half-written"
    with pytest.raises(CatalogError):
        find_result(ward, "S0")
    remount = ["mount", "-o", "remount,size=4m", str(ward.results)]
    subprocess.run(remount, check=True)
    seen = watch()
    ((folder,), failures) = analyse_slides(ward, ["S0"], spec=OPENVINO)
    assert (seen, len(failures)) == ([], 0)
    check_same(folder, usual["S0"])
    assert not journals(ward)


def test_a_full_disk_at_the_journal_is_named_and_goes_on(small_results, usual, watch):
    ward = small_results
    filler = ward.results / "filler"
    filler.write_bytes(bytes(16_000))
    with pytest.raises(StorageError, match="disk is full"):
        analyse_slides(ward, ["S0"], spec=OPENVINO)
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(ward.results)], check=True)
    seen = watch()
    ((folder,), _) = analyse_slides(ward, ["S0"], spec=OPENVINO)
    assert len(seen) <= N_TILES
    check_same(folder, usual["S0"])


# ------------------------------------------------------------------------- earlier results
def test_a_result_of_the_earlier_form_is_read_and_doubted(usual, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(usual["S0"], folder)
    facts = json.loads((folder / "result.json").read_text())
    for name in ("doubts", "runtime", "score"):
        del facts[name]
    (folder / "result.json").write_text(json.dumps(facts | {"seconds": 2.5}))
    for name in ("provenance.json", "timing.json"):
        (folder / name).unlink()
    rows = pd.read_parquet(folder / "predictions.parquet")
    new = ["distance", "od_red", "od_green", "od_blue", "soft", "pen"]
    rows.drop(columns=new).to_parquet(folder / "predictions.parquet")
    result = read_result(folder)
    assert (result.doubts, result.score, result.runtime) == (None, None, "torch fp32")
    assert (result.provenance, result.seconds) == (None, 2.5)
    warnings = slide_facts(result)["warnings"]
    assert any("unknown whether this slide resembles" in warning for warning in warnings)
    assert any("Little tissue" in warning for warning in warnings)


def test_a_model_that_was_not_prepared_says_that_it_keeps_no_record(ward):
    shutil.rmtree(ward.models / prepared().name / PREPARED)
    ((result_folder,), _) = analyse_slides(ward, ["S0"])
    result = read_result(result_folder)
    assert result.runtime == "torch fp32"
    assert any("keeps no record" in doubt for doubt in result.doubts)
    assert result.predictions.distance.isna().all()


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ({"passed": True, "reasons": []}, True),  # as gates were before they could be lowered
        ({"passed": True, "reasons": [], "lowered": {"min_accuracy": 0.1}}, False),
        ({"passed": False, "reasons": ["no"], "lowered": {}}, False),
        (None, False),
    ],
    ids=str,
)
def test_a_result_says_whether_its_model_passed_its_gate(ward, gate, passed):
    folder = ward.models / prepared().name
    (folder / "gate.json").unlink()
    if gate:
        write_gate(folder, gate)
    ((result_folder,), _) = analyse_slides(ward, ["S0"], spec=OPENVINO)
    assert read_result(result_folder).gate_passed is passed

"""Learning from the command line: loose images, the gate, the loop; bad input by name."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from textures import draw_folder

from histo_nb.balancing.dataset import open_dataset
from histo_nb.inference.predictions import read_asked
from histo_nb.model.registry import production_entry
from histo_nb.running.cli import main
from histo_nb.tables import LABELLED_TILES, read_table, write_table
from histo_nb.tiling.images import tile_images
from histo_nb.tiling.table import tile_table_path

SMALL = ["--recipe", "quick", "--epochs", "6", "--width", "0.125", "--image-size", "32", "--trust"]
EASY = ["--min-gain-over-colour", "0.05", "--max-ece", "1"]


def call(home, *arguments, code=0):
    result = CliRunner().invoke(main, [*map(str, arguments), "--home", str(home.root), "--json"])
    assert result.exit_code == code, result.output[-2000:]
    return json.loads(result.stdout)


@pytest.fixture
def folder(tmp_path):
    return draw_folder(tmp_path / "images")


def test_images_are_learnt_gated_and_measured(home, folder, tmp_path):
    trained = call(home, "train", "--images", folder, "--groups", "manifest.csv:patient,site",
                   *SMALL)  # fmt: skip
    assert "no site on two sides" in trained["checked"]
    assert trained["left_out"] == []
    model = trained["model_id"]
    gate = call(home, "gate", model, *EASY)
    assert gate["passed"]
    assert gate["looks"] == 1
    assert production_entry(home)["model_id"] == model

    fresh = draw_folder(tmp_path / "fresh", patients=3)
    for number, path in enumerate(sorted(fresh.glob("*/*.png"))):  # other bytes, the same classes
        pixels = np.asarray(Image.open(path)).copy()
        pixels[0, 0] = number
        Image.fromarray(pixels).save(path)
    figures = call(home, "evaluate", model, "--images", fresh, "--groups", "manifest.csv:patient")
    assert figures["n_tiles"] == 24
    assert figures["n_patients"] == 6
    assert figures["balanced_accuracy"] > 0.8
    assert figures["seen_in_training"] == 0
    known = call(home, "evaluate", home.models / model, "--images", folder)
    assert 0 < known["seen_in_training"] < 48


def test_a_classifier_of_colour_alone_does_not_pass(home, tmp_path):
    folder = draw_folder(tmp_path / "stains", by_colour=True)
    trained = call(home, "train", "--images", folder, "--groups", "manifest.csv:patient", *SMALL)
    gate = call(home, "gate", trained["model_id"], "--max-ece", "1", code=3)
    assert "colour" in gate["error"]
    assert production_entry(home) is None
    said = json.loads((home.models / trained["model_id"] / "gate.json").read_text())
    assert said["accuracy"] > 0.9, "it is good, by colour"
    assert not said["passed"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("truncated", "damaged or cut off"),
        ("float", "8-bit RGB"),
        ("two images", r"too few patients \(or other groups\) of bad \(2\)"),
    ],
)
def test_bad_images_are_named_errors(home, folder, fault, words):
    if fault == "truncated":
        path = folder / "bad/p0_0.png"
        path.write_bytes(path.read_bytes()[:500])
    elif fault == "float":
        pixels = np.full((64, 64), np.nan, np.float32)
        Image.fromarray(pixels).save(folder / "bad/nan.tif")
    else:
        for path in sorted((folder / "bad").iterdir())[2:]:
            path.unlink()
    answer = call(home, "train", "--images", folder, *SMALL, code=1)
    assert pd.Series([answer["error"]]).str.contains(words).all(), answer["error"]
    assert not list(home.models.glob("M-*"))


def test_broken_images_can_be_left_out(home, folder):
    (folder / "bad/p0_0.png").write_bytes(b"nothing")
    trained = call(home, "train", "--images", folder, "--skip-broken", *SMALL[:3], "1", *SMALL[4:])
    assert [row["slide_id"] for row in trained["left_out"]] == ["bad/p0_0.png"]


def test_evaluation_refuses_what_the_model_does_not_know(home, folder):
    trained = call(home, "train", "--images", folder, "--image-mpp", "0.5", *SMALL[:3], "1",
                   *SMALL[4:])  # fmt: skip
    model = trained["model_id"]
    assert "--image-mpp" in call(home, "evaluate", model, "--images", folder, code=1)["error"]
    twice = ("--image-mpp", "1.0")
    assert "coarser" in call(home, "evaluate", model, "--images", folder, *twice, code=1)["error"]
    shutil.copytree(folder / "bad", folder / "worse")
    for path in (folder / "worse").iterdir():
        pixels = np.asarray(Image.open(path)).copy()
        pixels[0] = 0
        Image.fromarray(pixels).save(path)
    answer = call(home, "evaluate", model, "--images", folder, "--image-mpp", "0.5", code=1)
    assert "label worse is unknown" in answer["error"]


def test_images_of_unknown_scale_cannot_serve_slides(home, folder):
    trained = call(home, "train", "--images", folder, *SMALL)
    call(home, "registry", "promote", trained["model_id"], "--reason", "test", "--despite-gate")
    answer = call(home, "analyse", code=1)
    assert "unknown scale" in answer["error"]


@pytest.fixture
def labelled_home(home, tmp_path):
    """A home whose tile table holds labelled tiles, and a fourth without a label."""
    folder = draw_folder(tmp_path / "more", images=8)
    tiles, _ = tile_images(folder, groups="manifest.csv:patient")
    bare = tiles.index % 4 == 3
    tiles.loc[bare, ["label", "label_fraction", "label_source"]] = None
    write_table(tiles, tile_table_path(home), LABELLED_TILES)
    return home


def test_options_that_would_do_nothing_are_refused(labelled_home):
    call(labelled_home, "balance", "--trust")
    answer = call(labelled_home, "train", "--seed", "7", "--groups", "m.csv:patient", code=1)
    assert "--groups, --seed would do nothing" in answer["error"]
    answer = call(labelled_home, "train", "--network", "resnet18", "--width", "0.5", code=1)
    assert "--width would do nothing" in answer["error"]


def test_a_look_at_the_test_images_is_recorded(home, folder):
    trained = call(home, "train", "--images", folder, *SMALL[:3], "1", *SMALL[4:])
    figures = call(home, "evaluate", trained["model_id"], "--images", folder)
    assert figures["of_test_part"] > 0
    assert figures["n_patients"] is None  # each image stands for one
    gate = call(home, "gate", trained["model_id"], "--min-accuracy", "1", "--min-test-patients",
                "2", code=3)  # fmt: skip
    assert gate["looks_of_test_part"] == 2
    assert gate["balanced_accuracy"] >= 0
    assert "nobody knows its test patients" in gate["error"]


def test_patients_keep_their_side_when_they_are_asked_to(labelled_home):
    tiles = ("--trust", "--seed")
    first = call(labelled_home, "balance", *tiles, "1")
    kept = call(labelled_home, "balance", "--keep-sides", *tiles, "2")
    anew = call(labelled_home, "balance", *tiles, "2")

    def test_patients(answer):
        rows = open_dataset(labelled_home.datasets / answer["dataset_id"]).rows
        return set(rows.patient_id[rows.split == "test"])

    assert test_patients(kept) == test_patients(first) != test_patients(anew)


def test_the_loop_ends_when_the_gate_passes(labelled_home):
    answer = call(labelled_home, "improve", "--rounds", "2", *SMALL[:3], "12", *SMALL[4:])
    assert answer["passed"]
    assert len(answer["rounds"]) == 1
    assert production_entry(labelled_home)["model_id"] == answer["model_id"]


def test_a_failed_round_asks_annotators_and_keeps_the_test_part_locked(labelled_home, tmp_path):
    home = labelled_home
    spec = tmp_path / "gate.json"
    spec.write_text('{"min_accuracy": 1.0, "min_gain_over_colour": 1.0}')
    answer = call(home, "improve", "--rounds", "1", "--spec", spec, *SMALL, code=3)
    assert "uncertain tiles wait on the label board" in answer["error"]
    assert answer["rounds"][0]["gated"] is False
    assert "collect ≥" in answer["error"]
    asked = read_asked(home)
    first = open_dataset(next(home.datasets.glob("D-*"))).rows
    tiles = read_table(tile_table_path(home), LABELLED_TILES).set_index("tile_id")
    locked = set(first.patient_id[first.split == "test"])
    bare = tiles[tiles.label.isna() & ~tiles.patient_id.isin(locked)]
    assert set(asked.index) == set(bare.index)
    assert asked.uncertainty.between(0, 1).all()
    events = home.catalog.events()
    assert (events.what == "not sent to the gate").sum() == 1
    assert not (events.what == "test part looked at").any()

    for tile_id in asked.index:
        home.catalog.add_hand_label(tile_id, annotator="a", label="bad")
    call(home, "improve", "--rounds", "1", "--spec", spec, *SMALL, code=3)
    newest = max(home.datasets.glob("D-*"), key=lambda path: path.stat().st_mtime)
    second = open_dataset(newest).rows
    assert len(second) > len(first)
    before = dict(zip(first.patient_id, first.split, strict=True))
    now = dict(zip(second.patient_id, second.split, strict=True))
    assert {name: now[name] for name in before} == before

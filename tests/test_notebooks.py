"""The six notebooks, in order, by papermill, on small drawn slides; then what they left behind."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from histo_nb.annotations import read_geojson
from histo_nb.balancing.dataset import find_dataset, open_dataset
from histo_nb.balancing.pixels import read_tile
from histo_nb.errors import BundleError, DatasetError, GateFailed, NotebookError
from histo_nb.export.geojson import write_label_geojson
from histo_nb.home import open_home
from histo_nb.inference.pipeline import analyse_slides
from histo_nb.inference.result import find_result, read_result
from histo_nb.inference.runtime import classify_tiles, open_runtime
from histo_nb.masking.masks import mask_path, read_mask
from histo_nb.model.bundle import open_bundle, read_gate
from histo_nb.model.card import read_card
from histo_nb.model.registry import list_models, newest_model, production_model, promote
from histo_nb.running.notebook import find_notebook, has_errors, run_notebook
from histo_nb.slide import Slide
from histo_nb.tables import LABELLED_TILES, SPLITS, TILES, read_table
from histo_nb.tiling.labels import label_slides
from histo_nb.tiling.table import read_tiles
from histo_nb.training.curve import measure_curve, read_curve, say_curve
from histo_nb.training.gate import GateSpec, pass_gate
from histo_nb.training.learner import TrainSpec, train

STEPS = {
    "01_scanning": {"patients_per_class": 3, "width_um": 2600, "height_um": 2200},
    "02_masking": {},
    "03_tiling": {"tile_size": 256},
    "04_balancing": {},
    "05_training": {
        "recipe": "quick",
        "width": 0.125,
        "image_size": 64,
        "epochs": 1,
        "require_pass": False,
    },
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A home in which notebooks 01–06 ran, with their executed copies."""
    home = open_home(tmp_path_factory.mktemp("notebooks") / "home")
    runs = {
        name: run_notebook(find_notebook(name), home, parameters=parameters)
        for name, parameters in STEPS.items()
    }
    promote(home, newest_model(home), reason="test: one epoch does not pass", despite_gate=True)
    runs["06_inference"] = run_notebook(find_notebook("06_inference"), home)
    return home, runs


def test_every_notebook_ran_without_an_error_and_shows_pictures(ran):
    _, runs = ran
    for name, run in runs.items():
        assert not has_errors(run.notebook), name
        facts = json.loads((run.folder / "run.json").read_text())
        assert facts["status"] == "done"
        assert facts["parameters"] == STEPS.get(name, {})
        assert run.notebook.read_text().count("image/png") >= 2, name


def test_scanning_left_slides_with_facts_and_truth(ran):
    slides = ran[0].catalog.slides()
    assert len(slides) == 9
    assert set(slides.slide_mpp) == {0.5}
    assert set(slides.objective_power) == {20}
    found = {a.label for path in slides.truth_path for a in read_geojson(path)}
    assert found == {"normal", "adenoma", "carcinoma"}


def test_masks_agree_with_the_truth(ran):
    home, _ = ran
    for row in home.catalog.slides().to_dict("records"):
        mask = read_mask(mask_path(home, row["slide_id"]))
        truth_mm2 = sum(a.outline.area for a in read_geojson(row["truth_path"])) * 0.25e-6
        assert mask.tissue_mm2 == pytest.approx(truth_mm2, rel=0.12)


def test_tiles_and_data_set_keep_their_contracts(ran):
    home, _ = ran
    tiles = read_table(home.tiles / "tiles.parquet", LABELLED_TILES)
    dataset = find_dataset(home)
    assert set(dataset.rows.split) == set(SPLITS)
    assert len(dataset.pixels) == len(dataset.rows)
    assert set(dataset.rows.parent_id.dropna()) <= set(tiles.tile_id)
    train_rows = dataset.rows[dataset.rows.split == "train"]
    assert train_rows.label.value_counts().nunique() == 1
    row = dataset.rows.iloc[-1]
    with Slide(row.slide_path) as slide:
        assert np.array_equal(read_tile(slide, row.to_dict()), dataset.pixels[-1])


def test_card_says_what_the_model_was_made_from(ran):
    home, _ = ran
    folder = production_model(home)
    card, dataset = read_card(folder / "card.json"), find_dataset(home)
    assert card.certificate_sha256 == dataset.certificate["sha256"]
    assert card.statistics == dataset.statistics
    assert (card.tile_size, card.mpp, card.image_size) == (256, 0.5, 64)
    assert card.packages["openslide-bin"]
    gate = read_gate(folder)
    assert {"accuracy", "balanced_accuracy", "baselines", "intervals"} <= set(gate)
    assert gate["looks"] == 1
    assert list_models(home).production.tolist() == [True]


def test_analysis_gives_what_validation_gave_for_the_same_tiles(ran):
    """One read path, one transform: the same tile has the same probabilities everywhere."""
    home, _ = ran
    bundle, dataset = open_bundle(production_model(home)), find_dataset(home)
    test = dataset.rows[(dataset.rows.split == "test")]
    runtime = open_runtime(bundle.folder)
    from_store = np.array(list(classify_tiles(runtime, (dataset.pixels[i] for i in test.index))))
    for slide_id in test.slide_id.unique():
        predictions = read_result(find_result(home, slide_id)).predictions.set_index("tile_id")
        mine = (test.slide_id == slide_id).to_numpy()
        analysed = predictions.loc[test.tile_id[mine], [f"prob_{c}" for c in bundle.card.classes]]
        np.testing.assert_allclose(analysed.to_numpy(), from_store[mine], atol=1e-5)


def test_labels_go_to_qupath_and_come_back(ran, tmp_path):
    home, _ = ran
    tiles = read_tiles(home)
    slide_id = tiles.slide_id.iloc[0]
    own = tiles[tiles.slide_id == slide_id]
    write_label_geojson(own, tmp_path / f"{slide_id}.geojson")
    again = label_slides(home, own[TILES.columns], annotations=tmp_path)
    assert again.label.tolist() == own.label.tolist()
    assert own.label.notna().any()


def test_the_learning_curve_grows_over_patients_and_is_read_back(ran):
    home, _ = ran
    dataset = find_dataset(home)
    spec = TrainSpec(recipe="quick", network_args={"width": 0.125}, image_size=32, epochs=1)
    curve = measure_curve(dataset, spec=spec, steps=2)
    pd.testing.assert_frame_equal(read_curve(dataset), curve)
    learnt = dataset.rows[(dataset.rows.split == "train") & dataset.rows.parent_id.isna()]
    assert curve.patients.is_monotonic_increasing
    assert curve.patients.iloc[-1] == learnt.patient_id.nunique()
    assert curve.tiles.iloc[-1] == len(learnt) > curve.tiles.iloc[0]
    assert {f"recall_{label}" for label in dataset.classes} <= set(curve)
    assert curve.balanced_accuracy.between(0, 1).all()
    assert "patients" in say_curve(curve)
    with pytest.raises(DatasetError, match="fewer steps"):
        measure_curve(dataset, spec=spec, steps=50)
    assert open_dataset(dataset.folder).dataset_id == dataset.dataset_id


def test_results_are_whole(ran):
    home, _ = ran
    results = home.catalog.results()
    assert len(results) == 9
    assert results.abnormal_fraction.is_monotonic_decreasing
    for path in results.result_path:
        result = read_result(path)
        columns = [f"prob_{label}" for label in result.classes]
        np.testing.assert_allclose(result.predictions[columns].sum(axis=1), 1, atol=1e-5)
        assert not result.gate_passed
        assert sum(result.class_fractions.values()) == pytest.approx(1)


def test_a_model_that_learnt_too_little_does_not_pass(ran):
    home, _ = ran
    with pytest.raises(GateFailed, match=r"did not pass.*Collect more patients"):
        pass_gate(home, newest_model(home), spec=GateSpec(min_accuracy=1.0))
    assert read_gate(production_model(home))["looks"] >= 2


def test_tiles_that_differ_from_the_card_are_refused(ran):
    home, _ = ran
    tiles = read_table(home.tiles / "tiles.parquet", LABELLED_TILES)
    with pytest.raises(BundleError, match="tile_size=128"):
        analyse_slides(home, [], tiles=tiles.assign(tile_size=128))


def test_the_same_seed_gives_the_same_weights(ran):
    home, _ = ran
    spec = TrainSpec(recipe="quick", epochs=1, image_size=64, network_args={"width": 0.125})
    assert train(find_dataset(home), home, spec=spec) == train(find_dataset(home), home, spec=spec)


def test_training_refuses_what_does_not_fit(ran):
    home, _ = ran
    with pytest.raises(DatasetError, match="image_size"):
        train(find_dataset(home), home, spec=TrainSpec(image_size=512))
    with pytest.raises(DatasetError, match="normal_class"):
        train(find_dataset(home), home, spec=TrainSpec(normal_class="healthy", image_size=64))


def test_damaged_bundles_are_refused(ran, tmp_path):
    folder = production_model(ran[0])
    damaged = shutil.copytree(folder, tmp_path / folder.name)
    weights = damaged / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256"):
        open_bundle(damaged)
    weights.unlink()
    with pytest.raises(BundleError, match="SHA-256"):
        open_bundle(damaged)
    (damaged / "card.json").write_text("{}")
    with pytest.raises(BundleError, match="card"):
        open_bundle(damaged)


def test_a_changed_training_table_is_refused(ran, tmp_path):
    dataset = find_dataset(ran[0])
    copy = shutil.copytree(dataset.folder, tmp_path / dataset.dataset_id)
    rows = pd.read_parquet(copy / "tiles.parquet")
    rows.loc[rows.split == "test", "label"] = rows.label.iloc[0]
    rows.to_parquet(copy / "tiles.parquet")
    with pytest.raises(DatasetError, match="certificate"):
        open_dataset(copy)


def test_unknown_parameters_are_refused_before_anything_starts(ran):
    home, _ = ran
    before = sorted(home.runs.iterdir())
    with pytest.raises(NotebookError, match="no parameter 'tilesize'"):
        run_notebook(find_notebook("03_tiling"), home, parameters={"tilesize": 256})
    with pytest.raises(NotebookError, match="must be int"):
        run_notebook(find_notebook("03_tiling"), home, parameters={"tile_size": "large"})
    assert sorted(home.runs.iterdir()) == before

"""How far tiles are from the training tiles, on features whose distribution is known."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_nb.errors import BundleError, DatasetError
from histo_nb.inference.reference import fit_reference, read_reference, write_reference
from histo_nb.inference.stain import COLOURS

SCANNERS = ["aperio 40x", "aperio 20x", "aperio 40x"]
PINK = pd.DataFrame([[0.2, 0.5, 0.3], [0.22, 0.52, 0.3]], columns=list(COLOURS))


def features(rng, n, *, width=40, rank=8, n_classes=3, mixing=None):
    """Tiles of classes that differ along a few mixed directions, and little noise."""
    mixing = np.random.default_rng(7).normal(size=(rank, width)) if mixing is None else mixing
    targets = np.arange(n) % n_classes
    hidden = rng.normal(size=(n, rank)) + 6 * np.eye(n_classes, rank)[targets]
    return (hidden @ mixing + rng.normal(0, 0.05, (n, width))).astype(np.float32), targets


def fit(known, targets, valid, *, colours=PINK, scanners=SCANNERS):
    return fit_reference(known, targets, valid_features=valid, colours=colours, scanners=scanners)


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(0)
    return fit(*features(rng, 600), features(rng, 300)[0])


def test_unseen_tiles_of_the_same_kind_are_within_the_limit(reference):
    known, _ = features(np.random.default_rng(1), 500)
    share = (reference.distances(known) > reference.limit).mean()
    assert 0 <= share < 0.04


def test_tiles_of_another_kind_are_beyond_it(reference):
    rng = np.random.default_rng(2)
    known, _ = features(rng, 100)
    between = known[:50].mean(axis=0) + rng.normal(0, 0.05, (50, known.shape[1]))  # of no class
    turned = features(rng, 100, mixing=rng.normal(size=(8, 40)))[0]  # the same sizes, turned
    for strange in (between, turned, known + 5, -known, np.zeros_like(known)):
        assert (reference.distances(strange.astype(np.float32)) > reference.limit).mean() > 0.9


def test_what_no_training_tile_ever_shows_is_noticed():
    """A feature that was always 0 lies in no direction of the training tiles."""
    rng = np.random.default_rng(3)
    known, targets = features(rng, 400, width=100, rank=80)
    known[:, 5] = 0
    valid = features(rng, 200, width=100, rank=80)[0]
    valid[:, 5] = 0
    reference = fit(known, targets, valid)
    assert reference.axes.shape == (100, 64)
    fired = valid.copy()
    fired[:, 5] = 40  # the others have a deviation of 9
    assert (reference.distances(fired) > reference.limit).mean() > 0.9


def test_a_distance_is_that_of_mahalanobis():
    """With many tiles nothing is shrunk, and with few features all have their axis."""
    rng = np.random.default_rng(4)
    mixing = rng.normal(size=(5, 5))
    known = rng.normal(size=(200_000, 5)) @ mixing
    targets = np.arange(len(known)) % 2
    known += np.where(targets == 1, 30, 0)[:, None]
    reference = fit(known, targets, known[:1000])
    asked = rng.normal(0, 20, (50, 5))
    precision = np.linalg.inv(mixing.T @ mixing)
    off = [asked - centre for centre in (0, 30)]
    expected = np.sqrt(np.min([np.einsum("nd,de,ne->n", o, precision, o) for o in off], axis=0))
    np.testing.assert_allclose(reference.distances(asked), expected, rtol=0.02)
    within = rng.normal(size=(2000, 5)) @ mixing
    assert (reference.distances(within) ** 2).mean() == pytest.approx(5, rel=0.05), "χ² of 5"


@given(
    cuts=st.lists(st.integers(0, 700), max_size=6),
    seed=st.integers(0, 9),
    in_64_bits=st.booleans(),
)
def test_a_distance_depends_on_its_row_alone(reference, cuts, seed, in_64_bits):
    rng = np.random.default_rng(seed)
    asked = features(rng, 700)[0].astype(np.float64 if in_64_bits else np.float32)
    whole = reference.distances(asked)
    parts = [reference.distances(part) for part in np.split(asked, sorted(cuts))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = rng.permutation(700)
    np.testing.assert_array_equal(reference.distances(asked[order]), whole[order])
    strided = np.asfortranarray(asked)
    np.testing.assert_array_equal(reference.distances(strided), whole)
    one = reference.distances(asked[13:14])
    np.testing.assert_array_equal(one, whole[13:14])


def test_fewer_tiles_than_features_are_enough():
    rng = np.random.default_rng(5)
    known, targets = features(rng, 12, width=200)
    reference = fit(known, targets, features(rng, 12, width=200)[0])
    assert reference.axes.shape[1] == 12 - 3, "as many as tiles say anything about"
    assert np.isfinite(reference.limit)
    strange = features(rng, 20, width=200, mixing=rng.normal(0, 3, (8, 200)))[0]
    assert (reference.distances(strange) > reference.limit).all()


def test_a_class_without_tiles_and_one_with_one_tile_are_allowed():
    known, _ = features(np.random.default_rng(6), 30)
    reference = fit(known, np.array([0] * 29 + [2]), known)
    assert reference.centres.shape == (2, 40)
    assert np.isfinite(reference.distances(known)).all()


def test_the_limit_is_set_by_unseen_tiles_and_is_their_highest_if_they_are_few():
    rng = np.random.default_rng(10)
    known, targets = features(rng, 300)
    wider = features(rng, 60)[0] + rng.normal(0, 1, (60, 40)).astype(np.float32)
    reference = fit(known, targets, wider)
    assert reference.limit == reference.distances(wider).max()
    assert reference.limit > 2 * reference.distances(known).max()


@pytest.mark.parametrize("n", [1, 5])
def test_tiles_that_all_look_alike_pass_and_others_do_not(n):
    known = np.full((n, 10), 3.0, np.float32)
    reference = fit(known, np.zeros(n, int), known)
    assert (reference.distances(known) <= reference.limit).all()
    assert (reference.distances(known + 0.1) > reference.limit).all()


def test_features_that_are_no_numbers_are_named():
    known, targets = features(np.random.default_rng(8), 20)
    broken = known.copy()
    broken[3, 2] = np.nan
    with pytest.raises(DatasetError, match=r"1 training tiles are NaN .* number 3: training diver"):
        fit(broken, targets, known)
    broken[3, 2] = np.inf
    with pytest.raises(DatasetError, match="1 validation tiles are NaN or infinite"):
        fit(known, targets, broken)


@pytest.mark.parametrize(
    ("tiles", "targets", "valid"),
    [((5, 4), 6, (5, 4)), ((5, 4), 5, (5, 3)), ((0, 4), 0, (5, 4)), ((5, 4), 5, (0, 4))],
)
def test_features_that_do_not_fit_are_named(tiles, targets, valid):
    with pytest.raises(DatasetError, match=r"do not fit|collect more"):
        fit(np.ones(tiles), np.zeros(targets, int), np.ones(valid))
    with pytest.raises(DatasetError, match="lack od_blue"):
        fit(
            np.ones((5, 4)), np.zeros(5, int), np.ones((5, 4)), colours=PINK[["od_red", "od_green"]]
        )


def test_another_networks_features_are_refused(reference):
    with pytest.raises(BundleError, match="another network's; train the model again"):
        reference.distances(np.zeros((3, 41)))


def test_nan_is_within_no_limit(reference):
    asked = np.full((2, 40), np.nan)
    assert not (reference.distances(asked) <= reference.limit).any()


def test_a_reference_is_read_back_to_the_last_bit(reference, tmp_path):
    path = write_reference(reference, tmp_path / "reference.safetensors")
    read = read_reference(path)
    asked = features(np.random.default_rng(9), 50)[0]
    np.testing.assert_array_equal(read.distances(asked), reference.distances(asked))
    assert (read.limit, read.n_tiles) == (reference.limit, 600)
    assert read.scanners == ("aperio 20x", "aperio 40x")
    assert read.stain.n_slides == 2
    np.testing.assert_allclose(read.stain.centre, [0.21, 0.51, 0.3])
    assert [p.name for p in tmp_path.iterdir()] == ["reference.safetensors"]
    again = write_reference(read, tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("what", ["missing", "cut", "text", "later", "shapes", "nan", "bare"])
def test_a_damaged_reference_is_named(reference, tmp_path, what, monkeypatch):
    path = tmp_path / "reference.safetensors"
    wrong = {
        "shapes": {"axes": reference.axes[:30]},
        "nan": {"limit": float("nan")},
    }
    if what == "later":
        monkeypatch.setattr("histo_nb.inference.reference.FORMAT", "2")
    write_reference(dataclasses.replace(reference, **wrong.get(what, {})), path)
    monkeypatch.undo()
    if what == "missing":
        path.unlink()
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif what == "text":
        path.write_text("a reference")
    elif what == "bare":
        from safetensors.numpy import save_file  # noqa: PLC0415

        save_file({"axes": reference.axes}, path)
    with pytest.raises(BundleError, match=r"reference.safetensors is no record .*copy the model"):
        read_reference(path)


def test_the_number_of_threads_changes_no_distance(reference, tmp_path):
    write_reference(reference, tmp_path / "reference.safetensors")
    code = f"""if True:
        import sys, numpy as np
        from histo_nb.inference.reference import read_reference
        asked = np.random.default_rng(0).normal(size=(900, 40))
        found = read_reference({str(tmp_path / "reference.safetensors")!r}).distances(asked)
        assert not {{"torch", "sklearn", "scipy"}} & set(sys.modules)
        print(found.tobytes().hex())
    """
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"OPENBLAS_NUM_THREADS": n, "OMP_NUM_THREADS": n},
            capture_output=True,
            check=True,
        ).stdout
        for n in "12"
    }
    assert len(said) == 1

"""Labels by hand: which counts, how far annotators agree, what comes next, what is missing."""

import multiprocessing

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_nb.catalog import Catalog
from histo_nb.errors import SpecError
from histo_nb.tiling.hand import CONFLICT, SOURCE, apply_hand_labels, measure_agreement, settle
from histo_nb.tiling.ledger import LedgerSpec, make_ledger, say_missing
from histo_nb.tiling.queue import measure_uncertainty, order_tiles
from histo_nb.tiling.table import file_tiles, read_tiles


def decisions(**said):
    """`a="nt-"`: annotator a says n of tile 0, t of tile 1, nothing of tile 2."""
    return pd.DataFrame(
        [
            {"tile_id": f"T-{i}", "annotator": name, "label": label, "decided_at": f"2026-{i:02}"}
            for name, labels in said.items()
            for i, label in enumerate(labels)
            if label != "-"
        ],
        columns=["tile_id", "annotator", "label", "decided_at"],
    )  # fmt: skip


# -------------------------------------------------------------------------------- catalogue
def test_the_last_decision_of_each_annotator_counts_and_all_are_kept(home):
    catalog = home.catalog
    for label in ("normal", "tumour", None, "normal"):
        catalog.add_hand_label("T-1", annotator="ada", label=label)
    catalog.add_hand_label("T-1", annotator="bob", label="tumour")
    catalog.add_hand_label("T-2", annotator="bob", label="tumour")
    catalog.add_hand_label("T-2", annotator="bob", label=None)
    rows = catalog.hand_labels()
    assert rows[["tile_id", "annotator", "label"]].to_numpy().tolist() == [
        ["T-1", "ada", "normal"],
        ["T-1", "bob", "tumour"],
    ]
    assert len(catalog.hand_labels(["T-2"])) == 0
    with catalog.engine.connect() as connection:
        assert connection.exec_driver_sql("select count(*) from hand_labels").scalar() == 7


def write_labels(url, name, n):
    catalog = Catalog(url)
    for i in range(n):
        catalog.add_hand_label(f"T-{i}", annotator=name, label="normal")


def test_annotators_who_write_at_once_lose_nothing(home):
    url = home.catalog.engine.url.render_as_string(hide_password=False)
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write_labels, args=(url, name, 60)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert home.catalog.hand_labels().groupby("annotator").size().to_dict() == dict.fromkeys(
        "abc", 60
    )


# ------------------------------------------------------------------------------- which counts
def test_the_majority_counts_and_an_even_split_does_not():
    said = settle(decisions(a="nnt", b="nt-", c="-t-"))
    assert said.label.to_dict() == {"T-0": "n", "T-1": "t", "T-2": "t"}
    assert said.conflict.to_dict() == {"T-0": False, "T-1": True, "T-2": False}
    assert said.labelled_by.to_dict() == {"T-0": "a, b", "T-1": "b, c", "T-2": "a"}
    even = settle(decisions(a="n", b="t"))
    assert even.labelled_by.iloc[0] == "a, b"
    assert (even.label.iloc[0], bool(even.conflict.iloc[0]), even.share.iloc[0]) == (
        None,
        True,
        0.5,
    )


def test_labels_by_hand_stand_before_those_from_files(home, make_tiles):
    tiles = make_tiles(("P1", "normal", 4))
    first, second, third, _ = tiles.tile_id
    file_tiles(tiles, home)
    for tile_id, annotator, label in (
        (first, "ada", "tumour"),
        (second, "ada", "normal"),
        (second, "bob", "tumour"),
        (third, "bob", "tumour"),
        (third, "bob", None),
        ("elsewhere", "bob", "tumour"),
    ):
        home.catalog.add_hand_label(tile_id, annotator=annotator, label=label)
    rows = read_tiles(home)
    assert rows.label.tolist() == ["tumour", None, "normal", "normal"]
    assert rows.label_source.tolist() == [SOURCE, CONFLICT, "test", "test"]
    assert rows.labelled_by.tolist() == ["ada", "ada, bob", "test", "test"]
    assert rows.labelled_at.iloc[0] > "2026-11"
    assert rows.label_fraction.isna().tolist() == [True, True, False, False]


def test_without_decisions_nothing_changes(make_tiles):
    tiles = make_tiles(("P1", "normal", 2))
    pd.testing.assert_frame_equal(apply_hand_labels(tiles, decisions()), tiles)


# --------------------------------------------------------------------------------- agreement
def test_kappa_is_that_of_the_textbook():
    """Cohen 1960's measure on a table of 20+5+10+15; Fleiss is 1 where all agree."""
    a = "y" * 25 + "n" * 25
    b = "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    (pair,) = measure_agreement(decisions(a=a, b=b))
    assert (pair["n_tiles"], pair["agreement"], pair["kappa"]) == (50, 0.7, pytest.approx(0.4))
    *pairs, all_three = measure_agreement(decisions(a="nt", b="nt", c="nt"))
    assert len(pairs) == 3
    assert (all_three["annotators"], all_three["kappa"]) == (["a", "b", "c"], 1)


def test_agreement_by_one_class_alone_proves_nothing():
    (pair,) = measure_agreement(decisions(a="nn", b="nn"))
    assert pair["agreement"] == 1
    assert np.isnan(pair["kappa"])
    assert measure_agreement(decisions(a="n-", b="-t")) == []
    assert measure_agreement(decisions()) == []


# -------------------------------------------------------------------------------------- order
@pytest.fixture
def tiles(make_tiles):
    return make_tiles(("P1", "n", 30), ("P2", "n", 10), ("P3", "n", 20))


@given(st.sampled_from(["random", "uncertain", "disagreement"]), st.integers(0, 2**31))
def test_every_tile_comes_once(order, seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    rows = pd.DataFrame({"tile_id": [f"T-{i}" for i in range(n)], "slide_id": rng.choice(list("ab"),
                         n), "x": rng.integers(0, 9, n), "y": 0, "size_l0": 1})  # fmt: skip
    known = rows.tile_id[rng.random(n) < 0.7]
    uncertainty = pd.Series(rng.random(len(known)), index=known)
    if uncertainty.empty and order == "uncertain":
        return
    said = settle(decisions(a=rng.choice(list("nt-"), n), b=rng.choice(list("nt-"), n)))
    given_facts = {"uncertainty": uncertainty, "settled": said, "seed": seed}
    got = order_tiles(rows, order, **given_facts)
    assert sorted(got) == list(range(n))
    assert got.tolist() == order_tiles(rows, order, **given_facts).tolist()


def test_the_uncertain_come_first_spread_over_slides_and_places(tiles):
    uncertainty = pd.Series(0.2, index=tiles.tile_id)
    hot = tiles.tile_id[[3, 4, 27]]  # two neighbours and one far away, of the first slide
    uncertainty[hot] = [0.9, 0.89, 0.6]
    order = order_tiles(tiles, "uncertain", uncertainty=uncertainty)
    assert tiles.slide_id.iloc[order[:3]].nunique() == 3, "slides take turns"
    of_first = [i for i in order if tiles.patient_id[i] == "P1"]
    assert of_first[:2] == [3, 27], "not the neighbour of the one just seen"
    partly = order_tiles(tiles, "uncertain", uncertainty=uncertainty[tiles.tile_id[:5]])
    assert set(partly[:5]) == set(range(5)), "tiles without a prediction come last"


def test_the_divided_come_first_then_those_seen_once(tiles):
    ids = tiles.tile_id.tolist()
    rows = decisions(a="nnn", b="nt-", c="nt-", d="-t-")
    rows["tile_id"] = rows.tile_id.map({"T-0": ids[7], "T-1": ids[40], "T-2": ids[20]})
    order = order_tiles(tiles, "disagreement", settled=settle(rows))
    assert order[:2].tolist() == [40, 20]


def test_an_order_that_cannot_be_is_named(tiles):
    for order, said in (("best", "unknown"), ("uncertain", "analyse"), ("disagreement", "label")):
        with pytest.raises(SpecError, match=said):
            order_tiles(tiles, order)


def test_uncertainty_is_the_entropy():
    rows = np.array([[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3])
    assert measure_uncertainty(rows) == pytest.approx([0, np.log(2) / np.log(3), 1])


# ------------------------------------------------------------------------------------- ledger
def test_the_ledger_counts_against_targets_and_says_what_to_collect(make_tiles):
    tiles = make_tiles(("P1", "normal", 5), ("P2", "normal", 5), ("P3", "adenoma", 2))
    tiles.loc[0, "label"] = None
    tiles.loc[tiles.patient_id == "P2", "patient_id"] = None
    spec = LedgerSpec(min_patients=1, min_slides=2, min_tiles=5)
    ledger = make_ledger(tiles, classes=("carcinoma",), spec=spec)
    assert ledger.loc["normal", ["patients", "slides", "tiles"]].tolist() == [1, 2, 9]
    assert ledger.loc["adenoma", ["missing_patients", "missing_slides"]].tolist() == [0, 1]
    assert say_missing(ledger) == [
        "collect ≥ 1 more patient of carcinoma",
        "collect ≥ 1 more slide of adenoma",
    ]
    enough = LedgerSpec(min_patients=1, min_slides=1, min_tiles=9)
    assert say_missing(make_ledger(tiles[tiles.label == "normal"], spec=enough)) == []
    few = LedgerSpec(min_patients=1, min_slides=1, min_tiles=12)
    assert say_missing(make_ledger(tiles[tiles.label == "normal"], spec=few)) == [
        "label ≥ 3 more tiles of normal"
    ]
    with pytest.raises(SpecError):
        LedgerSpec(min_tiles=0)

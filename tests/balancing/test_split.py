import numpy as np
import pandas as pd
import pytest

from histo_nb.balancing.balance import BalanceSpec, balance_training
from histo_nb.balancing.certificate import check_certificate, hash_rows, make_certificate
from histo_nb.balancing.split import SplitSpec, find_units, split_patients
from histo_nb.errors import DatasetError, SpecError


@pytest.fixture
def cohort(make_tiles):
    """Twelve patients of three classes, some with two, with uneven numbers of tiles."""
    rng = np.random.default_rng(3)
    groups = []
    for i in range(12):
        groups.append((f"p{i:02d}", "normal", int(rng.integers(5, 25))))
        if i % 3:
            groups.append((f"p{i:02d}", ("adenoma", "carcinoma")[i % 2], int(rng.integers(3, 12))))
    return make_tiles(*groups)


@pytest.fixture
def slides(cohort):
    return cohort.drop_duplicates("slide_id").assign(width=2000, height=2000)


def test_whole_patients_near_8_to_2_with_every_class_everywhere(cohort):
    rows = split_patients(cohort)
    assert (rows.groupby("patient_id").split.nunique() == 1).all()
    assert (rows.split == "test").mean() == pytest.approx(0.2, abs=0.05)
    assert rows.groupby("split").label.nunique().to_dict() == {"train": 3, "valid": 3, "test": 3}


def test_the_seed_decides_and_the_order_of_rows_does_not(cohort):
    first = split_patients(cohort).set_index("tile_id").split
    again = split_patients(cohort.sample(frac=1, random_state=1)).set_index("tile_id").split
    assert first.equals(again[first.index])


def test_many_patients_are_split_too(make_tiles):
    tiles = make_tiles(*[(f"q{i:03d}", ("a", "b", "c")[i % 3], 4) for i in range(60)])
    rows = split_patients(tiles)
    assert (rows.split == "test").mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        (
            [("p1", "a", 5), ("p2", "a", 5), ("p3", "b", 5)],
            r"too few patients .* of a \(2\), b \(1\)",
        ),
        ([("p1", "a", 5), ("p2", "a", 5)], "at least two"),
    ],
)
def test_data_that_cannot_be_split(make_tiles, groups, reason):
    with pytest.raises(DatasetError, match=reason):
        split_patients(make_tiles(*groups))


def test_unlabelled_or_nameless_tiles(cohort):
    with pytest.raises(DatasetError, match="no tile has a label"):
        split_patients(cohort.assign(label=None))
    with pytest.raises(DatasetError, match="--patient"):
        split_patients(cohort.assign(patient_id=None))
    with pytest.raises(SpecError, match="test_share"):
        SplitSpec(test_share=1.5)


def test_balance_raises_rare_classes_in_training_only(cohort, slides):
    rows = balance_training(split_patients(cohort), slides)
    train = rows[rows.split == "train"].label.value_counts()
    assert train.nunique() == 1
    copies = rows[rows.parent_id.notna()]
    assert len(copies) > 0
    assert set(copies.split) == {"train"}
    assert (copies.angle % 90 != 0).any()


def test_without_room_copies_take_right_angles(cohort, slides):
    tight = slides.assign(width=slides.width * 0 + 612, height=164)
    rows = balance_training(split_patients(cohort), tight)
    copies = rows[rows.parent_id.notna()]
    at_edge = copies[(copies.y < 130) | (copies.x + 64 > 580)]
    assert len(at_edge) > 0
    assert (at_edge.angle % 90 == 0).all()


def test_balance_can_be_left_out(cohort, slides):
    rows = balance_training(split_patients(cohort), slides, spec=BalanceSpec(balance=False))
    assert rows.parent_id.isna().all()


def test_certificate_holds_and_notices_any_change(cohort, slides):
    rows = balance_training(split_patients(cohort), slides)
    certificate = make_certificate(rows)
    check_certificate(rows.sample(frac=1, random_state=0), certificate)
    changed = rows.copy()
    changed.loc[0, "label"] = "other"
    with pytest.raises(DatasetError, match="histo-nb balance"):
        check_certificate(changed, certificate)
    assert hash_rows(rows) != hash_rows(changed)


def test_units_joined_by_a_site_stay_together(make_tiles):
    tiles = make_tiles(*[(f"p{i:02d}", "ab"[i % 2], 5) for i in range(20)])
    site = tiles.patient_id.map(lambda name: f"site {int(name[1:]) // 2}")
    rows = split_patients(tiles.assign(site=site), spec=SplitSpec(groups=("site",)))
    assert (rows.groupby("site").split.nunique() == 1).all()
    assert rows.split.nunique() == 3
    certificate = make_certificate(rows.assign(parent_id=None, angle=0.0, flip=False),
                                   groups=["site"])  # fmt: skip
    assert "no site on two sides" in certificate["checked"]
    alone = split_patients(tiles.assign(site=site))
    assert (alone.groupby("site").split.nunique() > 1).any()
    with pytest.raises(DatasetError, match="site"):
        make_certificate(alone.assign(parent_id=None, angle=0.0, flip=False), groups=["site"])


def test_an_unknown_site_joins_nobody():
    rows = pd.DataFrame({"patient_id": list("abc"), "site": [None, None, "x"],
                         "field": ["1", "2", "2"]})  # fmt: skip
    assert find_units(rows, ["site"]).tolist() == ["a", "b", "c"]
    assert find_units(rows, ["site", "field"]).tolist() == ["a", "b", "b"]
    with pytest.raises(DatasetError, match="no column ward"):
        find_units(rows, ["ward"])


def test_patients_keep_their_side_when_more_come(make_tiles):
    groups = [(f"p{i:02d}", "ab"[i % 2], 5) for i in range(12)]
    first = split_patients(make_tiles(*groups))
    sides = dict(zip(first.patient_id, first.split, strict=True))
    more = [(f"q{i:02d}", "ab"[i % 2], 5) for i in range(8)]
    rows = split_patients(make_tiles(*groups, *more), sides=sides, spec=SplitSpec(seed=7))
    now = dict(zip(rows.patient_id, rows.split, strict=True))
    assert {name: now[name] for name in sides} == sides
    assert (rows.split == "test").mean() == pytest.approx(0.2, abs=0.06)
    every = split_patients(make_tiles(*groups), sides=dict.fromkeys(sides, "train"))
    assert set(every.split) == {"train"}  # as given, whatever is missing


def test_tens_of_thousands_of_patients_are_split_too(make_tiles):
    few = make_tiles(("p", "a", 1), ("q", "b", 1))
    n = 20_000
    tiles = pd.concat([few] * (n // 2), ignore_index=True)
    tiles["patient_id"] = [f"p{i}" for i in range(n)]
    tiles["tile_id"] = tiles.patient_id
    rows = split_patients(tiles)
    assert (rows.split == "test").mean() == pytest.approx(0.2, abs=0.01)


def test_every_class_is_turned_by_the_same_family(make_tiles):
    """Turning interpolates: if only rare classes were turned, a network could tell them by it."""
    tiles = make_tiles(*[(f"p{i}", ("a", "b")[i % 2], (200, 40)[i % 2]) for i in range(12)])
    rows = split_patients(tiles)
    slides = rows.drop_duplicates("slide_id").assign(width=90_000, height=90_000)
    balanced = balance_training(rows, slides)
    train = balanced[balanced.split == "train"]
    free = (train.angle % 90 != 0).groupby(train.label).mean()
    assert free.between(0.4, 0.6).all()
    copies = train.parent_id.notna()
    assert (train.angle % 90 != 0).groupby(copies).mean().between(0.4, 0.6).all()
    assert (balanced.angle[balanced.split != "train"] == 0).all()
    right = balance_training(rows, slides, spec=BalanceSpec(free_angles=False))
    assert (right.angle % 90 == 0).all()


def test_planted_leaks_are_refused(cohort, slides):
    rows = balance_training(split_patients(cohort), slides)
    patient = rows.copy()
    patient.loc[patient.index[patient.split == "test"][0], "split"] = "train"
    with pytest.raises(DatasetError, match="patient_id"):
        make_certificate(patient)
    copy = rows.copy()
    copy.loc[copy.parent_id.notna(), "split"] = "test"
    with pytest.raises(DatasetError, match=r"two sides|copies"):
        make_certificate(copy)
    twin = rows.copy()  # the same places under another name, on the other side
    own = twin[(twin.split == "test") & twin.parent_id.isna()]
    twin.loc[own.index, "slide_path"] = twin.slide_path[twin.split == "train"].iloc[0]
    with pytest.raises(DatasetError, match="overlap"):
        make_certificate(twin)


def test_a_copy_of_another_place_is_refused(cohort, slides):
    rows = balance_training(split_patients(cohort), slides)
    copy = rows.index[rows.parent_id.notna()][0]
    seen = rows[rows.split == "test"].iloc[0]
    for column in ("slide_path", "x", "y"):
        rows.loc[copy, column] = seen[column]
    with pytest.raises(DatasetError, match="another place than its parent"):
        make_certificate(rows)


def test_the_test_part_is_named_by_its_patients(cohort, slides):
    rows = balance_training(split_patients(cohort), slides)
    first = make_certificate(rows)
    label = rows.label.where(rows.index != rows.index[rows.split == "test"][0], "adenoma")
    relabelled = make_certificate(rows.assign(label=label))
    assert relabelled["sha256"] != first["sha256"]
    assert relabelled["test_sha256"] == first["test_sha256"]


def test_sides_that_do_not_exist(cohort):
    with pytest.raises(SpecError, match="tset"):
        split_patients(cohort, sides={"p00": "tset"})


def test_rare_classes_are_left_for_training_and_validation(make_tiles):
    """Three patients of the rare class: one for each part, not two for the test."""
    groups = [(f"p{i}", "a", 20) for i in range(8)]
    rare = [("p0", "b", 1), ("p1", "b", 1), ("p2", "b", 16)]
    rows = split_patients(make_tiles(*groups, *rare))
    assert (rows[rows.label == "b"].groupby("split").patient_id.nunique() == 1).all()
    assert rows[rows.label == "b"].split.nunique() == 3

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_nb.errors import StorageError, TableError
from histo_nb.tables import CONTRACTS, PREDICTIONS, TILES, check_table, read_table, write_table

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)  # surrogates have no UTF-8
values = {
    pa.string(): text,
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
}


@st.composite
def tables(draw, contract, *, min_size=1):
    columns = {
        field.name: values[field.type] | st.none() if field.nullable else values[field.type]
        for field in contract.schema
    }
    columns |= {name: st.sampled_from(allowed) for name, allowed in contract.allowed.items()}
    (key,) = contract.key
    row = st.fixed_dictionaries(columns)
    rows = draw(st.lists(row, min_size=min_size, max_size=3, unique_by=lambda row: row[key]))
    return pd.DataFrame(rows, columns=draw(st.permutations(list(columns))), dtype=object)


def rows(n=2, **changes):
    """Tiles that meet their contract, but for the changes."""
    plain = {pa.string(): "a", pa.int64(): 8, pa.float64(): 0.5}
    columns = {field.name: [plain[field.type]] * n for field in TILES.schema}
    columns |= {"tile_id": [f"t{i}" for i in range(n)]}
    columns |= {name: [allowed[0]] * n for name, allowed in TILES.allowed.items()}
    return pd.DataFrame(columns).assign(**changes)


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=list(CONTRACTS))
@given(data=st.data())
def test_a_table_survives_its_file(contract, data, tmp_path_factory):
    table = data.draw(tables(contract, min_size=0))
    path = tmp_path_factory.mktemp("tables") / "a.parquet"
    checked = check_table(table, contract, empty_ok=True)
    read = read_table(write_table(table, path, contract), contract, empty_ok=True)
    pd.testing.assert_frame_equal(checked, read, check_exact=True)
    assert list(checked.columns) == contract.columns
    for name, kind in zip(contract.columns, contract.schema.types, strict=True):
        known = table[name].notna()
        assert checked.loc[known, name].tolist() == table.loc[known, name].tolist()
        assert not checked.loc[~known, name].notna().any()
        if kind == pa.string():
            assert all(value is None for value in checked.loc[~known, name])


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=list(CONTRACTS))
@given(data=st.data())
def test_a_missing_column_is_named(contract, data):
    table = data.draw(tables(contract))
    lost = data.draw(st.sampled_from(contract.columns))
    with pytest.raises(TableError, match=lost):
        check_table(table.drop(columns=lost), contract)


@given(st.data(), st.sampled_from(TILES.columns))
def test_any_value_is_taken_or_refused_by_name(data, column):
    odd = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    odd |= st.complex_numbers() | st.dates() | st.lists(st.integers())
    cells = pd.Series(data.draw(st.lists(odd, min_size=2, max_size=2)), dtype=object)
    try:
        checked = check_table(rows(**{column: cells}), TILES)
    except TableError as error:
        assert column in str(error)
    else:
        assert check_table(checked, TILES)[column].equals(checked[column])


def test_extra_columns_pass_unchanged(tmp_path):
    table = rows(prediction="a", prob_a=[0.1, np.nan], note=["x", "y"])
    read = read_table(write_table(table, tmp_path / "a.parquet", PREDICTIONS), PREDICTIONS)
    assert list(read.columns[-2:]) == ["prob_a", "note"]
    assert read.prob_a.equals(table.prob_a)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (rows(0), "is empty"),
        (rows(tile_id="t"), "repeat their key"),
        (rows(tissue=[np.nan, 1]), r"1 rows of tiles\.tissue are empty"),
        (rows(x=[0.5, 1]), r"tiles\.x must be int64"),
        (pd.concat([rows(), rows()[["x"]]], axis=1), "has x twice"),
    ],
)
def test_broken_contracts_are_named(table, said):
    with pytest.raises(TableError, match=said):
        check_table(table, TILES)


def test_splits_have_three_names():
    contract = CONTRACTS["training tiles"]
    table = rows().reindex(columns=contract.columns).assign(angle=0.0, flip=False, split="holdout")
    with pytest.raises(TableError, match=r"holdout.*train"):
        check_table(table, contract)


def test_a_column_parquet_cannot_hold_is_named(tmp_path):
    with pytest.raises(TableError, match="odd"):
        write_table(rows(odd=[object(), 1]), tmp_path / "a.parquet", TILES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 100])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(TableError, match="not a Parquet table"):
        read_table(tmp_path / "a.parquet", TILES)
    with pytest.raises(TableError, match="does not exist"):
        read_table(tmp_path / "b.parquet", TILES)


def test_no_half_table_is_left(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        write_table(rows(), tmp_path / "file" / "a.parquet", TILES)

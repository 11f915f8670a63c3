"""CSV that no spreadsheet executes, and that gives back what was written."""

import csv
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_nb.spreadsheet import ENDS, STARTS, arm, disarm, read_csv, write_csv

HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "a;=1", 'x",=1', "a\n=1", "＝1",
           "=cmd|' /C calc'!A0", "'=1", "''", "\ufeff=1", "\u3000=1", "\x0b=1", "﹦1"]  # fmt: skip
TEXT = st.text(st.sampled_from("=+-@'\t\r\n ;,\"|ab＝") | st.characters(codec="utf-8"), max_size=12)


def cells_in_any_language(line: str) -> list[str]:
    """Return what stands at the start of a cell, wherever a program may think that one begins."""
    return [cell.lstrip(" \xa0\u3000\ufeff") for cell in re.split(rf"[{ENDS}]", line)]


@given(TEXT)
def test_what_is_disarmed_is_armed_again(text):
    assert arm(disarm(text)) == text


@given(TEXT)
def test_no_cell_starts_as_a_formula(text):
    assert not any(re.match(rf"[{STARTS}]", cell) for cell in cells_in_any_language(disarm(text)))


@given(st.lists(st.tuples(TEXT.filter(bool), st.floats(allow_nan=False, allow_infinity=False)),
                min_size=1, max_size=5))  # fmt: skip
def test_a_table_comes_back(tmp_path_factory, rows):
    table = pd.DataFrame(rows, columns=["=name", "n"])
    path = write_csv(table, tmp_path_factory.mktemp("csv") / "t.csv")
    found = read_csv(path, texts=["=name"])
    assert found["=name"].tolist() == table["=name"].tolist()
    assert found.n.tolist() == table.n.tolist()


def test_rows_of_blanks_and_of_nothing_stay_rows(tmp_path):
    path = write_csv(pd.DataFrame({"a": [" ", None, "x"]}), tmp_path / "t.csv")
    found = read_csv(path, texts=["a"]).a
    assert len(found) == 3
    assert found.dropna().tolist() == [" ", "x"]


def test_texts_are_disarmed_in_whatever_column_they_stand(tmp_path):
    table = pd.DataFrame(
        {
            "a": pd.Categorical(["=1", "b"]),
            "b": [3, "=2"],
            "c": pd.Series(["\ud800", "d"], dtype=object),
        }
    )
    words = write_csv(table, tmp_path / "t.csv").read_text()
    assert words.splitlines() == ["a,b,c", "'=1,3,?", "b,'=2,d"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_spreadsheet_finds_text_and_numbers(tmp_path, text):
    path = write_csv(pd.DataFrame({text: [text], "n": [-1.5]}), tmp_path / "t.csv")
    with path.open(newline="", encoding="utf-8") as file:
        head, row = csv.reader(file)
    assert head[0] == row[0] == disarm(text)
    assert row[1] == "-1.5"  # a number, not a text


def test_what_is_unknown_stays_unknown(tmp_path):
    table = pd.DataFrame({"a": ["x", None], "b": [np.nan, 2.0], "c": ["NA", "null"]})
    found = read_csv(write_csv(table, tmp_path / "t.csv"), texts=["a", "c"])
    assert found.a.isna().tolist() == [False, True]
    assert found.b.isna().tolist() == [True, False]
    assert found.c.tolist() == ["NA", "null"]

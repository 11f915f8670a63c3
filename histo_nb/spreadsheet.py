"""Tables as CSV in which no cell is a formula, whatever a text in it says; and back.

A spreadsheet executes a cell that starts with `=`, `+`, `-` or `@` (CWE-1236). Such a text gets an
apostrophe in front, which all spreadsheets take for "this is text". So does one inside a text,
behind what a spreadsheet of another language may take for the end of a cell. Numbers stay numbers.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from histo_nb.files import writing

STARTS = r"=+\-@＝＋－＠﹢﹣﹦﹫"  # also as East Asian keyboards write them
BLANKS = r"\x00-\x20\x7f\xa0\u2000-\u200f\u2060\u3000\ufeff"  # what may be passed over before it
ENDS = r",;|\t\r\n\""  # of a cell, in some language or program
_CELL = rf"(?:^|(?<=[{ENDS}]))"  # where one may begin
_RISKY = rf"(?='*(?:[{BLANKS}]*[{STARTS}]|[\t\r]))"
_BARE, _ARMED = re.compile(_CELL + _RISKY), re.compile(_CELL + "'" + _RISKY)


def disarm(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula.

    >>> disarm("=SUM(A1)"), disarm("well; -1"), disarm("normal")
    ("'=SUM(A1)", "well;' -1", 'normal')
    """
    return _BARE.sub("'", text)


def arm(text: str) -> str:
    """Return the text that `disarm` was given."""
    return _ARMED.sub("", text)


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV, atomically; return the path."""
    with (
        writing(Path(path)) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        append_csv(table, file, header=True)
    return Path(path)


def append_csv(table: pd.DataFrame, file: TextIO, *, header: bool) -> None:
    """Write a table's rows, and before them its names if `header`, to an open file."""
    safe = table.rename(columns=disarm)
    for name in safe.select_dtypes(["object", "str", "category"]).columns:
        safe[name] = safe[name].map(_disarmed, na_action="ignore")
    # RFC 4180; and so texts with either sign in them are quoted
    safe.to_csv(file, index=False, header=header, lineterminator="\r\n")


def _disarmed(value: Any) -> Any:
    # what UTF-8 cannot hold (half a pair of a bad file name) is told, not raised
    return disarm(value.encode("utf-8", "replace").decode()) if isinstance(value, str) else value


def read_csv(path: Path, *, texts: Collection[str]) -> pd.DataFrame:
    """Return the table that `write_csv` wrote; the columns named in `texts` hold texts.

    An empty cell is unknown, in any column: an empty text cannot be told from none.
    """
    kinds = {disarm(name): object for name in texts}
    table = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=[""],
                        skip_blank_lines=False)  # fmt: skip
    table = table.rename(columns=arm)
    for name in texts:
        table[name] = table[name].map(arm, na_action="ignore")
    return table

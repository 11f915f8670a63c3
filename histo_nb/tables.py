"""Column contracts of the tables that flow between rooms, and their Parquet files.

A contract is an Arrow schema: names, types, and which columns may be unknown (null). Tables are
pandas in memory; `check_table` brings one to its contract or raises. A table may carry more
columns than its contract names (`prob_<class>`, say); these pass unchanged.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from histo_nb.errors import TableError
from histo_nb.files import writing

SPLITS = ("train", "valid", "test")
MEANING = "description"  # key of what a column means, in its field and so in each Parquet file


@dataclass(frozen=True)
class Contract:
    """The columns a table must have, and the values some of them may take."""

    name: str
    schema: pa.Schema
    key: tuple[str, ...]  # columns that together name a row once
    allowed: Mapping[str, tuple[str, ...]]

    @property
    def columns(self) -> list[str]:
        """Names of the columns in their order."""
        return list(self.schema.names)


def _contract(
    name: str,
    fields: Iterable[tuple[str, pa.DataType, bool, str]],
    *,
    key: tuple[str, ...],
    allowed: Mapping[str, tuple[str, ...]] | None = None,
) -> Contract:
    schema = pa.schema(
        [pa.field(n, kind, null, metadata={MEANING: says}) for n, kind, null, says in fields]
    )
    return Contract(name, schema, key, allowed or {})


_TILE = [
    ("tile_id", pa.string(), False, "name of the tile"),
    ("slide_id", pa.string(), False, "pseudonym of the slide"),
    ("patient_id", pa.string(), True, "pseudonym of the patient; empty = unknown"),
    ("slide_path", pa.string(), False, "file that the tile is read from"),
    ("slide_mpp", pa.float64(), False, "µm/px of the slide's level 0"),
    ("x", pa.int64(), False, "left edge, level-0 px of the slide's full image"),
    ("y", pa.int64(), False, "upper edge, level-0 px of the slide's full image"),
    ("size_l0", pa.int64(), False, "side, level-0 px"),
    ("level", pa.int64(), False, "level of the pyramid that is read, 0 = finest"),
    ("read_size", pa.int64(), False, "side as read, px of that level or as decoded"),
    ("tile_size", pa.int64(), False, "side, px at mpp"),
    ("mpp", pa.float64(), False, "µm/px asked"),
    ("effective_mpp", pa.float64(), False, "µm/px got"),
    ("read_path", pa.string(), False, "which pixels are read: level0, pyramid, level0/2 …, image"),
    ("tissue", pa.float64(), False, "share of the tile that is tissue, 0–1"),
]
_LABEL = [
    ("label", pa.string(), True, "class; empty = unlabelled"),
    ("label_fraction", pa.float64(), True, "share of the tile that its class covers, 0–1"),
    ("label_source", pa.string(), True, "the file or board the label came from"),
    ("labelled_by", pa.string(), True, "who said so"),
    ("labelled_at", pa.string(), True, "when, ISO 8601, UTC"),
]
_TRAINING = [
    ("split", pa.string(), False, "part of the data: train, valid or test"),
    ("parent_id", pa.string(), True, "tile this is a turned copy of; empty = an original"),
    ("angle", pa.float64(), False, "degrees counter-clockwise that the copy is turned by"),
    ("flip", pa.bool_(), False, "whether it is flipped left–right after the rotation"),
]

_SCALE = ("slide_mpp", "mpp", "effective_mpp")  # null = loose images of unknown scale
_ANY_SCALE = [(name, kind, null or name in _SCALE, says) for name, kind, null, says in _TILE]

TILES = _contract("tiles", _TILE, key=("tile_id",))
LABELLED_TILES = _contract("labelled tiles", _ANY_SCALE + _LABEL, key=("tile_id",))
TRAINING_TILES = _contract(
    "training tiles",
    _ANY_SCALE + _LABEL + _TRAINING,
    key=("tile_id",),
    allowed={"split": SPLITS},
)
PREDICTIONS = _contract(
    "predictions",
    [*_ANY_SCALE, ("prediction", pa.string(), False, "most probable class")],
    key=("tile_id",),
)
CONTRACTS = {c.name: c for c in (TILES, LABELLED_TILES, TRAINING_TILES, PREDICTIONS)}


def check_table(table: pd.DataFrame, contract: Contract, *, empty_ok: bool = False) -> pd.DataFrame:
    """Return `table` with its contract's columns first and in their types.

    Raises
    ------
    TableError
        A column is missing, has another type or a null it must not have, a key stands twice, a
        value is not allowed, or there is no row at all (unless `empty_ok`).
    """
    missing = [name for name in contract.columns if name not in table.columns]
    if missing:
        raise TableError(
            f"the table of {contract.name} lacks the columns {', '.join(missing)}; "
            "make it again with the step before this one"
        )
    if not table.columns.is_unique:
        twice = sorted(set(map(str, table.columns[table.columns.duplicated()])))
        raise TableError(f"the table of {contract.name} has {', '.join(twice)} twice; drop one")
    if table.empty and not empty_ok:
        raise TableError(f"the table of {contract.name} is empty; the step before found no rows")
    table = table.reset_index(drop=True)
    checked = pd.DataFrame(
        {field.name: _column(table, field, contract) for field in contract.schema}
    )
    for name, values in contract.allowed.items():
        wrong = set(checked[name].dropna()) - set(values)
        if wrong:
            raise TableError(
                f"{contract.name}.{name} holds {sorted(wrong)}; allowed: {list(values)}"
            )
    repeated = checked.duplicated(list(contract.key))
    if repeated.any():
        first = checked.loc[repeated, list(contract.key)].iloc[0].tolist()
        raise TableError(f"{repeated.sum()} rows of {contract.name} repeat their key: {first} …")
    extra = [name for name in table.columns if name not in contract.columns]
    return pd.concat([checked, table[extra]], axis=1) if extra else checked


def _column(table: pd.DataFrame, field: pa.Field, contract: Contract) -> pd.Series:
    try:
        values = pa.Array.from_pandas(table[field.name], type=field.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise TableError(
            f"{contract.name}.{field.name} must be {field.type}: {str(error).splitlines()[0]}"
        ) from error
    if values.null_count and not field.nullable:
        raise TableError(f"{values.null_count} rows of {contract.name}.{field.name} are empty")
    if pa.types.is_string(field.type):
        return pd.Series(values.to_numpy(zero_copy_only=False), dtype=object)
    return values.to_pandas()


def write_table(table: pd.DataFrame, path: Path, contract: Contract) -> Path:
    """Write a table that meets its contract as Parquet, atomically, and return the path."""
    checked = check_table(table, contract, empty_ok=True)
    try:
        arrow = pa.Table.from_pandas(checked, preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise TableError(f"{contract.name}: {error}; Parquet cannot hold this column") from error
    for field in contract.schema:
        index = arrow.schema.get_field_index(field.name)
        arrow = arrow.set_column(index, field, arrow.column(index).cast(field.type))
    arrow = arrow.replace_schema_metadata({"histo_nb.contract": contract.name})
    with writing(Path(path)) as temporary:
        pq.write_table(arrow, temporary, compression="zstd")
    return Path(path)


def read_table(path: Path, contract: Contract, *, empty_ok: bool = False) -> pd.DataFrame:
    """Read a Parquet table and check it against its contract.

    Raises
    ------
    TableError
        The file is missing, is not Parquet, or breaks the contract.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path} does not exist; make it with the step before this one")
    try:
        table = pq.read_table(path).to_pandas()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise TableError(f"{path} is not a Parquet table ({reason}); make it again") from error
    return check_table(table, contract, empty_ok=empty_ok)

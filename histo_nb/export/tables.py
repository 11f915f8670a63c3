"""Tables for other programs: CSV or Parquet with a data dictionary, as a Frictionless Data Package.

A folder holds a file a table, `datapackage.json` that programs read (Data Package 1.0), and the
same in words, `DICTIONARY.md`. Rows pass through a slide at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from histo_nb import __version__
from histo_nb.errors import SpecError
from histo_nb.export.table_kinds import TABLES, TableKind
from histo_nb.export.templates import USE
from histo_nb.files import hash_file, write_json, writing_folder
from histo_nb.home import Home
from histo_nb.spreadsheet import append_csv
from histo_nb.tables import MEANING

TableFormat = Literal["csv", "parquet"]
PACKAGE = "datapackage.json"
Append = Callable[[pd.DataFrame], None]
# Arrow's types by the names of Table Schema
TYPES = {pa.string(): "string", pa.int64(): "integer", pa.float64(): "number",
         pa.bool_(): "boolean"}  # fmt: skip


def write_tables(
    home: Home,
    folder: Path,
    *,
    slide_ids: Sequence[str] = (),
    names: Sequence[str] = (),
    kind: TableFormat = "csv",
) -> Path:
    """Write tables of the home into a new folder, with their data dictionary; return the folder.

    Parameters
    ----------
    slide_ids
        Whose rows; none = of all slides.
    names
        Which tables; none = all, see `TABLES`.

    Raises
    ------
    SpecError
        There is no such table or format.
    CatalogError
        A slide is not in the catalogue, or a result is not whole.
    StorageError
        The folder exists already, or cannot be written.
    """
    if kind not in get_args(TableFormat):
        raise SpecError(f"kind={kind!r} is no format; choose {' or '.join(get_args(TableFormat))}")
    if unknown := [name for name in names if name not in TABLES]:
        raise SpecError(f"there is no table {unknown[0]!r}; choose from {', '.join(TABLES)}")
    wanted = home.catalog.slides(slide_ids).slide_id.tolist()
    with writing_folder(Path(folder)) as fresh:
        resources = [
            _write_table(home, TABLES[name], fresh / f"{name}.{kind}", wanted)
            for name in tqdm(names or list(TABLES), desc="tables", unit="table")
        ]
        write_json(fresh / PACKAGE, _package(resources))
        (fresh / "DICTIONARY.md").write_text(_in_words(resources), encoding="utf-8")
    return Path(folder)


def _write_table(
    home: Home, kind: TableKind, path: Path, slide_ids: Sequence[str]
) -> dict[str, Any]:
    """Write one table, a slide's rows at a time; return its entry in the data dictionary."""
    schema, n_rows = kind.schema(home, slide_ids), 0
    with _open_table(path, schema) as append:
        for rows in kind.rows(home, slide_ids):
            append(rows.reindex(columns=schema.names))
            n_rows += len(rows)
    return {
        "name": path.stem,
        "path": path.name,
        "description": f"One row is {kind.row}.",
        "format": path.suffix[1:],
        "rows": n_rows,
        "bytes": path.stat().st_size,
        "hash": f"sha256:{hash_file(path)}",
        "profile": "tabular-data-resource" if path.suffix == ".csv" else "data-resource",
        "encoding": "utf-8",
        "schema": _table_schema(schema, kind.key),
    }


@contextmanager
def _open_table(path: Path, schema: pa.Schema) -> Iterator[Append]:
    """Yield a function that appends rows to a fresh table, which has a head also without any."""
    if path.suffix == ".parquet":
        with pq.ParquetWriter(path, schema, compression="zstd") as parquet:
            yield lambda rows: parquet.write_table(
                pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
            )
        return
    with path.open("w", encoding="utf-8", newline="") as csv:
        append_csv(schema.empty_table().to_pandas(), csv, header=True)
        yield lambda rows: append_csv(rows, csv, header=False)


def _table_schema(schema: pa.Schema, key: Sequence[str]) -> dict[str, Any]:
    fields = [
        {
            "name": field.name,
            "type": TYPES[field.type],
            "description": field.metadata[MEANING.encode()].decode(),
            **({} if field.nullable else {"constraints": {"required": True}}),
        }
        for field in schema
    ]
    return {"fields": fields, "missingValues": [""], **({"primaryKey": list(key)} if key else {})}


def _package(resources: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "profile": "data-package",
        "name": "histo-nb-tables",
        "description": f"{USE}. Written by histo_nb {__version__}; slides and patients are named "
        "by pseudonyms. In CSV, what a spreadsheet could take for a formula has an apostrophe in "
        "front (histo_nb.spreadsheet.arm takes it away).",
        "resources": resources,
    }


def _in_words(resources: list[dict[str, Any]]) -> str:
    lines = ["# Data dictionary", "", _package([])["description"], ""]
    for resource in resources:
        lines += [
            f"## {resource['path']}",
            "",
            f"{resource['description']} {resource['rows']:,} rows.",
            "",
            "| column | type | meaning |",
            "|---|---|---|",
        ]
        for field in resource["schema"]["fields"]:
            name, says = (field[key].replace("|", "\\|") for key in ("name", "description"))
            lines.append(f"| `{name}` | {field['type']} | {says} |")
        lines.append("")
    return "\n".join(lines)

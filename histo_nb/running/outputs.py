"""What a run left in the home, each with the hash of what must be the same when it runs again.

Times, how fast something was, and which code made it, are no part of it. What a person decided (a
gate's verdict, which model serves) or a machine measured (runtimes) is no output.
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from histo_nb.files import hash_content, hash_file, hash_folder
from histo_nb.home import Home
from histo_nb.inference.result import PROVENANCE, TIMING
from histo_nb.model.seal import CARD, name_model, read_object

TIMES = {"labelled_at"}  # columns that say when something was done


def find_outputs(home: Home, written: Iterable[Path]) -> dict[str, str]:
    """Return the outputs among what was written: their hashes by their names in the home."""
    roots = {root for path in written if (root := _find_root(home, path)) and root.exists()}
    known = _slide_hashes(home) if any(root.parent == home.slides for root in roots) else {}
    return {name_output(home, root): known.get(root) or hash_output(root) for root in sorted(roots)}


def _slide_hashes(home: Home) -> dict[Path | None, str]:
    """Return the hashes of the catalogue's slides, which may be large, by where they lie."""
    rows = home.catalog.slides_since("")
    roots = [_find_root(home, Path(path)) for path in rows.slide_path]
    return dict(zip(roots, rows.sha256, strict=True))


def name_output(home: Home, path: Path) -> str:
    """Return the name of an output: where it lies in the home."""
    return path.relative_to(home.root).as_posix()


def hash_output(path: Path) -> str:
    """Return the SHA-256 of what must be the same in an output when it is made again."""
    return _hasher(path)(path)


def _find_root(home: Home, path: Path) -> Path | None:
    """Return the output that a written path is, or is a part of."""
    if not path.is_relative_to(home.root):
        return None
    kind, *parts = path.relative_to(home.root).parts
    depth = {"slides": 1, "masks": 1, "tiles": 2, "datasets": 1, "models": 1, "results": 2}
    if kind not in depth or not parts:
        return None
    root = home.root.joinpath(kind, *parts[: depth[kind]])
    return root if _is_output(kind, root) else None


def _is_output(kind: str, root: Path) -> bool:
    holds = {"datasets": "certificate.json", "models": CARD, "results": "result.json"}
    suffix = {"masks": ".png", "tiles": ".parquet", "results": ".geojson"}
    if root.is_dir():
        return kind == "slides" or (kind in holds and (root / holds[kind]).is_file())
    return kind == "slides" or (kind in suffix and root.suffix == suffix[kind])


def _hasher(path: Path) -> Callable[[Path], str]:
    kinds = {"result.json": _hash_result, CARD: _hash_model, "certificate.json": _hash_dataset}
    if path.is_dir():
        return next(
            (hash_ for name, hash_ in kinds.items() if (path / name).is_file()), hash_folder
        )
    return _hash_table if path.suffix == ".parquet" else hash_file


def _hash_result(folder: Path) -> str:
    """Return the hash of an answer: what it was made from is told beside it, and may be newer."""
    return hash_folder(folder, without={TIMING, PROVENANCE})


def _hash_model(folder: Path) -> str:
    """Return the hash of a card without its times; the hash of the weights stands in it."""
    return hash_content([name_model(read_object(folder / CARD))])


def _hash_dataset(folder: Path) -> str:
    names = ("certificate.json", "statistics.json")  # others are measured on it later
    rows = _hash_table(folder / "tiles.parquet")
    return hash_content([rows, *(hash_file(folder / name) for name in names)])


def _hash_table(path: Path) -> str:
    """Return the hash of a table's values; how they are stored is no part of it."""
    table = pq.read_table(path)
    kept = table.drop_columns([name for name in table.column_names if name in TIMES])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, kept.schema) as stream:
        stream.write_table(kept.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()

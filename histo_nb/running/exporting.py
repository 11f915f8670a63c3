"""Commands that take results to other programs, and repeat runs."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import Any

import click

from histo_nb.home import Home
from histo_nb.running.report import command

PATH = click.Path(path_type=Path)


@click.argument("folder", type=PATH)
@click.argument("slide_ids", nargs=-1, metavar="[SLIDE]...")
@click.option("--table", "names", multiple=True,
              help="slides, results, regions …; repeat it.  [default: all]")  # fmt: skip
@click.option("--format", "kind", default="csv", show_default=True, help="Or parquet.")
def export_tables(
    home: Home, folder: Path, slide_ids: tuple[str, ...], names: tuple[str, ...], kind: Any
) -> dict[str, Any]:
    """Write tables of slides (all by default) into a new folder, with a data dictionary.

    No cell of a CSV can become a formula in a spreadsheet; no file of a slide is named.
    """
    from histo_nb.export.tables import write_tables

    written = write_tables(home, folder, slide_ids=slide_ids, names=names, kind=kind)
    return {"path": written, "files": sorted(path.name for path in written.iterdir())}


@click.argument("run_id", metavar="RUN")
def reproduce(home: Home, run_id: str) -> dict[str, Any]:
    """Repeat the run of a notebook or a cohort, and compare the hashes of what it makes.

    RUN is the name of its folder in runs. Nothing of this home is changed. Exits with 0 only if
    all comes out the same.
    """
    from histo_nb.running.reproduce import reproduce as repeat

    done = repeat(home, run_id)
    return {
        "run_id": run_id,
        "n_same": done.n_same,
        "n_outputs": len(done.outputs),
        "changed": done.changed,
        "failures": [
            {"output": row["output"], "was": row["was"], "is": row["is"]}
            for row in done.outputs
            if not row["same"]
        ],
    }


def add_exporting(main: click.Group) -> None:
    """Add the commands of this room to the command line."""
    for work in (export_tables, reproduce):
        command(main)(work)

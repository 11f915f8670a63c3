"""Commands that take results to other programs, and repeat runs."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import Any

import click

from histo_nb.errors import SpecError
from histo_nb.home import Home
from histo_nb.running.report import SLIDES, command

PATH = click.Path(path_type=Path)


@SLIDES
@click.argument("path", type=PATH)
@click.option("--qupath", "kind", flag_value="qupath", help="A project of slides (all by default).")
@click.option("--dicom", "kind", flag_value="dicom", help="Segmentations, annotations, report.")
@click.option("--source", type=PATH, default=None,
              help="With --dicom: folder of `to-dicom`, of a slide that is no DICOM.")  # fmt: skip
@click.option(
    "--tiles", is_flag=True, help="Each tile with its probabilities too; always with --dicom."
)
def export(
    home: Home,
    slide_ids: tuple[str, ...],
    path: Path,
    *,
    kind: str | None,
    source: Path | None,
    tiles: bool,
) -> dict[str, Any]:
    """Write what was found on a slide as GeoJSON for QuPath, a QuPath project, or DICOM.

    PATH is a GeoJSON file, or a new folder with --qupath or --dicom.
    """
    if kind != "dicom" and source:
        raise click.UsageError("--source goes with --dicom")
    if kind == "qupath":
        from histo_nb.export.qupath import write_qupath_project

        project, failures = write_qupath_project(home, path, slide_ids=slide_ids, tiles=tiles)
        return {"path": project, "failures": failures.to_dict("records")}
    if len(slide_ids) != 1:
        raise click.UsageError(f"name one slide, not {len(slide_ids)}; several go with --qupath")
    if kind == "dicom":
        from histo_nb.export.dicom.write import write_dicom_results

        return {"path": path, "files": write_dicom_results(home, *slide_ids, path, source=source)}
    from histo_nb.export.findings import collect_findings
    from histo_nb.export.geojson import write_result_geojson

    _check_geojson(path)
    return {"path": write_result_geojson(collect_findings(home, *slide_ids, tiles=tiles), path)}


def _check_geojson(path: Path) -> None:
    if path.suffix.lower() not in (".geojson", ".json"):
        raise SpecError(
            f"{path} is no name of a GeoJSON file; let it end in .geojson, or give --qupath or "
            "--dicom for a folder"
        )


@click.argument("slide_id", metavar="SLIDE")
@click.argument("path", type=PATH)
def export_labels(home: Home, slide_id: str, path: Path) -> dict[str, Any]:
    """Write a slide's labelled tiles as GeoJSON for QuPath, with who said so."""
    from histo_nb.export.findings import scan_origin
    from histo_nb.export.geojson import write_label_geojson
    from histo_nb.tiling.table import read_tiles

    _check_geojson(path)
    tiles, slide = read_tiles(home), home.catalog.slide(slide_id)
    own = tiles[(tiles.slide_id == slide_id) & tiles.label.notna()]
    path = write_label_geojson(own, path, origin=scan_origin(slide))
    return {"tiles": len(own), "path": path}


@click.argument("folder", type=PATH)
@SLIDES
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


@click.argument("paths", nargs=-1, required=True, metavar="FOLDER|FILE...",
                type=click.Path(path_type=Path, exists=True))  # fmt: skip
@click.option("--to", "title", required=True, help="Title of the archive (AE).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--port", default=104, show_default=True, help="And on which port.")
@click.option("--from", "own_title", default="HISTO_NB", show_default=True, help="Our own title.")
@click.option("--ca", type=PATH, default=None, help="Encrypt (TLS): who vouches for the archive.")
@click.option("--certificate", type=PATH, default=None, help="Ours, if the archive asks for one.")
@click.option("--key", type=PATH, default=None, help="Of our certificate.")
def send(
    home: Home,
    paths: tuple[Path, ...],
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    **peer: Any,
) -> dict[str, Any]:
    """Send DICOM results to an archive (C-STORE). Exits with 0 only if it stored all.

    Without --ca nothing is encrypted: only in a network you trust.
    """
    from histo_nb.export.dicom.send import Peer, Tls, send_dicom

    if not ca and (certificate or key):
        raise click.UsageError("--certificate and --key go with --ca")
    tls = Tls(ca=ca, certificate=certificate, key=key) if ca else None
    files = [file for path in paths for file in ([path] if path.is_file() else _instances(path))]
    if not files:
        raise click.UsageError("there is no .dcm file; write some with `histo-nb export --dicom`")
    sent, failures = send_dicom(files, peer=Peer(**peer, tls=tls))
    return {"sent": len(sent), "failures": failures.to_dict("records")}


def _instances(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.dcm"))


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
    """Add these commands to the command line."""
    for work in (export, export_labels, export_tables, send, reproduce):
        command(main)(work)

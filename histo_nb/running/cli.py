"""The command line `histo-nb`: each room's work, without a notebook.

Rooms are imported inside the commands, so that `--help` answers at once.
"""
# ruff: noqa: PLC0415

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import click
import pandas as pd

from histo_nb import __version__
from histo_nb.home import Home
from histo_nb.running.audit import add_audit
from histo_nb.running.desk import add_desk, slide_list
from histo_nb.running.exporting import add_exporting
from histo_nb.running.learning import add_learning
from histo_nb.running.many import add_many
from histo_nb.running.models import add_models
from histo_nb.running.operating import add_operating, serve_pages
from histo_nb.running.reading import add_reading
from histo_nb.running.report import SLIDES, CommandLine, command


@click.group(
    cls=CommandLine,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__)
def main() -> None:
    """From a glass slide to an answer a pathologist can check. Research use only.

    All state lies in one folder: --home, else $HISTO_HOME. Every command takes --json and exits
    with 0 only if it did its job.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")


@command(main)
@click.option("--glass-images", default="", help="Folder of labelled images to lay as slides.")
@click.option("--image-mpp", default=0.62, show_default=True, help="µm/px of those images.")
@click.option("--severity", default="normal,adenoma,carcinoma", show_default=True,
              help="Classes, the benign one first.")  # fmt: skip
@click.option("--patients-per-class", default=5, show_default=True, help="Drawn patients.")
@click.option("--tile-size", default=0, help="px at 0.5 µm/px.  [default: 1024, laid slides 448]")
@click.option("--epochs", default=0, help="Epochs of training.  [default: 8]")
def demo(
    home: Home,
    glass_images: str,
    image_mpp: float,
    severity: str,
    patients_per_class: int,
    tile_size: int,
    epochs: int,
) -> dict[str, Any]:
    """Run the main job end to end on virtual slides: scan, mask, tile, balance, train, analyse.

    Works in a fresh folder under --home, so that nothing of yours is touched.
    """
    from dataclasses import replace

    from histo_nb.running.demo import DemoSpec, fresh_home, run_demo
    from histo_nb.scanning.virtual.rack import RackSpec
    from histo_nb.tiling.grid import TileSpec

    rack = RackSpec(
        glass_images=glass_images,
        image_mpp=image_mpp,
        severity=tuple(severity.split(",")),
        patients_per_class=patients_per_class,
    )
    spec = DemoSpec.laid(rack) if glass_images else DemoSpec(rack=rack)
    if tile_size:
        small = min(spec.training.image_size, tile_size)
        spec = replace(
            spec,
            tiles=TileSpec(tile_size=tile_size),
            training=replace(spec.training, image_size=small),
        )
    if epochs:
        spec = replace(spec, training=replace(spec.training, epochs=epochs))
    fresh = fresh_home(home)
    answer = run_demo(fresh, spec=spec)
    click.echo(f"\nDone. Look at it: histo-nb dashboard --home {fresh.root}\n", err=True)
    return answer


@command(main)
@click.option("--patients-per-class", default=5, show_default=True, help="Drawn patients.")
@click.option("--glass-images", default="", help="Folder of labelled images to lay instead.")
@click.option("--image-mpp", default=0.62, show_default=True, help="µm/px of those images.")
@click.option("--severity", default="normal,adenoma,carcinoma", show_default=True,
              help="Classes, the benign one first.")  # fmt: skip
@click.option("--defects", default="", help="Spoils the first slides: pen,fold,bubble …")
@click.option("--seed", default=7, show_default=True, help="Of the drawn slides.")
@click.option("--rack", "rack_id", default=None, help="Name; goes on with a rack of that name.")
def scan(
    home: Home,
    patients_per_class: int,
    glass_images: str,
    image_mpp: float,
    severity: str,
    defects: str,
    seed: int,
    rack_id: str | None,
) -> dict[str, Any]:
    """Scan a rack of virtual glass slides into the catalogue."""
    from histo_nb.scanning.console import ScannerConsole
    from histo_nb.scanning.virtual.rack import RackSpec, fill_rack
    from histo_nb.scanning.virtual.scanner import VirtualScanner

    spec = RackSpec(
        patients_per_class=patients_per_class,
        glass_images=glass_images,
        image_mpp=image_mpp,
        severity=tuple(severity.split(",")),
        defects=tuple(filter(None, defects.split(","))),
        glass_seed=seed,
    )
    console = ScannerConsole(VirtualScanner(fill_rack(spec)), home, rack_id=rack_id)
    slots = console.run()
    slide_ids = [slot.slide_id for slot in slots if slot.slide_id]
    return {
        "rack_id": console.rack_id,
        **slide_list(home.catalog.slides(slide_ids) if slide_ids else pd.DataFrame()),
        "failures": [
            {"slide_id": f"slot {slot.slot}", "step": slot.state, "error": slot.reason}
            for slot in slots
            if slot.slide_id is None
        ],
    }


@command(main)
def slides(home: Home) -> dict[str, Any]:
    """List the slides of the catalogue."""
    return slide_list(home.catalog.slides())


@command(main)
@SLIDES
@click.option(
    "--method",
    default="otsu_saturation",
    show_default=True,
    help="Or otsu_grey, hysteresis, stain_density.",
)
@click.option("--forget-edits", is_flag=True, help="Also mask anew what a person has corrected.")
def mask(home: Home, slide_ids: tuple[str, ...], method: str, forget_edits: bool) -> dict[str, Any]:
    """Find the tissue of slides (all by default)."""
    from histo_nb.masking.masks import mask_slides
    from histo_nb.masking.tissue import MaskSpec

    masks, failures = mask_slides(
        home, list(slide_ids), spec=MaskSpec(method=method), keep_edited=not forget_edits
    )
    return {"masks": masks.to_dict("records"), "failures": failures.to_dict("records")}


@command(main)
@SLIDES
@click.option("--tile-size", default=1024, show_default=True, help="px at --mpp.")
@click.option("--mpp", default=0.5, show_default=True, help="µm/px.")
@click.option("--stride", default=0, show_default=True, help="px between tiles; 0 = side by side.")
@click.option("--min-tissue", default=0.5, show_default=True, help="Share of a tile, 0–1.")
@click.option("--read-path", default="level0", show_default=True,
              help="Or level0/2, level0/4, pyramid, pyramid/2, pyramid/4.")  # fmt: skip
@click.option("--min-quality", default=0.0, show_default=True,
              help="1 − share of a tile under ink or out of focus; 0 keeps all.")  # fmt: skip
@click.option("--min-label-fraction", default=0.75, show_default=True,
              help="Share of a tile's tissue one class must cover.")  # fmt: skip
@click.option("--annotations", default=None,
              type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder of <SLIDE>.geojson (QuPath), .xml (ASAP) or .png with a classes.json; "
              "or of tile images, one folder a class.")  # fmt: skip
@click.option("--classes", default="", help="The only classes there may be: normal,adenoma …")
@click.option("--annotation-origin", type=click.Choice(["scan", "slide"]), default=None,
              help="Where 0, 0 of outlines lies if a scan begins elsewhere: scan (QuPath) or "
              "slide.")  # fmt: skip
@click.option("--images", default=None, type=click.Path(path_type=Path),
              help="Write each tile there as an image too, one folder a class.")  # fmt: skip
def tile(
    home: Home,
    slide_ids: tuple[str, ...],
    min_label_fraction: float,
    annotations: Path | None,
    annotation_origin: Any,
    classes: str,
    images: Path | None,
    **spec: Any,
) -> dict[str, Any]:
    """Cut the tissue of slides (all by default) into a table of labelled tiles."""
    from histo_nb.tiling.grid import TileSpec, tile_slides
    from histo_nb.tiling.labels import label_slides
    from histo_nb.tiling.pictures import write_tiles
    from histo_nb.tiling.table import count_orphans, file_tiles, read_tiles

    tiles, failures = tile_slides(home, list(slide_ids), spec=TileSpec(**spec))
    answer: dict[str, Any] = {"tiles": len(tiles), "failures": failures.to_dict("records")}
    if tiles.empty:
        return answer
    labelled = label_slides(
        home,
        tiles,
        min_label_fraction=min_label_fraction,
        annotations=annotations,
        annotation_origin=annotation_origin,
        classes=_names(classes),
    )
    path = file_tiles(labelled, home, slide_ids=slide_ids)
    table = read_tiles(home)
    labelled = table[table.slide_id.isin(tiles.slide_id)]
    if images:
        answer["images"], unread = write_tiles(labelled, images)
        answer["failures"] += unread.to_dict("records")
    return answer | {
        "labels": labelled.label.value_counts().to_dict(),
        "unlabelled": int(labelled.label.isna().sum()),
        "hand_labels_of_no_tile": count_orphans(table, home.catalog.hand_labels()),
        "path": path,
    }


@command(main)
@click.option("--classes", default="", help="Classes that must be there: normal,adenoma …")
@click.option("--min-patients", default=10, show_default=True, help="Of each class.")
@click.option("--min-slides", default=10, show_default=True, help="Of each class.")
@click.option("--min-tiles", default=1000, show_default=True, help="Of each class.")
def ledger(home: Home, classes: str, **spec: Any) -> dict[str, Any]:
    """Say whether there is enough to learn from, and what to collect."""
    from histo_nb.tiling.hand import measure_agreement
    from histo_nb.tiling.ledger import LedgerSpec, make_ledger, say_missing
    from histo_nb.tiling.table import count_orphans, read_tiles

    tiles, decisions = read_tiles(home), home.catalog.hand_labels()
    table = make_ledger(tiles, classes=_names(classes), spec=LedgerSpec(**spec))
    return {
        "ledger": table.reset_index().to_dict("records"),
        "collect": say_missing(table),
        "agreement": measure_agreement(decisions[decisions.tile_id.isin(tiles.tile_id)]),
        "hand_labels_of_no_tile": count_orphans(tiles, decisions),
    }


@command(main)
@click.argument("slides", nargs=-1, metavar="[SLIDE|FILE]...")
@click.option("--slide-mpp", type=float, default=None, help="µm/px where a file does not say.")
@click.option("--min-tissue", default=0.5, show_default=True, help="Share of a tile, 0–1.")
@click.option("--runtime", default="auto", show_default=True, help="torch or openvino.")
@click.option("--precision", default="auto", show_default=True, help="fp32, bf16, fp16 or int8.")
@click.option(
    "--threads", "n_threads", default=0, help="That read, and that OpenVINO uses; 0 = all."
)
def analyse(
    home: Home, slides: tuple[str, ...], slide_mpp: float | None, **spec: Any
) -> dict[str, Any]:
    """Classify slides (all by default) with the model in production. Files are taken in first.

    By default with the fastest runtime that `histo-nb prepare-model` found to give the same
    answers as fp32. Interrupted, it goes on where it was when it is called again.
    """
    from histo_nb.inference.pipeline import AnalysisSpec, analyse_slides
    from histo_nb.inference.result import read_result
    from histo_nb.model.registry import production_model
    from histo_nb.scanning.intake import IntakeSpec, take_in

    asked = AnalysisSpec(**spec)
    production_model(home)  # without one, no file is taken in either
    files = [Path(name) for name in slides if Path(name).is_file()]
    rows, refused = take_in(files, home, spec=IntakeSpec(slide_mpp=slide_mpp))
    wanted = [name for name in slides if Path(name) not in files]
    wanted += rows.slide_id.tolist() if len(rows) else []
    answer: dict[str, Any] = {"results": [], "failures": refused.to_dict("records")}
    if slides and not wanted:
        return answer
    started = time.perf_counter()
    folders, failures = analyse_slides(home, wanted, spec=asked)
    answer["seconds"] = round(time.perf_counter() - started, 2)
    for folder in folders:
        result = read_result(folder)
        answer["results"].append(
            {
                "slide_id": result.slide_id,
                "slide_class": result.slide_class,
                "confidence": result.confidence,
                "abnormal_fraction": result.abnormal_fraction,
                "score": result.score,
                "doubts": result.doubts,
                "gate_passed": result.gate_passed,
                "regions": len(result.regions),
                "tiles": result.n_tiles,
                "unreadable": result.n_failures,
                "runtime": result.runtime,
                "seconds": round(result.seconds, 2),
                "path": str(folder),
            }
        )
    answer["failures"] += failures.to_dict("records")
    return answer


@command(main)
@click.argument("notebook")
@click.option("-p", "parameters", nargs=2, multiple=True, metavar="NAME VALUE",
              help="A parameter that the notebook declares.")  # fmt: skip
@click.option("--timeout", "timeout_s", type=float, help="Seconds for one cell.")
@click.option("--total-timeout", "total_timeout_s", type=float, help="Seconds for all cells.")
@click.option("--dry-run", is_flag=True, help="Check all, say what would run, start nothing.")
def run(
    home: Home,
    notebook: str,
    parameters: tuple[tuple[str, str], ...],
    dry_run: bool,
    **limits: float | None,
) -> dict[str, Any]:
    """Run a notebook by papermill, strictly: unknown parameters are refused.

    Writes runs/<time>_<name>/ in --home: the executed copy, a page without code, run.json.

    \b
    Exit codes, for schedulers:
      0    done, or checked by --dry-run
      1    a cell raised an error, or the run was refused before it started
      2    called wrongly
      75   the disk is full: free space and run again
      124  a cell, or all of them, took too long
      137  out of memory, or the kernel was killed
      139  the kernel crashed; 128 + n: it died of signal n
      130  Ctrl-C, 143  SIGTERM: the kernel is stopped, nothing is left
    """
    from histo_nb.running.notebook import find_notebook, plan_run, run_notebook
    from histo_nb.running.notebook_exit import stopping_on_sigterm

    given = dict(parameters)
    if len(given) < len(parameters):
        raise click.UsageError("a parameter is given twice; give each -p NAME once")
    path = find_notebook(notebook)
    if dry_run:
        return {"would_run": path, **plan_run(path, home, parameters=given).facts}
    with stopping_on_sigterm():
        done = run_notebook(path, home, parameters=given, **limits)
    return {
        "run_id": done.run_id,
        "notebook": done.notebook,
        "page": done.page,
        "seconds": round(done.seconds, 1),
    }


@command(main)
@click.option("--port", default=8866, show_default=True, help="0 = a free one.")
@click.option("--browser/--no-browser", default=True, help="Open the page.")
def dashboard(home: Home, port: int, browser: bool) -> dict[str, Any]:
    """Serve the pathologist's pages on this machine until Ctrl-C, and open the first.

    A home without results shows its newest demo, and says so.
    """
    from histo_nb.running.demo import home_with_results

    shown = home_with_results(home)
    if shown != home:
        click.echo(f"{home.root} has no results yet; this is the demo in {shown.root}", err=True)
    return serve_pages(shown, port=port, open_browser=browser)


@command(main)
def doctor(home: Home) -> dict[str, Any]:
    """Say what is installed and whether this machine is ready."""
    from histo_nb.running.doctor import examine

    return examine(home)


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


add_audit(main)
add_desk(main)
add_exporting(main)
add_learning(main)
add_many(main)
add_models(main)
add_operating(main)
add_reading(main)

if __name__ == "__main__":
    sys.exit(main())

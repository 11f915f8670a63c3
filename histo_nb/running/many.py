"""The command that takes many slides through all stages."""
# ruff: noqa: PLC0415

from typing import Any

import click

from histo_nb.home import Home
from histo_nb.running.desk import until_stopped
from histo_nb.running.report import command


@click.argument("sources", nargs=-1, metavar="[FOLDER|TABLE|FILE|SLIDE]...")
@click.option("--workers", "n_workers", default=0, help="Processes here.  [default: one a core]")
@click.option("--tries", default=3, show_default=True, help="Of a stage that kills its worker.")
@click.option("--limit", "limit_s", default=3600.0, show_default=True,
              help="Seconds for one stage of one slide.")  # fmt: skip
@click.option("--min-tissue", default=0.5, show_default=True, help="Share of a tile, 0–1.")
@click.option("--runtime", default="auto", show_default=True, help="torch or openvino.")
@click.option("--precision", default="auto", show_default=True, help="fp32, bf16, fp16 or int8.")
@click.option("--mask-method", default="otsu_saturation", show_default=True,
              help="Of masks that nobody has corrected.")  # fmt: skip
@click.option("--report", default="html", show_default=True, help="Of each slide; or none.")
@click.option("--again", is_flag=True, help="Slides that failed before, too.")
def cohort(
    home: Home, sources: tuple[str, ...], mask_method: str, again: bool, **spec: Any
) -> dict[str, Any]:
    """Take many slides (all by default) through mask, tile, analyse, report.

    A folder's slides are taken in first; a table (.csv, .parquet) has a column slide_id, or path
    and maybe patient_id and slide_mpp. What is done already is looked at, not done again; called
    again after whatever happened, it goes on. Workers are processes of this machine, or those of
    the Dask scheduler that $HISTO_SCHEDULER names.

    Exits with 0 if all slides are done, 1 if some failed, 75 if it was stopped, the disk is full or
    the scheduler is gone: then call it again.
    """
    from histo_nb.masking.tissue import MaskSpec
    from histo_nb.running.cohort.record import UnfinishedError, run_cohort
    from histo_nb.running.cohort.spec import CohortSpec

    asked = CohortSpec(mask=MaskSpec(method=mask_method), **spec)
    with until_stopped() as stop:
        done = run_cohort(home, sources, spec=asked, again=again, stop=stop)
    named = ("cohort_id", "counts", "seconds", "slides_per_hour", "n_workers", "model_id")
    answer = {name: done.facts[name] for name in named}
    answer |= {"page": done.page, "slides": done.folder / "slides.parquet"}
    n_waiting = int((done.slides.state == "waiting").sum())
    if n_waiting:
        raise UnfinishedError(
            f"{n_waiting} slides are still to be done; the same command goes on",
            facts=answer | {"failures": done.failures},
        )
    return answer | {"failures": done.failures}


def add_many(main: click.Group) -> None:
    """Add the commands for many slides to the command line."""
    command(main)(cohort)

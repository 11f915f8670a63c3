"""Commands of the reading room: reviews, reports, personal links of patients."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import Any

import click

from histo_nb.home import Home
from histo_nb.running.report import SLIDES, command

PATH = click.Path(path_type=Path)
SHOWN = ("slide_id", "kind", "subject", "verdict", "label", "note", "reviewer", "reviewed_at")


@SLIDES
@click.option("--export", "folder", type=PATH, default=None,
              help="Write judged regions and drawn places there, a GeoJSON a slide.")  # fmt: skip
def reviews(home: Home, slide_ids: tuple[str, ...], folder: Path | None) -> dict[str, Any]:
    """List who said what of slides (all by default), and when."""
    from histo_nb.export.findings import scan_origin
    from histo_nb.export.judged import write_judged_geojson

    if slide_ids:
        home.catalog.slides(slide_ids)  # names those that are not there
    said = home.catalog.reviews(slide_ids or None)
    answer: dict[str, Any] = {"reviews": said[[*SHOWN]].to_dict("records")}
    if folder:
        placed = said[said.outline.notna()]
        answer["files"] = [
            write_judged_geojson(
                rows,
                folder / f"{slide_id}.geojson",
                origin=scan_origin(home.catalog.slide(str(slide_id))),
            )
            for slide_id, rows in placed.groupby("slide_id", sort=False)
        ]
    return answer


@click.argument("name", metavar="SLIDE|COHORT")
@click.argument("path", type=PATH)
def report(home: Home, name: str, path: Path) -> dict[str, Any]:
    """Write the report of a slide, or of a cohort's run, as .html or .pdf."""
    from histo_nb.export.cohort_page import write_cohort_report
    from histo_nb.export.report import write_report
    from histo_nb.running.reproduce import find_run

    if home.catalog.has_slide(name) or not name.endswith("_cohort"):
        return {"path": write_report(home, name, path)}
    return {"path": write_cohort_report(find_run(home, name), path)}


@click.argument("slide_id", metavar="SLIDE")
@click.option("--days", default=14.0, show_default=True, help="How long the link is good for.")
@click.option("--base-url", default="http://127.0.0.1:8866", show_default=True,
              help="Where the patient reaches the pages.")  # fmt: skip
@click.option("--revoke", is_flag=True, help="Withdraw every link to this slide instead.")
def link(home: Home, slide_id: str, days: float, base_url: str, revoke: bool) -> dict[str, Any]:
    """Print a personal link to the signed result of a slide, for its patient."""
    from histo_nb.running.links import make_link, revoke_links

    if revoke:
        revoke_links(home, slide_id)
        return {"slide_id": slide_id, "links": "withdrawn"}
    made = make_link(home, slide_id, days=days, base_url=base_url)
    return {"slide_id": slide_id, "link": made.address, "until": made.until}


def add_reading(main: click.Group) -> None:
    """Add the commands of this room to the command line."""
    for work in (reviews, report, link):
        command(main)(work)

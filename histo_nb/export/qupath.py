"""A QuPath project that lists slides of the home, with what was found on each beside them.

Written as QuPath 0.5.1 writes projects (`DefaultProject`; its reader takes the same since 0.2, and
in 0.6 and 0.7). Two things differ, on purpose:

- No `data.qpdata`: it is a Java serialisation. A script of the project imports the findings of
  each image instead, `scripts/import_findings.groovy`.
- No `metadata` in a `serverBuilder`: size, levels and pixel size are then read by QuPath from the
  slide itself, and nothing can contradict it. Its reader knows entries without it (`if (metadata !=
  null)` in `AbstractServerBuilder.build`), so scripts make them.

Images are opened by OpenSlide without `--no-crop`, as by hand: cropped to the scanned area. That is
the frame of the GeoJSON, and of all that is drawn in QuPath and exported from it.
"""

import json
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from histo_nb.errors import CatalogError, SlideError, SpecError, TableError
from histo_nb.export.colours import TISSUE_COLOUR, class_colours, rgb
from histo_nb.export.findings import Findings, collect_findings
from histo_nb.export.geojson import TISSUE, write_result_geojson
from histo_nb.export.templates import USE
from histo_nb.failures import over_slides
from histo_nb.files import write_json, writing_folder
from histo_nb.home import Home

PROJECT, FOUND = "project.qpproj", "findings"
SCRIPT = Path("scripts", "import_findings.groovy")
VERSION = "0.5.1"
OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"
INSIDE = re.compile(r"(slide|\d+)\.\w+")  # how intake names the main file in a slide's folder


def write_qupath_project(
    home: Home, folder: Path, *, slide_ids: Sequence[str] = (), tiles: bool = False
) -> tuple[Path, pd.DataFrame]:
    """Write a QuPath project of slides (all by default) and what was found on them.

    Parameters
    ----------
    folder
        Must not exist yet: QuPath keeps there what is drawn.
    tiles
        With each tile.

    Returns
    -------
    The project file, and a table `slide_id, step, error` of the slides that are not in it. A slide
    that was not analysed is in it, without findings.

    Raises
    ------
    SpecError
        The folder exists.
    CatalogError
        A slide is not in the catalogue.
    """
    folder = Path(folder).absolute()
    if folder.exists():
        raise SpecError(f"{folder} exists; name a new folder: QuPath keeps there what is drawn")
    slides = home.catalog.slides(slide_ids)
    analysed = set(home.catalog.results(slides.slide_id.tolist()).slide_id)
    with writing_folder(folder) as temporary:
        colours = {TISSUE: TISSUE_COLOUR}

        def add(row: dict[str, Any]) -> dict[str, Any]:
            slide_id, entry = row["slide_id"], _entry(home, row)
            if slide_id in analysed:
                findings = _collect(home, slide_id, tiles=tiles)
                colours.update(_colours(findings))
                write_result_geojson(findings, temporary / FOUND / f"{slide_id}.geojson")
            return entry

        entries, failures = over_slides(slides, add, step="project")
        _write_classes(colours, temporary)
        _write_script(slides, temporary)
        _write_entries(entries, temporary, uri=(folder / PROJECT).as_uri())
    return folder / PROJECT, failures


def _collect(home: Home, slide_id: str, *, tiles: bool) -> Findings:
    try:
        return collect_findings(home, slide_id, tiles=tiles)
    except (CatalogError, TableError) as error:  # one broken result stops no project
        raise SlideError(str(error)) from error


def _colours(findings: Findings) -> dict[str, str]:
    return class_colours(findings.classes, normal_class=findings.normal_class)


def _entry(home: Home, row: dict[str, Any]) -> dict[str, Any]:
    """Return how QuPath is told of one slide; its number follows."""
    return {
        "serverBuilder": {
            "builderType": "uri",
            "providerClassName": OPENSLIDE,
            "uri": _nameless(home, row).as_uri(),
            "args": [],
        },
        "randomizedName": str(uuid.uuid5(uuid.NAMESPACE_OID, row["slide_id"])),
        "imageName": row["slide_id"],
        "description": USE,
        "metadata": {},
    }


def _nameless(home: Home, row: dict[str, Any]) -> Path:
    """Return the path of a slide, if no part of it below the home can name a patient."""
    slide_id, path = row["slide_id"], Path(row["slide_path"])
    parts = path.relative_to(home.slides).parts if path.is_relative_to(home.slides) else ()
    match parts:
        case (name,) if Path(name).stem == slide_id:
            return path
        case (inside, name) if inside == slide_id and INSIDE.fullmatch(name):
            return path
    raise SlideError(
        f"the file of {slide_id} is not called after the slide alone, as `histo-nb intake` calls "
        "files; a project names files, so that it is left out: take it in, in a fresh home"
    )


def _write_entries(entries: list[dict[str, Any]], folder: Path, *, uri: str) -> None:
    now = int(time.time() * 1000)
    project = {
        "version": VERSION,
        "createTimestamp": now,
        "modifyTimestamp": now,
        "uri": uri,
        "lastID": len(entries),
        "images": [{**entry, "entryID": number} for number, entry in enumerate(entries, 1)],
    }
    write_json(folder / PROJECT, project)


def _write_classes(colours: dict[str, str], folder: Path) -> None:
    """Write the classes as QuPath lists them; a colour is Java's ARGB integer."""
    classes = [{"name": name, "color": _argb(colour)} for name, colour in colours.items()]
    write_json(folder / "classifiers" / "classes.json", {"pathClasses": classes})


def _argb(colour: str) -> int:
    """Return an opaque colour as Java's signed integer.

    >>> _argb("#ff0000"), _argb("#ffffff")
    (-65536, -1)
    """
    return int.from_bytes(bytes((255, *rgb(colour))), "big", signed=True)


def _write_script(slides: pd.DataFrame, folder: Path) -> None:
    """Write the script that imports; it is told of µm/px that a person gave."""
    given = slides[slides.mpp_source == "given"]
    pairs = [
        f"{json.dumps(name)}: {mpp!r}d".replace("$", r"\$")  # Groovy would unfold it
        for name, mpp in zip(given.slide_id.tolist(), given.slide_mpp.tolist(), strict=True)
    ]
    script = Path(__file__).with_name(SCRIPT.name).read_text(encoding="utf-8")
    (folder / SCRIPT).parent.mkdir()
    told = script.replace("[:]", f"[{', '.join(pairs) or ':'}]")
    (folder / SCRIPT).write_text(told, encoding="utf-8")

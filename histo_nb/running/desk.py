"""Commands of the scanner room: intake, quarantine, identity, hot folder, DICOM, verification."""
# ruff: noqa: PLC0415

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pandas as pd

from histo_nb.errors import CatalogError, MppError
from histo_nb.home import Home
from histo_nb.running.report import SLIDES, command

FILES = click.Path(path_type=Path)
PATIENT = click.option("--patient", "patient_id", default=None,
                       help="Pseudonym of the patient all these slides are of.")  # fmt: skip
SLIDE_MPP = click.option("--slide-mpp", type=float, default=None,
                         help="µm/px where the file is silent or wrong.")  # fmt: skip
VERIFY = click.option("--verify", default="sample", show_default=True,
                      help="Tiles that are decoded, or full: all of them.")  # fmt: skip
ALLOW_BLACK = click.option("--allow-black", is_flag=True,
                           help="The slide really has black areas.")  # fmt: skip


class FilesOrCommand(click.Group):
    """A group whose first word may also be a file: then it is the command `files`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `files` before arguments that name no command."""
        if args and args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = ["files", *args]
        return super().parse_args(ctx, args)


@click.group(cls=FilesOrCommand, no_args_is_help=True)
def intake() -> None:
    """Take slide files into the catalogue: `histo-nb intake FILE|FOLDER…`.

    What cannot be used goes to quarantine with its reason; `histo-nb intake release` examines it
    again. A file named like a command is given as ./release.
    """


@command(intake)
@click.argument("files", nargs=-1, required=True, type=FILES, metavar="FILE|FOLDER...")
@PATIENT
@SLIDE_MPP
@VERIFY
@ALLOW_BLACK
def files(home: Home, files: tuple[Path, ...], **spec: Any) -> dict[str, Any]:
    """Take in slides; the originals stay where they are."""
    from histo_nb.scanning.intake import IntakeSpec, take_in

    rows, refused = take_in(files, home, spec=IntakeSpec(**spec))
    return {**slide_list(rows), "failures": refused.to_dict("records")}


@command(intake)
@click.argument("quarantine_ids", nargs=-1, required=True, metavar="QUARANTINED...")
@PATIENT
@SLIDE_MPP
@VERIFY
@ALLOW_BLACK
def release(home: Home, quarantine_ids: tuple[str, ...], **spec: Any) -> dict[str, Any]:
    """Examine refused slides again, with what is known by now; those that pass are filed."""
    from histo_nb.scanning.intake import IntakeSpec
    from histo_nb.scanning.intake import release as release_slide

    unknown = sorted(set(quarantine_ids) - set(home.catalog.refusals().quarantine_id))
    if unknown:  # before any is released
        raise CatalogError(f"no slide {unknown[0]} in quarantine; see `histo-nb quarantine`")
    slide_ids, failures = [], []
    for name in quarantine_ids:
        arrival = release_slide(name, home, spec=IntakeSpec(**spec))
        if arrival.slide_id:
            slide_ids.append(arrival.slide_id)
        else:
            failures.append({"slide_id": name, "step": arrival.step, "error": arrival.reason})
    rows = home.catalog.slides(slide_ids) if slide_ids else pd.DataFrame()
    return {**slide_list(rows), "failures": failures}


def quarantine(home: Home) -> dict[str, Any]:
    """List the refused slides with their reasons, the latest first."""
    rows = home.catalog.refusals()
    columns = ["quarantine_id", "refused_at", "source", "step", "reason", "n_bytes"]
    return {"quarantine": rows[columns].to_dict("records")}


@click.group()
def identity() -> None:
    """What names a patient: label and macro images, barcodes, file names. Kept apart."""


@command(identity)
@click.argument("name", metavar="SLIDE|QUARANTINED")
@click.option("--to", "folder", type=FILES, required=True, help="Folder the images are copied to.")
def show(home: Home, name: str, folder: Path) -> dict[str, Any]:
    """Show what is kept of a slide's identity; who asked and when is noted."""
    from histo_nb.scanning.identity import show_identity

    return show_identity(home, name, folder)


@click.argument("slide_id", metavar="SLIDE")
@click.argument("path", type=FILES)
def deidentify(home: Home, slide_id: str, path: Path) -> dict[str, Any]:
    """Write a copy of a slide without label, macro and anything that names its patient."""
    from histo_nb.scanning.deidentify import deidentify as write_copy

    return {"path": write_copy(slide_id, home, path)}


@SLIDES
@click.option("--older-than", "older_than_days", default=0.0, show_default=True,
              help="Days: what was verified since then is left out.")  # fmt: skip
def verify(home: Home, slide_ids: tuple[str, ...], older_than_days: float) -> dict[str, Any]:
    """Hash stored slides (all by default) again; for a nightly schedule."""
    from histo_nb.scanning.verify import verify_slides

    whole, damaged = verify_slides(home, slide_ids, older_than_days=older_than_days)
    return {"whole": len(whole), "failures": damaged.to_dict("records")}


@click.argument("slide_id", metavar="SLIDE")
@PATIENT
@SLIDE_MPP
def correct(home: Home, slide_id: str, **values: Any) -> dict[str, Any]:
    """Correct what the catalogue says of a slide: its patient, its mpp."""
    from histo_nb.scanning.intake import correct_slide

    correct_slide(slide_id, home, **values)
    return slide_list(home.catalog.slides([slide_id]))


@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--quiet", "quiet_s", default=10.0, show_default=True,
              help="Seconds a file must not have changed.")  # fmt: skip
@click.option("--poll", "poll_s", default=1.0, show_default=True, help="Seconds between looks.")
@PATIENT
@SLIDE_MPP
@VERIFY
def watch(home: Home, folder: Path, quiet_s: float, poll_s: float, **spec: Any) -> dict[str, Any]:
    """Take in the slides a scanner drops into a folder, until Ctrl-C."""
    from histo_nb.scanning.hotfolder import HotFolderSpec, watch_folder
    from histo_nb.scanning.intake import Arrival, IntakeSpec

    counts = {"filed": 0, "refused": 0}

    def tell(arrival: Arrival) -> None:
        counts["filed" if arrival.slide_id else "refused"] += 1
        what = f"filed {arrival.slide_id}" if arrival.slide_id else f"refused: {arrival.reason}"
        click.echo(what, err=True)

    slide = IntakeSpec(source="hot folder", **spec)
    hot = HotFolderSpec(quiet_s=quiet_s, poll_s=poll_s, slide=slide)
    click.echo(f"watching {folder}; Ctrl-C ends it", err=True)
    with until_stopped() as stop:
        watch_folder(folder, home, spec=hot, stop=stop, on_arrival=tell)
    return counts


@click.option("--port", default=11112, show_default=True, help="0 = a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: the whole network.")
@click.option("--aet", default="HISTO_NB", show_default=True, help="Our application entity title.")
@click.option("--allow", "allowed", multiple=True, help="Title of a sender that may store.")
@click.option("--allow-any", is_flag=True, help="Any sender may store.")
@click.option("--quiet", "quiet_s", default=10.0, show_default=True,
              help="Seconds a series must not have grown.")  # fmt: skip
def dicom_receive(
    home: Home, allow_any: bool, allowed: tuple[str, ...], **settings: Any
) -> dict[str, Any]:
    """Receive whole-slide images by DICOM C-STORE, until Ctrl-C."""
    if not allowed and not allow_any:
        raise click.UsageError("name the senders with --allow TITLE, or say --allow-any")
    from histo_nb.scanning.dicom.receiver import DicomReceiver

    with DicomReceiver(home, allowed=allowed, **settings) as receiver, until_stopped() as stop:
        click.echo(f"listening on {settings['host']}:{receiver.port}; Ctrl-C ends it", err=True)
        stop.wait()
    return {"port": receiver.port}


@click.argument("slide_id", metavar="SLIDE")
@click.argument("folder", type=FILES)
def to_dicom(home: Home, slide_id: str, folder: Path) -> dict[str, Any]:
    """Convert a slide to a DICOM series, without label and macro."""
    from histo_nb.scanning.dicom.convert import to_dicom as convert

    row = home.catalog.slide(slide_id)
    if row["mpp_source"] == "given":
        raise MppError(
            f"{slide_id} has its µm/px from a person, and the converter takes them from the file; "
            "write the true value into the file, and take it in again"
        )
    return {"path": convert(Path(row["slide_path"]), folder)}


def slide_list(rows: pd.DataFrame) -> dict[str, Any]:
    """Return catalogue rows as a command answers them."""
    columns = ["slide_id", "patient_id", "width", "height", "slide_mpp", "objective_power"]
    return {"slides": rows[columns].to_dict("records") if len(rows) else []}


def add_desk(main: click.Group) -> None:
    """Add the commands of this room to the command line."""
    main.add_command(intake)
    main.add_command(identity)
    for work in (quarantine, deidentify, verify, correct, watch, dicom_receive, to_dicom):
        command(main)(work)


@contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or a service's stop signal sets; a second one ends at once."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: Any) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()

"""The slots of a scanner's rack: what is known of each, and its row in the catalogue.

Barcodes name people: the rows hold a keyed tag of them, see `identity.tag`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from histo_nb.errors import CatalogError, SlideError
from histo_nb.geometry import MPP_TOLERANCE
from histo_nb.home import Home
from histo_nb.scanning.drivers import Scan
from histo_nb.scanning.intake import IntakeSpec, receive

State = Literal["waiting", "scanning", "filing", "done", "known", "refused", "failed"]

ENDED = ("done", "known", "refused", "failed")  # nothing more is done with such a slot


@dataclass(frozen=True, kw_only=True)
class SlotState:
    """What is known of one slot.

    `done` its slide is filed · `known` it was scanned in another rack before · `refused` intake
    put its file into quarantine · `failed` the scanner could not scan it.
    """

    slot: int  # from 1
    state: State = "waiting"
    progress: float = 0.0  # share of the scan that is done, 0–1
    attempts: int = 0  # scans begun, those before a killed process as well
    slide_id: str | None = None
    reason: str | None = None  # why it was refused or failed, or what to look at by hand
    slide_tag: str | None = None  # of its barcode; None = not read


def put_slot(home: Home, rack_id: str, slot: SlotState) -> None:
    """Write a slot's state and the event that says when."""
    home.catalog.put_scan(
        {
            "rack_id": rack_id,
            "slot": slot.slot,
            "slide_tag": slot.slide_tag,
            "state": slot.state,
            "attempts": slot.attempts,
            "slide_id": slot.slide_id,
            "reason": slot.reason,
        }
    )


def restore_slots(home: Home, rack_id: str, numbers: Iterable[int]) -> dict[int, SlotState]:
    """Return a rack's slots as the last console left them, and write those that are new.

    A slot whose scan was cut off waits again.
    """
    scans = home.catalog.scans()
    rows = {int(row["slot"]): row for row in scans[scans.rack_id == rack_id].to_dict("records")}
    slots = {number: _restore(number, rows.get(number)) for number in numbers}
    for number, slot in slots.items():
        if number not in rows or rows[number]["state"] != slot.state:
            put_slot(home, rack_id, slot)
    return slots


def _restore(number: int, row: dict[Any, Any] | None) -> SlotState:
    if row is None:
        return SlotState(slot=number)
    if row["state"] not in ENDED:
        return SlotState(slot=number, attempts=int(row["attempts"]))
    texts = {name: row[name] for name in ("slide_id", "reason", "slide_tag") if pd.notna(row[name])}
    progress = float(row["state"] != "failed")
    attempts = int(row["attempts"])
    return SlotState(slot=number, state=row["state"], progress=progress, attempts=attempts, **texts)


def find_scanned(home: Home, slide_tag: str, *, mpp: float, but: str) -> str | None:
    """Return the `slide_id` of the latest scan of a glass at `mpp`, in any rack `but` one.

    None if there is none, and if two slides of one rack carried that label: it tells neither.
    """
    scans = home.catalog.scans()
    of_tag = scans[(scans.slide_tag == slide_tag) & (scans.rack_id != but)]
    filed = of_tag[of_tag.slide_id.notna()].sort_values("updated_at")
    if filed.empty or of_tag.rack_id.duplicated().any():
        return None
    slides = home.catalog.slides(filed.slide_id)
    alike = slides[(slides.slide_mpp - mpp).abs() <= MPP_TOLERANCE * mpp]
    return None if alike.empty else str(alike.slide_id.iloc[-1])


def file_scan(
    slot: SlotState, scan: Scan, home: Home, *, source: str, barcode: str | None
) -> SlotState:
    """Take a finished scan in, and return what became of its slot.

    Raises
    ------
    StorageError
        There is not enough space; nothing is kept.
    """
    spec = IntakeSpec(source=source, patient_id=scan.patient_id)
    try:
        arrival = receive(scan.path, home, spec=spec, truth=scan.truth, barcode=barcode)
    except (SlideError, CatalogError) as error:  # its name is the scanner's, maybe a barcode
        reason = str(error).replace(scan.path.name, f"the scan of slot {slot.slot}")
        return replace(slot, state="failed", progress=0.0, reason=reason)
    if arrival.slide_id is None:
        return replace(slot, state="refused", reason=arrival.reason)
    return replace(slot, state="done", slide_id=arrival.slide_id)


def scanned_slides(slots: Sequence[SlotState], home: Home) -> pd.DataFrame:
    """Return the catalogue rows of a rack's slides in its order.

    Raises
    ------
    SlideError
        A slot has no slide: it was refused, failed, or still waits.
    """
    without = [f"slot {s.slot} {s.state}: {s.reason or '-'}" for s in slots if s.slide_id is None]
    if without:
        raise SlideError(
            f"{len(without)} of {len(slots)} slides of the rack are not in the catalogue; "
            "look at them and scan them again: " + "; ".join(without)
        )
    return home.catalog.slides([str(slot.slide_id) for slot in slots])

"""What a scanner's driver fulfils, so that one console runs them all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from histo_nb.annotations import Annotation
from histo_nb.geometry import check_positive


@dataclass(frozen=True, kw_only=True)
class ScanSpec:
    """The profile slides are scanned with."""

    mpp: float = 0.5  # µm/px; 20x
    objective_power: int = 20
    in_place: bool = False  # write under the final name from the start, as some scanners do

    def __post_init__(self) -> None:
        check_positive(mpp=self.mpp, objective_power=self.objective_power)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One finished file and what the scanner knows of it."""

    path: Path
    patient_id: str | None = None  # a pseudonym; None = unknown
    truth: tuple[Annotation, ...] = ()  # outlines in level-0 px, of virtual slides only


class Scanner(Protocol):
    """A scanner behind its driver. Every method may raise `ScannerError`, which names the fault.

    A driver is used by one thread; `abort` may be called from any.
    """

    name: str  # as the catalogue's `source` says it

    def load_rack(self) -> Sequence[int]:
        """Draw the rack in and return the numbers of its occupied slots, from 1."""
        ...

    def read_barcode(self, slot: int) -> str:
        """Return the barcode of a slide; it may name a person and is never logged or shown."""
        ...

    def scan_slot(
        self, slot: int, folder: Path, *, spec: ScanSpec, progress: Callable[[float], None]
    ) -> Scan:
        """Scan one slide into a file in `folder`; `progress` hears the share that is done, 0–1.

        After an error `folder` may hold part of a file; the caller throws it away.
        """
        ...

    def abort(self) -> None:
        """Make the running `scan_slot` stop soon, with the fault "aborted"."""
        ...

    def recover(self) -> None:
        """Do what a technician does: clear a jam, connect again. Nothing if all is well."""
        ...

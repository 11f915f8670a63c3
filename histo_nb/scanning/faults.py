"""What is done about a scanner's faults, as long as no technician is needed."""

from collections.abc import Callable
from typing import TypeVar

from histo_nb.errors import ScannerError
from histo_nb.scanning.drivers import Scanner

Made = TypeVar("Made")

ATTEMPTS = 3  # of whatever meets a fault; one that stays is no accident
OF_THE_MACHINE = ("jam", "connection")  # while they stay, no other slide can be scanned either


def insist(scanner: Scanner, work: Callable[[], Made]) -> Made:
    """Do some work of a scanner; after a fault it recovers, and the work is done again.

    Raises
    ------
    ScannerError
        The fault stays, or the scanner does not recover.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return work()
        except ScannerError:
            scanner.recover()
    return work()


def read_barcode(scanner: Scanner, slot: int) -> str | None:
    """Return the barcode of a slide; None if its label cannot be read, again and again.

    Raises
    ------
    ScannerError
        Another fault than an unreadable label stays.
    """
    try:
        return insist(scanner, lambda: scanner.read_barcode(slot))
    except ScannerError as error:
        if error.fault != "barcode":
            raise
        return None

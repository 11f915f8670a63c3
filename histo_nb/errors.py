"""Named errors. Each message says: name, value, rule, way out."""

from typing import Any


class HistoError(Exception):
    """Something a user can put right; the command line prints it and exits with `exit_code`."""

    exit_code = 1


class SpecError(HistoError, ValueError):
    """A parameter lies outside its rule, or parameters contradict one another."""


class SlideError(HistoError):
    """A slide is missing, does not open or cannot be read."""

    step = "files"  # check of the intake desk that refused it


class MppError(SlideError):
    """A slide's microns per pixel are missing, absurd or do not allow what was asked."""


class IncompleteError(SlideError):
    """A slide's file is not whole: still being written, cut off, or damaged."""


class BusyError(SlideError):
    """Another process is at work on a slide; wait for it."""


class ScannerError(HistoError):
    """A scanner cannot go on; `fault` says what a technician must look at."""

    def __init__(self, message: str, *, fault: str) -> None:
        super().__init__(message)
        self.fault = fault  # "jam", "barcode", "focus", "connection", "aborted"


class NoTissueError(SlideError):
    """No tissue, or no tile with enough of it, was found on a slide."""


class TableError(HistoError):
    """A table breaks its column contract, or is empty where rows are needed."""


class DatasetError(HistoError):
    """Labelled data cannot be split, balanced or learnt from as they are."""


class BundleError(HistoError):
    """A model bundle is missing, damaged, or does not fit what it is asked to classify."""


class GateFailed(HistoError):  # noqa: N818 - a verdict, not a mishap
    """A candidate model did not pass its gate: collect more data, train again."""

    exit_code = 3

    def __init__(self, message: str, *, facts: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.facts = facts or {}  # the figures, for a script


class CatalogError(HistoError):
    """The catalogue lacks something, or already has it."""


class CatalogAwayError(CatalogError):
    """The catalogue does not answer, or another process holds it for too long."""

    exit_code = 75  # EX_TEMPFAIL: a scheduler may try again


class ReviewError(HistoError):
    """A judgement of a slide cannot be written as it is."""


class LinkError(HistoError):
    """A personal link shows nothing: it is no link of ours, or no longer (`is_ours`)."""

    def __init__(self, message: str, *, is_ours: bool) -> None:
        super().__init__(message)
        self.is_ours = is_ours


class NotebookError(HistoError):
    """A notebook cannot be run as asked, or failed while it ran."""


class RunError(NotebookError):
    """A notebook failed while it ran; `exit_code` tells a scheduler how (running.notebook_exit)."""

    def __init__(
        self, message: str, *, exit_code: int = 1, facts: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.facts = facts or {}  # which run it was, for a script


class StorageError(HistoError):
    """A file could not be written: no space, no permission."""


class DiskFullError(StorageError):
    """There is no space left; when there is some, the same work goes on."""

    exit_code = 75  # EX_TEMPFAIL: a scheduler may try again

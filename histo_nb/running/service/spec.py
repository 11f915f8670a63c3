"""What a service does, and when it takes no more."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo_nb.errors import SpecError
from histo_nb.geometry import check_positive
from histo_nb.home import Home

GB = 10**9  # bytes


@dataclass(frozen=True, kw_only=True)
class ServiceSpec:
    """Where slides come from, how they are analysed, and the limits of it."""

    watch: tuple[Path, ...] = ()  # hot folders
    quiet_s: float = 10.0  # a slide of a hot folder, or a series, has not changed for so long
    dicom: Mapping[str, Any] | None = None  # fields of `ReceiverSpec`; None = no DICOM
    n_workers: int = 0  # of the analysis; 0 = one a core
    pages: Mapping[str, Any] | None = None  # arguments of `serve_dashboards`; None = no pages
    max_waiting: int = 200  # slides that wait for analysis; above, none is taken
    min_free_gb: float = 5.0  # of the disk of HISTO_HOME; below, none is taken
    hang_s: float = 30.0  # a part that is silent for so long is started again
    stop_s: float = 20.0  # what the parts get to end by themselves

    def __post_init__(self) -> None:
        check_positive(max_waiting=self.max_waiting, hang_s=self.hang_s, stop_s=self.stop_s)
        for name, least in (("n_workers", self.n_workers), ("min_free_gb", self.min_free_gb),
                            ("quiet_s", self.quiet_s)):  # fmt: skip
            if not least >= 0:
                raise SpecError(f"{name}={least:g} must be 0 or more")


def plan_parts(spec: ServiceSpec, home: Home) -> dict[str, dict[str, Any]]:
    """Return the settings of each part by its name; nothing of it names a folder.

    A part's `kind` is the module of this package that does its work.
    """
    shared = {"home": str(home.root)}
    plan: dict[str, dict[str, Any]] = {}
    for number, folder in enumerate(spec.watch, start=1):
        name = "intake" if len(spec.watch) == 1 else f"intake {number}"
        plan[name] = {"kind": "intake", "folder": str(folder.absolute()), "quiet_s": spec.quiet_s}
    if spec.dicom is not None:
        limits = {"quiet_s": spec.quiet_s, "min_free": int(spec.min_free_gb * GB)}
        plan["dicom"] = {"kind": "dicom", **limits, **spec.dicom}
    plan["analysis"] = {"kind": "analysis", "n_workers": spec.n_workers}
    if spec.pages is not None:
        plan["pages"] = {"kind": "pages", **spec.pages}
    return {name: shared | settings for name, settings in plan.items()}

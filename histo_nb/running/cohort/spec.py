"""How a cohort is worked on."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from histo_nb.errors import SpecError
from histo_nb.geometry import check_positive
from histo_nb.inference.pipeline import AnalysisSpec
from histo_nb.masking.tissue import MaskSpec

ReportKind = Literal["html", "none"]


@dataclass(frozen=True, kw_only=True)
class CohortSpec:
    """What is done with each slide, and how hard it is tried."""

    n_workers: int = 0  # processes on this machine; 0 = one a core
    tries: int = 3  # of a stage, before the slide counts as failed
    lease_s: float = 60.0  # a worker of another machine that is silent so long is dead
    limit_s: float = 3600.0  # for one stage of one slide; a worker that hangs is ended then
    min_tissue: float = 0.5  # share of a tile that must be tissue
    runtime: str = "auto"  # "torch", "openvino"
    precision: str = "auto"  # "fp32", "bf16", "fp16", "int8"
    report: ReportKind = "html"  # of each slide
    mask: MaskSpec = field(default_factory=MaskSpec)

    def __post_init__(self) -> None:
        check_positive(tries=self.tries, lease_s=self.lease_s, limit_s=self.limit_s)
        if self.n_workers < 0:
            raise SpecError(f"n_workers={self.n_workers} must not be below 0; 0 = one a core")
        if self.report not in get_args(ReportKind):
            raise SpecError(f"report={self.report!r}; choose {' or '.join(get_args(ReportKind))}")
        self.analysis  # noqa: B018 - checks itself

    @property
    def analysis(self) -> AnalysisSpec:
        """How one worker analyses: on one core, as there is a worker for each."""
        return AnalysisSpec(
            min_tissue=self.min_tissue,
            runtime=self.runtime,
            precision=self.precision,
            n_threads=1,
        )

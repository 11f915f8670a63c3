"""A rack of virtual glass slides: drawn ones by default, laid ones from a folder of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histo_nb.errors import SpecError
from histo_nb.geometry import check_positive
from histo_nb.scanning.virtual.defects import check_defects, spoil_glass
from histo_nb.scanning.virtual.drawn import DrawnSpec, draw_glass
from histo_nb.scanning.virtual.glass import Glass
from histo_nb.scanning.virtual.laid import LaySpec, lay_glasses, read_labelled_images


@dataclass(frozen=True, kw_only=True)
class RackSpec:
    """Which glass slides lie in the rack: one a patient."""

    patients_per_class: int = 5  # drawn patients of each diagnosis
    width_um: float = 6000.0  # of a drawn glass slide's scanned area
    height_um: float = 4500.0
    glass_seed: int = 7
    glass_images: str = ""  # folder of labelled images to lay instead; empty = draw
    image_mpp: float = 0.62  # µm/px of those images
    defects: tuple[str, ...] = ()  # one a slide, from the first one on; see `DEFECTS`
    severity: tuple[str, ...] = ("normal", "adenoma", "carcinoma")  # classes, benign first

    def __post_init__(self) -> None:
        check_positive(patients_per_class=self.patients_per_class, image_mpp=self.image_mpp)
        check_defects(self.defects)
        if len(self.severity) < 2:
            raise SpecError(f"severity={self.severity}: name at least two classes, benign first")


def fill_rack(spec: RackSpec | None = None) -> Sequence[Glass]:
    """Return the glass slides of a rack, ready to be scanned.

    With `defects`, the first slides are spoilt, one defect each.

    Raises
    ------
    DatasetError
        The folder of images is missing, empty or unlabelled, or an image does not open.
    """
    spec = spec or RackSpec()
    glasses = _lay_or_draw(spec)
    spoilt = [spoil_glass(glass, d) for glass, d in zip(glasses, spec.defects, strict=False)]
    return [*spoilt, *glasses[len(spoilt) :]]


def _lay_or_draw(spec: RackSpec) -> Sequence[Glass]:
    if spec.glass_images:
        images = read_labelled_images(Path(spec.glass_images))
        return lay_glasses(
            images, spec=LaySpec(image_mpp=spec.image_mpp, severity=tuple(spec.severity))
        )
    drawn = DrawnSpec(size_um=(spec.width_um, spec.height_um), classes=tuple(spec.severity))
    return [
        draw_glass(
            f"P{number:03d}",
            diagnosis=spec.severity[number % len(spec.severity)],
            seed=1000 * spec.glass_seed + number,
            spec=drawn,
        )
        for number in range(spec.patients_per_class * len(spec.severity))
    ]

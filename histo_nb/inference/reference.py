"""What the training tiles look like to a network, and how far a new tile is from them.

Features are what a network hands to its last layer. Loads no torch.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histo_nb.errors import BundleError, DatasetError
from histo_nb.files import writing
from histo_nb.inference.stain import COLOURS, StainRange, fit_stain

MAX_AXES = 64  # directions that are measured one by one; the rest is measured as a whole
ORDINARY = 0.99  # share of validation tiles within the limit
CHUNK = 512  # tiles measured at once; their arrays stay in the processor's cache
FORMAT = "1"


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Training tiles in the eyes of a network: a Gaussian a class, all of one shape."""

    centres: np.ndarray  # (C, D) float64, mean features of each class
    axes: np.ndarray  # (D, K) float64, directions of the most spread, of length 1
    variances: np.ndarray  # (K,) float64, of features around their class along the axes
    rest: float  # mean variance in all other directions; 0 = there are none
    limit: float  # distance that 99 % of the validation tiles keep
    n_tiles: int  # training tiles it was made from
    stain: StainRange
    scanners: tuple[str, ...]  # sorted; none = unknown, or loose images

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Return each tile's distance (N,) to the nearest class, in standard deviations.

        Mahalanobis distance to class-conditional Gaussians of one covariance (Lee et al., "A
        simple unified framework for detecting out-of-distribution samples and adversarial
        attacks", NeurIPS 2018). A row's distance depends on that row alone, to the last bit: no
        matrix product is used, whose rounding changes with the number of rows and threads.

        Parameters
        ----------
        features
            (N, D). NaN gives NaN, which is within no limit.

        Raises
        ------
        BundleError
            D is another than that of the training tiles.
        """
        if features.ndim != 2 or features.shape[1] != self.centres.shape[1]:
            raise BundleError(
                f"features {features.shape} do not fit the training tiles' "
                f"(N, {self.centres.shape[1]}): they are another network's; train the model again"
            )
        chunks = [features[i : i + CHUNK] for i in range(0, len(features), CHUNK)]
        return np.concatenate([np.zeros(0), *(self._measure(chunk) for chunk in chunks)])

    def _measure(self, features: np.ndarray) -> np.ndarray:
        origin = self.centres.mean(axis=0)
        columns, centres = (features.astype(np.float64) - origin).T, (self.centres - origin).T
        whole = np.zeros((columns.shape[1], centres.shape[1]))  # squared distance to each centre
        along = np.zeros((columns.shape[1], self.axes.shape[1]))
        middle = np.zeros((centres.shape[1], self.axes.shape[1]))
        for column, centre, axis in zip(columns, centres, self.axes, strict=True):
            whole += (column[:, None] - centre) ** 2
            along += column[:, None] * axis
            middle += centre[:, None] * axis
        squared, seen = np.zeros_like(whole), np.zeros_like(whole)
        for k, variance in enumerate(self.variances):
            step = (along[:, k, None] - middle[:, k]) ** 2
            squared += step / variance
            seen += step
        if self.rest:
            squared += np.maximum(whole - seen, 0) / self.rest
        return np.sqrt(squared.min(axis=1))


def fit_reference(
    features: np.ndarray,
    targets: np.ndarray,
    *,
    valid_features: np.ndarray,
    colours: pd.DataFrame,
    scanners: list[str],
) -> Reference:
    """Learn what training tiles look like to a network.

    The covariance is shrunk towards a sphere as the fewness of tiles demands (OAS: Chen et al.,
    "Shrinkage algorithms for MMSE covariance estimation", IEEE Trans. Signal Process. 58, 2010),
    so that fewer tiles than features are enough. Beyond 64 axes all directions count alike, as in
    probabilistic PCA (Tipping & Bishop, 1999); they are kept because what training tiles never
    show lies there.

    Parameters
    ----------
    features, targets
        (N, D) and class numbers (N,) of original training tiles, in the evaluation transform.
    valid_features
        (M, D) of tiles that the network did not learn from: these set the limit, since a network
        knows its training tiles by heart. Whatever is common among them passes.
    colours
        A row `od_red, od_green, od_blue` a training slide, see `stain.slide_colours`.
    scanners
        Scanners of the training slides, see `trust.name_scanner`; may repeat. Empty = unknown.

    Raises
    ------
    DatasetError
        There is no tile, shapes do not fit, or a feature is NaN or infinite.
    """
    _check(features, targets, valid_features)
    classes, numbers = np.unique(targets, return_inverse=True)
    centres = np.stack([features[targets == c].mean(axis=0, dtype=np.float64) for c in classes])
    spread, directions, n = _spread(features, numbers, centres)
    k = min(MAX_AXES, n, len(spread))
    facts: dict[str, Any] = {
        "centres": centres,
        "axes": np.ascontiguousarray(directions[:, :k]),
        "variances": spread[:k].copy(),
        "rest": float(spread[k:].mean()) if k < len(spread) else 0.0,
        "n_tiles": len(features),
        "stain": fit_stain(colours),
        "scanners": tuple(sorted(set(scanners))),
    }
    distances = Reference(limit=0.0, **facts).distances(valid_features)
    return Reference(limit=float(np.quantile(distances, ORDINARY, method="higher")), **facts)


def write_reference(reference: Reference, path: Path) -> Path:
    """Write a reference as safetensors, which execute nothing when loaded; return the path."""
    from safetensors.numpy import save_file  # noqa: PLC0415 - doubts alone do not need it

    arrays = {name: getattr(reference, name) for name in ("centres", "axes", "variances")}
    stain = {"stain_centre": reference.stain.centre, "stain_scale": reference.stain.scale}
    facts = {name: getattr(reference, name) for name in ("rest", "limit", "n_tiles", "scanners")}
    facts |= {"n_slides": reference.stain.n_slides, "format": FORMAT}
    with writing(Path(path)) as temporary:  # of several keys the order would be by chance
        save_file(arrays | stain, temporary, {"facts": json.dumps(facts)})
    return Path(path)


def read_reference(path: Path) -> Reference:
    """Read a reference.

    Raises
    ------
    BundleError
        The file is missing, damaged, or of a later version.
    """
    import safetensors  # noqa: PLC0415 - doubts alone do not need it

    try:
        with safetensors.safe_open(path, "np") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        stain = StainRange(centre=arrays.pop("stain_centre"), scale=arrays.pop("stain_scale"),
                           n_slides=facts.pop("n_slides"))  # fmt: skip
        facts["scanners"] = tuple(facts["scanners"])
        reference = Reference(**arrays, **facts, stain=stain)
        _check_shapes(reference)
        return reference
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise BundleError(
            f"{path} is no record of training tiles ({error!r}); copy the model again, or train it "
            "again"
        ) from error


def _spread(
    features: np.ndarray, numbers: np.ndarray, centres: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return variances (D,), largest first, their directions (D, D), degrees of freedom."""
    width = features.shape[1]
    scatter = np.zeros((width, width))
    for start in range(0, len(features), CHUNK):
        part = slice(start, start + CHUNK)
        off = features[part].astype(np.float64) - centres[numbers[part]]
        scatter += off.T @ off
    n = max(len(features) - len(centres), 1)
    found, directions = np.linalg.eigh(scatter / n)
    return _shrink(found[::-1].clip(0), n), directions[:, ::-1], n


def _shrink(variances: np.ndarray, n: int) -> np.ndarray:
    """Return variances (D,) drawn towards their mean, all above 0."""
    width, total, squares = len(variances), variances.sum(), (variances**2).sum()
    if total == 0:
        return np.ones(width)  # all tiles look alike: any difference counts as it is
    uneven = squares - total**2 / width
    share = ((1 - 2 / width) * squares + total**2) / ((n + 1 - 2 / width) * uneven + 1e-300)
    share = min(max(share, 1e-6), 1.0)
    return (1 - share) * variances + share * total / width


def _check(features: np.ndarray, targets: np.ndarray, valid_features: np.ndarray) -> None:
    shapes = f"features {features.shape}, targets {targets.shape}, valid {valid_features.shape}"
    if features.ndim != 2 or valid_features.shape[1:] != features.shape[1:]:
        raise DatasetError(f"{shapes} do not fit; give (N, D), (N,) and (M, D)")
    if targets.shape != features.shape[:1]:
        raise DatasetError(f"{shapes} do not fit; give (N, D), (N,) and (M, D)")
    if not len(features) or not len(valid_features):
        raise DatasetError(
            f"{shapes}: there must be tiles to learn from, and others to validate by; collect more"
        )
    for name, values in (("training", features), ("validation", valid_features)):
        broken = ~np.isfinite(values).all(axis=1)
        if broken.any():
            raise DatasetError(
                f"features of {broken.sum()} {name} tiles are NaN or infinite, the first is number "
                f"{broken.argmax()}: training diverged; train again with a lower learning rate"
            )


def _check_shapes(reference: Reference) -> None:
    width, k = reference.axes.shape
    fits = reference.centres.shape[1:] == (width,) and reference.variances.shape == (k,)
    if not fits or reference.stain.centre.shape != (len(COLOURS),):
        raise ValueError("its arrays do not fit together")
    numbers = [getattr(reference, f.name) for f in fields(Reference)[:5]]
    if not all(np.isfinite(value).all() for value in numbers) or (reference.variances <= 0).any():
        raise ValueError("a number in it is not finite")

"""Near-duplicate tiles: the same field of view twice, whatever was done to the copy.

Three steps, each of them free of training and of chance. Every image is described once by SIFT
keypoints [1]_. Keypoints that fall into the same bucket of a locality-sensitive hash vote for a
pair of images, rare buckets more than common ones; a copy may be mirrored, so each image asks
twice. A pair with votes is believed only if an affine map found by RANSAC lays one image onto the
other and their grey values then agree, pixel by pixel: other tissue of the same look correlates
by less than 0.5, true copies by more than 0.9.

References
----------
.. [1] D. Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 60, 2004.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse import csgraph
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from histo_nb.errors import DatasetError, SpecError

WORK_SIZE = 256  # px; larger tiles are reduced to it, for keypoints and for comparison
N_KEYPOINTS = 120  # the strongest of an image; 15 kB each image in a temporary file
BLUR_PX = 1.5  # before grey values are compared: a map of sub-pixel error may still agree
MIN_CONTRAST = 2.0  # grey levels, standard deviation; below it a tile shows nothing
TABLES, BITS = 12, 20  # of the hash
MIN_VOTES = 2.0  # shared buckets before a pair is looked at; one of n images counts 1/sqrt(n)
BLOCK = 256  # images that ask at a time
RATIO = 0.9  # nearest over second nearest keypoint; generous, the grey values decide
TOLERANCE_PX = 3.0
ZOOM = (0.4, 2.5)  # a copy may be squeezed or stretched by so much along either axis
GREYS = 2048  # grey images kept at once, 64 kB each
MAX_COMPLETED = 64  # images; in larger groups not every pair is looked at, all stay joined
ROOTS = np.round(16 * np.sqrt(np.arange(256))).astype(np.uint8)  # RootSIFT in whole numbers
MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][..., -np.arange(8) % 8].ravel()  # left-right
COLUMNS = {
    "i": np.int64,
    "j": np.int64,
    "correlation": float,
    "overlap": float,
    "inliers": np.int64,
}
Pair = tuple[int, int]


@dataclass(frozen=True)
class DuplicateSpec:
    """What counts as a near-duplicate."""

    neighbours: int = 20  # pairs looked at for each image, most votes first
    min_inliers: int = 6  # keypoints that agree on one map
    min_correlation: float = 0.8  # of grey values where the two images overlap
    min_overlap: float = 0.2  # share of the image

    def __post_init__(self) -> None:
        rules = {
            "neighbours": self.neighbours >= 1,
            "min_inliers": 4 <= self.min_inliers <= N_KEYPOINTS,  # three points fix an affine map
            "min_correlation": 0.5 <= self.min_correlation <= 1,
            "min_overlap": 0 < self.min_overlap <= 1,
        }
        for name, holds in rules.items():
            if not holds:
                raise SpecError(
                    f"{name} is {getattr(self, name)}; allowed are neighbours >= 1, min_inliers "
                    f"4 to {N_KEYPOINTS}, min_correlation 0.5 to 1, min_overlap above 0 to 1"
                )


class _Images(NamedTuple):
    pixels: Any
    digests: np.ndarray  # of the pixels; 0 = the tile shows nothing
    counts: np.ndarray  # keypoints found
    points: np.ndarray  # (N, K, 2) float32, px of the reduced image
    descriptors: np.ndarray  # (N, K, 128) uint8


def find_duplicates(
    pixels: Any, groups: Sequence[Any] | np.ndarray, *, spec: DuplicateSpec | None = None
) -> pd.DataFrame:
    """Return the pairs of near-duplicate images whose groups differ.

    Found are exact copies, other JPEG qualities, brightness and gamma, mirrored and turned copies
    at any angle, zoomed or stretched up to about 1.5 times, and tiles that overlap. Tiles of too
    few keypoints (glass, blur) match exact copies only, and if they show nothing at all, nothing:
    one empty field looks like any other. Same images, same rows, whatever the number of threads.

    Parameters
    ----------
    pixels
        `pixels[i]` is (S, S, 3) uint8 RGB; an array, or one mapped into memory. Each is read
        once, and again for each pair that may be one.
    groups
        One value an image: the side of a split, the patient.
    spec
        What counts as a near-duplicate.

    Returns
    -------
    Rows `i` < `j` (positions in `pixels`), `correlation` of the grey values, `overlap` (share of
    image `i` that `j` shows too), `inliers` (keypoints that agree), sorted by `i` and `j`.

    Raises
    ------
    DatasetError
        There are not as many groups as images.
    """
    spec = spec or DuplicateSpec()
    if len(groups) != len(pixels):
        raise DatasetError(
            f"{len(groups)} groups for {len(pixels)} images; give each image one group"
        )
    sides = pd.factorize(np.asarray(groups))[0]
    with tempfile.TemporaryFile() as file:
        images = _describe(pixels, file)
        tried = sorted({*_copies(images, sides), *_candidates(images, sides, spec)})
        rows = _verify(images, tried, spec)
        rows += _verify(images, _untried(rows, tried, sides), spec)
    return pd.DataFrame(sorted(rows), columns=list(COLUMNS)).astype(COLUMNS)


def join_duplicates(pixels: Any, *, spec: DuplicateSpec | None = None) -> np.ndarray:
    """Return the group of each image, int (N,): images joined by a chain of near-duplicates.

    Groups are numbered from 0 in the order of their first image. Parameters as `find_duplicates`.
    """
    pairs = find_duplicates(pixels, np.arange(len(pixels)), spec=spec)
    return pd.factorize(_components(pairs[["i", "j"]].to_numpy(), len(pixels)))[0]


def _grey(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    if max(grey.shape) <= WORK_SIZE:
        return grey
    return cv2.resize(grey, (WORK_SIZE, WORK_SIZE), interpolation=cv2.INTER_AREA)


def _describe(pixels: Any, file: Any) -> _Images:
    n, k = len(pixels), N_KEYPOINTS
    descriptors = np.memmap(file, np.uint8, "w+", shape=(max(n, 1), k, 128))
    points = np.zeros((n, k, 2), np.float32)
    images = _Images(pixels, np.zeros(n, np.uint64), np.zeros(n, np.int64), points, descriptors)

    def describe(i: int) -> None:
        image = np.ascontiguousarray(pixels[i])
        grey = _grey(image)
        if grey.std() < MIN_CONTRAST:
            return
        digest = hashlib.blake2b(image.tobytes(), digest_size=8).digest()
        images.digests[i] = int.from_bytes(digest) | 1
        sift = cv2.SIFT_create(  # type: ignore[attr-defined]
            nfeatures=k, contrastThreshold=0.01
        )
        keypoints, found = sift.detectAndCompute(grey, None)
        images.counts[i] = m = min(len(keypoints), k)
        if m:
            points[i, :m] = [keypoint.pt for keypoint in keypoints[:m]]
            descriptors[i, :m] = ROOTS[found[:m].astype(np.uint8)]

    _work(describe, range(n), "describing")
    return images


def _work(task: Any, items: Sequence[Any], name: str) -> list[Any]:
    """Return the task's results in the items' order; OpenCV lets threads run side by side.

    Its own threads, and those of linear algebra, would only wait for one another within ours.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1), ThreadPoolExecutor() as pool:
            return list(tqdm(pool.map(task, items), total=len(items), desc=name, leave=False))
    finally:
        cv2.setNumThreads(before)


def _copies(images: _Images, sides: np.ndarray) -> Iterator[Pair]:
    """Yield exact copies, each beside the next one across the cut."""
    table = pd.DataFrame({"digest": images.digests, "side": sides})
    for _, copies in table[images.digests > 0].groupby("digest"):
        firsts = copies.drop_duplicates("side").index.tolist()
        yield from pairwise(firsts)
        yield from combinations(firsts[:MAX_COMPLETED], 2)


def _buckets(descriptors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the buckets of (n, 128) descriptors; whole numbers, hence exact in float32."""
    planes = np.random.default_rng(0).normal(0, 4, (128, TABLES * BITS)).round()
    above = (descriptors - mean) @ planes.astype(np.float32) > 0
    numbers = above.reshape(-1, TABLES, BITS) @ (1 << np.arange(BITS))
    return np.unique(numbers + (np.arange(TABLES) << BITS))


def _table(rows: list[np.ndarray]) -> sparse.csr_matrix:
    """Return which image (row) has which bucket (column)."""
    ends = np.cumsum([0, *map(len, rows)])
    where = np.concatenate(rows).astype(np.int32)
    return sparse.csr_matrix(
        (np.ones(len(where), np.float32), where, ends), shape=(len(rows), TABLES << BITS)
    )


def _candidates(images: _Images, sides: np.ndarray, spec: DuplicateSpec) -> Iterator[Pair]:
    """Yield, for each image, the pairs across the cut with the most votes."""
    n, total = len(sides), np.zeros(128)
    for found, count in zip(images.descriptors, images.counts, strict=False):
        total += found[:count].sum(axis=0)
    mean = (total / max(images.counts.sum(), 1)).round().astype(np.float32)

    def ask(i: int, order: Any = slice(None)) -> np.ndarray:
        return _buckets(images.descriptors[i, : images.counts[i]][:, order], mean)

    asked = _table(_work(ask, range(n), "hashing")).T.tocsr()  # bucket -> images
    asked.data /= np.repeat(np.sqrt(np.maximum(np.diff(asked.indptr), 1)), np.diff(asked.indptr))
    for start in tqdm(range(0, n, BLOCK), desc="voting", leave=False):
        block = range(start, min(start + BLOCK, n))
        plain, mirrored = (
            _table([ask(i, o) for i in block]) @ asked for o in (slice(None), MIRROR)
        )
        votes = plain.maximum(mirrored).tocsr()
        for row, i in enumerate(block):
            part = slice(votes.indptr[row], votes.indptr[row + 1])
            others, given = votes.indices[part], votes.data[part]
            kept = (given >= MIN_VOTES) & (sides[others] != sides[i])
            best = np.lexsort((others[kept], -given[kept]))[: spec.neighbours]
            yield from ((min(i, int(j)), max(i, int(j))) for j in others[kept][best])


def _verify(images: _Images, pairs: list[Pair], spec: DuplicateSpec) -> list[tuple[Any, ...]]:
    grey = lru_cache(GREYS)(lambda k: _grey(images.pixels[k]))

    def compare(pair: Pair) -> tuple[Any, ...] | None:
        i, j = pair
        if images.digests[i] == images.digests[j] != 0:
            return i, j, 1.0, 1.0, int(images.counts[i])
        seen = _lay_over(images, i, j, spec=spec, grey=grey)
        return None if seen is None else (i, j, *seen)

    return [row for row in _work(compare, pairs, "comparing") if row is not None]


def _untried(rows: list[tuple[Any, ...]], tried: list[Pair], sides: np.ndarray) -> list[Pair]:
    """Return the pairs across the cut that a chain joins and nobody has looked at."""
    joined = np.array([row[:2] for row in rows], np.int64).reshape(-1, 2)
    names = pd.Series(_components(joined, len(sides)))[np.unique(joined)]
    chains = [list(c.index) for _, c in names.groupby(names) if len(c) <= MAX_COMPLETED]
    pairs = {p for chain in chains for p in combinations(chain, 2) if sides[p[0]] != sides[p[1]]}
    return sorted(pairs - set(tried))


def _components(pairs: np.ndarray, n: int) -> np.ndarray:
    graph = sparse.coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return csgraph.connected_components(graph, directed=False)[1]


def _match(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the keypoints that are each other's nearest, clearly; whole numbers, exact."""
    if min(len(a), len(b)) < 2:
        return np.zeros(0, int), np.zeros(0, int)
    a, b = a.astype(np.float32), b.astype(np.float32)
    far = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    nearest, (first, second) = far.argmin(axis=1), np.partition(far, 1, axis=1)[:, :2].T
    mine = np.arange(len(a))
    good = (far.argmin(axis=0)[nearest] == mine) & (first < RATIO**2 * second)
    return mine[good], nearest[good]


def _lay_over(
    images: _Images, i: int, j: int, *, spec: DuplicateSpec, grey: Callable[[int], np.ndarray]
) -> tuple[float, float, int] | None:
    """Return correlation, overlap and inliers if image j can be laid onto image i."""
    one, two = (images.descriptors[k, : images.counts[k]] for k in (i, j))
    plain, mirrored = _match(one, two), _match(one, two[:, MIRROR])
    is_mirrored = len(mirrored[0]) > len(plain[0])
    mine, theirs = mirrored if is_mirrored else plain
    if len(mine) < spec.min_inliers:
        return None
    under, over = grey(i), grey(j)
    source, target = images.points[i, mine], images.points[j, theirs]
    if is_mirrored:
        over = np.ascontiguousarray(over[:, ::-1])
        target = target * (-1, 1) + (over.shape[1] - 1, 0)
    affine, inliers = cv2.estimateAffine2D(
        source, target, method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE_PX, maxIters=1000
    )
    if affine is None or inliers.sum() < spec.min_inliers or not _plausible(affine):
        return None
    correlation, overlap = _correlate(under, over, affine)
    if correlation < spec.min_correlation or overlap < spec.min_overlap:
        return None
    return round(correlation, 4), round(overlap, 4), int(inliers.sum())


def _plausible(affine: np.ndarray) -> bool:
    zoom = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(zoom.min() >= ZOOM[0] and zoom.max() <= ZOOM[1])


def _correlate(under: np.ndarray, over: np.ndarray, affine: np.ndarray) -> tuple[float, float]:
    shape = over.shape
    size, flags = under.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    blurred = (cv2.GaussianBlur(grey, (0, 0), BLUR_PX) for grey in (under, over))
    under, over = next(blurred), cv2.warpAffine(next(blurred), affine, size, flags=flags)
    shared = cv2.warpAffine(np.full(shape, 255, np.uint8), affine, size, flags=flags) == 255
    a, b = under[shared].astype(np.float64), over[shared].astype(np.float64)
    if not len(a) or min(a.std(), b.std()) < MIN_CONTRAST:
        return 0.0, float(shared.mean())
    return float(np.corrcoef(a, b)[0, 1]), float(shared.mean())

"""Near-duplicates of LC25000, found by us and by a perceptual hash: recall, precision, seconds.

`HISTO_DATA=… python benchmarks/duplicates.py [--tiles 2000]`. Truth is `groups.csv`: a pair is true
if both tiles were cut from one original. The peer is imagehash's pHash over the eight mirrored and
right-angle variants, every distance in bits; `pip install imagehash` (4.3.2), it is no dependency.
Precision is a lower bound: originals that overlap stand in different groups there.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

from histo_nb.balancing.duplicates import find_duplicates, join_duplicates

Pairs = set[tuple[int, int]]


def read_images(folder: Path, tiles: int) -> tuple[np.ndarray, np.ndarray]:
    table = pd.read_csv(folder / "groups.csv").head(tiles)
    images = [cv2.cvtColor(cv2.imread(str(folder / f)), cv2.COLOR_BGR2RGB) for f in table.file]
    return np.stack(images), table.group.factorize()[0]


def report(name: str, found: Pairs, groups: np.ndarray, seconds: float) -> None:
    i, j = np.nonzero(np.triu(groups[:, None] == groups, 1))
    truth = set(zip(i.tolist(), j.tolist(), strict=True))
    right = len(truth & found)
    recall, precision = right / len(truth), right / max(len(found), 1)
    spent = 1000 * seconds / len(groups)
    print(f"{name:<22} recall {recall:.4f}  precision {precision:.4f}  {len(found):>7} pairs  "
          f"{spent:6.1f} s per 1,000 tiles", flush=True)  # fmt: skip


def hash_variants(image: np.ndarray) -> np.ndarray:
    import imagehash  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    variants = [np.rot90(side, k) for side in (image, image[:, ::-1]) for k in range(4)]
    return np.array([imagehash.phash(Image.fromarray(v)).hash.ravel() for v in variants])


def peer(images: np.ndarray, groups: np.ndarray) -> None:
    start = time.perf_counter()
    bits = np.stack([hash_variants(image) for image in images]).astype(np.float32) * 2 - 1
    nearest = np.min([(64 - bits[:, 0] @ bits[:, k].T) / 2 for k in range(8)], axis=0)
    seconds = time.perf_counter() - start
    for limit in (4, 8, 12, 16):
        i, j = np.nonzero(np.triu(np.minimum(nearest, nearest.T) <= limit, 1))
        pairs = set(zip(i.tolist(), j.tolist(), strict=True))
        report(f"pHash, {limit} bits", pairs, groups, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=2000)
    asked = parser.parse_args()
    images, groups = read_images(Path(os.environ["HISTO_DATA"]) / "lc25000_colon", asked.tiles)
    start = time.perf_counter()
    found = find_duplicates(images, np.arange(len(images)))
    report("ours", set(zip(found.i, found.j, strict=True)), groups, time.perf_counter() - start)
    joined = join_duplicates(images)
    print(f"joined: {len(set(joined))} groups for {len(set(groups))}, adjusted Rand index "
          f"{adjusted_rand_score(groups, joined):.4f}")  # fmt: skip
    try:
        peer(images, groups)
    except ImportError as error:
        print(f"pHash is left out ({error}): `pip install imagehash`", file=sys.stderr)


if __name__ == "__main__":
    main()

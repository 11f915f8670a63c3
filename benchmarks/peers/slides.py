"""The slides of `benchmarks/inference.py`: real tissue on noisy glass, stored as Aperio stores it.

A stored tile is a function of its place and level, and the same tile again is the same bytes
again. So a slide of 100,000 × 100,000 px is written in a minute and in little memory, and the
variants of a slide share their level 0 byte for byte. With `HISTO_DATA`, tissue is cut from its
real slides and mirrored without seams; else it is drawn by `histo_nb.scanning`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import openslide
import tifffile

TILE = 240  # px of a stored tile, as Aperio's
MPP, QUALITY = 0.5, 70  # µm/px; JPEG quality 70 with 4:2:2 is Aperio's common setting
NETWORK_TILE = 1024  # px at MPP; tissue is counted in these
GLASS_RGB, GLASS_NOISE, N_GLASS = (243, 242, 245), 1.5, 16  # noise as of a sensor, 16 tiles of it
EDGE_PX = 96  # over which tissue fades into glass
# pieces of tissue without gaps, level and x, y, width, height there; sides divide by 16, so that
# the mirrored pattern shrinks exactly to 1/32
PIECES = (
    ("CMU-1-Small-Region.svs", 0, (800, 1440, 480, 1440)),
    ("TCGA-CR-7395-01A-01-TS1.svs", 1, (360, 480, 960, 960)),
)
LEVELS = {"pyramid": (1, 4, 16), "single": (1,), "steps2": (1, 2, 4, 8, 16, 32)}


@dataclass(frozen=True, kw_only=True)
class BenchSlide:
    """A slide that is asked for."""

    name: str
    size: tuple[int, int] = (40_000, 30_000)  # px
    n_tissue: int = 400  # network tiles of tissue, about
    downsamples: tuple[int, ...] = LEVELS["pyramid"]


def find_data(name: str) -> Path | None:
    """Return a file of `HISTO_DATA` by its name."""
    folder = os.environ.get("HISTO_DATA")
    return next(Path(folder).rglob(name), None) if folder else None


def make_slide(slide: BenchSlide, folder: Path) -> Path:
    """Write a slide unless it is there; return its path."""
    origin = "real" if find_data(PIECES[0][0]) else "drawn"
    path = folder / f"{slide.name}-{slide.size[0]}x{slide.size[1]}-{slide.n_tissue}-{origin}.svs"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    pieces = [_mirror(piece) for piece in (_real_pieces() or _drawn_pieces())]
    with tifffile.TiffWriter(part, bigtiff=True) as tiff:
        for downsample in slide.downsamples:
            _write_level(tiff, slide, pieces, downsample)
    part.replace(path)
    return path


def _real_pieces() -> list[np.ndarray]:
    found = []
    for name, level, (x, y, width, height) in PIECES:
        if path := find_data(name):
            with openslide.OpenSlide(path) as source:
                down = source.level_downsamples[level]
                place = round(x * down), round(y * down)
                image = source.read_region(place, level, (width, height))
            found.append(np.asarray(image)[..., :3])
    return found


def _drawn_pieces() -> list[np.ndarray]:
    from histo_nb.scanning.virtual.drawn import draw_glass  # noqa: PLC0415

    found = []
    for diagnosis in ("normal", "carcinoma"):
        glass = draw_glass("P1", diagnosis=diagnosis, seed=1)
        middle = max((a.outline for a in glass.truth()), key=lambda o: o.area).centroid
        x, y = (round(place / MPP) - 480 for place in (middle.x, middle.y))
        found.append(glass.look(x, y, size=(960, 960), mpp=MPP))
    return found


def _mirror(piece: np.ndarray) -> np.ndarray:
    wide = np.concatenate([piece, piece[:, ::-1]], axis=1)
    return np.concatenate([wide, wide[::-1]])


def _write_level(
    tiff: tifffile.TiffWriter, slide: BenchSlide, pieces: list[np.ndarray], downsample: int
) -> None:
    width, height = (extent // downsample for extent in slide.size)
    name = "Aperio Image Library v12.0.0"
    sizes = f"{slide.size[0]}x{slide.size[1]}"
    said = f"[0,0 {sizes}] ({TILE}x{TILE})" if downsample == 1 else f"-> {width}x{height} -"
    tiff.write(
        _tiles(slide, pieces, downsample),
        shape=(height, width, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="jpeg",
        subsampling=(2, 1),
        description=f"{name}\r\n{sizes} {said} JPEG/RGB Q={QUALITY}|AppMag = 20|MPP = {MPP}",
        metadata=None,
    )


def _tiles(slide: BenchSlide, pieces: list[np.ndarray], downsample: int) -> Iterator[bytes]:
    """Yield the encoded tiles of a level, row by row."""
    n_columns, n_rows = (-(-(extent // downsample) // TILE) for extent in slide.size)
    small = [_shrink(piece, downsample) for piece in pieces]
    glass = [_glass(number, downsample) for number in range(N_GLASS)]
    bare = [_encode(image) for image in glass]
    whole: dict[tuple[int, int, int], bytes] = {}
    cover = _covering(slide)
    inner = (np.arange(TILE) + 0.5) * downsample
    coarse = np.linspace(0, TILE * downsample, 5)
    for row in range(n_rows):
        for column in range(n_columns):
            x0, y0 = column * TILE * downsample, row * TILE * downsample
            number = (7 * column + 13 * row) % N_GLASS
            seen = cover(x0 + coarse, y0 + coarse)
            if not seen.any():
                yield bare[number]
                continue
            which = int(x0 > slide.size[0] / 2) % len(small)
            period = small[which].shape
            place = which, column * TILE % period[1], row * TILE % period[0]
            if seen.min() == 1 and place in whole:
                yield whole[place]
                continue
            tissue = _cut(small[which], *place[1:])
            alpha = cover(x0 + inner, y0 + inner)[..., None]
            tile = _encode((tissue * alpha + glass[number] * (1 - alpha)).astype(np.uint8))
            if alpha.min() == 1:
                whole[place] = tile
            yield tile


def _covering(slide: BenchSlide) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (x, y of level 0) → share of tissue, 0–1, on their grid: two blobs."""
    width, height = slide.size
    long = (slide.n_tissue / 2 * NETWORK_TILE**2 / np.pi / 0.7) ** 0.5
    wide = 0.7 * long

    def cover(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        centre = width * (0.27 if x[0] < width / 2 else 0.73)
        dx, dy = (x - centre)[None] / wide, (y - height / 2)[:, None] / long
        angle = np.arctan2(dy, dx)
        radius = np.hypot(dx, dy) / (1 + 0.08 * np.sin(5 * angle) + 0.05 * np.sin(11 * angle))
        return ((1 - radius) * wide / EDGE_PX).clip(0, 1)

    return cover


def _cut(pattern: np.ndarray, x: int, y: int) -> np.ndarray:
    rows = pattern.take(np.arange(y, y + TILE), axis=0, mode="wrap")
    return rows.take(np.arange(x, x + TILE), axis=1, mode="wrap")


def _glass(number: int, downsample: int) -> np.ndarray:
    noise = np.random.default_rng(number).normal(0, GLASS_NOISE / downsample, (TILE, TILE, 1))
    return (np.array(GLASS_RGB) + noise).round().clip(0, 255).astype(np.uint8)


def _shrink(image: np.ndarray, downsample: int) -> np.ndarray:
    size = image.shape[1] // downsample, image.shape[0] // downsample
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _encode(image: np.ndarray) -> bytes:
    return imagecodecs.jpeg8_encode(
        image, level=QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="422"
    )

"""What drawn tissue is painted with: tileable textures, and stamps of cells.

Both are the same for every slide of a process and are made once for each scale.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy import fft

TEXTURE_PX = 768  # side of a texture's period at 0.5 µm/px
TEXTURE_MPP = 0.5
N_ANGLES, N_LOOKS = 16, 6  # stamps of one kind


@dataclass(frozen=True, kw_only=True)
class CellKind:
    """Shape of one kind of cell or vacuole."""

    length_um: float
    width_um: float
    size_sd: float = 0.08  # relative
    ragged: float = 0.03  # amplitude of the outline's waves, relative
    nucleolus: bool = False
    flat: bool = False  # no chromatin: vacuoles, red cells


KINDS = {
    "basal": CellKind(length_um=8.8, width_um=6.4),
    "pencil": CellKind(length_um=13.0, width_um=4.6, size_sd=0.12),
    "pleomorphic": CellKind(length_um=9.6, width_um=7.4, size_sd=0.24, ragged=0.09, nucleolus=True),
    "lymphocyte": CellKind(length_um=6.4, width_um=6.0),
    "plasma": CellKind(length_um=7.2, width_um=5.4, size_sd=0.1),
    "spindle": CellKind(length_um=13.0, width_um=3.2, size_sd=0.18, ragged=0.05),
    "debris": CellKind(length_um=3.4, width_um=2.6, size_sd=0.35, ragged=0.12),
    "vacuole": CellKind(length_um=13.0, width_um=8.6, size_sd=0.14, ragged=0.05, flat=True),
    "red": CellKind(length_um=6.6, width_um=6.0, ragged=0.05, flat=True),
}
KIND_IDS = {name: i for i, name in enumerate(KINDS)}
STAMPS_PER_KIND = N_ANGLES * N_LOOKS
REACH_UM = 20.0  # no stamp is wider


@dataclass(frozen=True, kw_only=True)
class Brushes:
    """Textures and stamps at one scale."""

    stamps: list[np.ndarray]  # (h, w) uint8, by stamp number
    textures: dict[str, np.ndarray]  # (side, side) uint8, mean about 128

    def texture(self, name: str, x_px: int, y_px: int, size: tuple[int, int]) -> np.ndarray:
        """Return the texture in a rectangle of the endless plane, (height, width) uint8."""
        texture = self.textures[name]
        side = len(texture)
        left, top = x_px % side, y_px % side
        if left + size[0] <= side and top + size[1] <= side:
            return texture[top : top + size[1], left : left + size[0]]
        rows = np.arange(top, top + size[1]) % side
        columns = np.arange(left, left + size[0]) % side
        return texture.take(rows, axis=0).take(columns, axis=1)


def stamp_number(kind: str, angle: np.ndarray, look: np.ndarray) -> np.ndarray:
    """Return the numbers of stamps of a kind, turned by `angle` (rad), of `look` 0…N_LOOKS-1."""
    turn = np.rint(np.asarray(angle) / np.pi * N_ANGLES).astype(np.int64) % N_ANGLES
    return (KIND_IDS[kind] * STAMPS_PER_KIND + turn * N_LOOKS + look).astype(np.int32)


@lru_cache(maxsize=4)
def make_brushes(mpp: float) -> Brushes:
    """Return the brushes for a scale (µm/px)."""
    rng = np.random.default_rng(20)
    stamps = [
        _make_stamp(kind, np.pi * turn / N_ANGLES, look, rng, mpp)
        for kind in KINDS.values()
        for turn in range(N_ANGLES)
        for look in range(N_LOOKS)
    ]
    side = max(round(TEXTURE_PX * TEXTURE_MPP / mpp), 8)
    method = cv2.INTER_AREA if mpp > TEXTURE_MPP else cv2.INTER_LINEAR
    textures = {
        name: texture
        if side == TEXTURE_PX
        else cv2.resize(texture, (side, side), interpolation=method)
        for name, texture in _make_textures().items()
    }
    return Brushes(stamps=stamps, textures=textures)


def _make_stamp(
    kind: CellKind, angle: float, look: int, rng: np.random.Generator, mpp: float
) -> np.ndarray:
    """Return one stamp: outline with waves, darker rim, clumped chromatin."""
    swell = np.exp(kind.size_sd * rng.normal() - kind.size_sd**2 / 2)
    a, b = kind.length_um / 2 * swell, kind.width_um / 2 * swell
    phases = rng.uniform(0, 2 * np.pi, 3)
    noise_um = rng.normal(size=(24, 24)).astype(np.float32)
    reach = min(a * (1 + 3 * kind.ragged) + mpp, REACH_UM / 2)
    n = int(np.ceil(2 * reach / mpp)) | 1
    axis = (np.arange(n) - n // 2) * mpp
    dx, dy = np.meshgrid(axis, axis)
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / a
    v = (-dx * np.sin(angle) + dy * np.cos(angle)) / b
    theta = np.arctan2(v, u)
    waves = sum(np.sin((k + 2) * theta + phases[k]) for k in range(3))
    depth_um = (1 + kind.ragged * waves - np.hypot(u, v)) * min(a, b)
    alpha = np.clip(depth_um / mpp + 0.5, 0, 1)
    if kind.flat:
        return np.rint(255 * alpha).astype(np.uint8)
    tone = 0.36 + 0.3 * (look + 0.5) / N_LOOKS
    chromatin = cv2.resize(cv2.GaussianBlur(noise_um, (3, 3), 0.6), (n, n))
    body = tone + 0.16 * chromatin + 0.15 * np.exp(-((depth_um / 0.7) ** 2))
    if kind.nucleolus:
        body = np.maximum(body, 0.9 * np.exp(-((dx - a / 4) ** 2 + dy**2) / 1.1))
    return np.rint(255 * np.clip(alpha * body, 0, 1)).astype(np.uint8)


@lru_cache(maxsize=1)
def _make_textures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(21)
    textures = {
        "loose": _comb(rng, bundle_px=26, width_px=1.2, steps=6, cloud=1.1),
        "dense": _comb(rng, bundle_px=60, width_px=1.7, steps=13, cloud=0.7),
        "grain": _grain(rng),
        "sensor": np.clip(rng.normal(4, 1.6, (TEXTURE_PX, TEXTURE_PX)), 0, 9),
    }
    return {name: texture.astype(np.uint8) for name, texture in textures.items()}


def _comb(
    rng: np.random.Generator, *, bundle_px: float, width_px: float, steps: int, cloud: float
) -> np.ndarray:
    """Return fibres: noise smeared along a direction field that joins at the tile's sides."""
    side = TEXTURE_PX
    angle = 1.5 * _periodic_noise(rng, 2.5 * bundle_px) + 0.7 * _periodic_noise(rng, bundle_px / 2)
    dx, dy = (2 * np.cos(angle)).astype(np.float32), (2 * np.sin(angle)).astype(np.float32)
    noise = _periodic_noise(rng, width_px)
    ys, xs = np.mgrid[:side, :side].astype(np.float32)
    total = noise.copy()
    for sign in (-1, 1):
        x, y = xs.copy(), ys.copy()
        for _ in range(steps):
            column, row = (np.rint(at).astype(np.int64) % side for at in (x, y))
            x += sign * dx[row, column]
            y += sign * dy[row, column]
            total += noise[row, column]
    clouds = _periodic_noise(rng, 5) + 0.6 * _periodic_noise(rng, 1.5)
    return _level(total / total.std() + cloud * clouds)


def _grain(rng: np.random.Generator) -> np.ndarray:
    mixed = (
        _periodic_noise(rng, 1.2) + 1.2 * _periodic_noise(rng, 4) + 0.6 * _periodic_noise(rng, 14)
    )
    return _level(mixed)


def _periodic_noise(rng: np.random.Generator, sigma_px: float) -> np.ndarray:
    """Return smooth noise of mean 0 and deviation 1 that joins at the sides, (side, side)."""
    frequency = fft.rfft2(rng.standard_normal((TEXTURE_PX, TEXTURE_PX), np.float32))
    fy = fft.fftfreq(TEXTURE_PX)[:, None].astype(np.float32)
    fx = fft.rfftfreq(TEXTURE_PX)[None].astype(np.float32)
    frequency *= np.exp(-2 * (np.pi * sigma_px) ** 2 * fx**2)
    frequency *= np.exp(-2 * (np.pi * sigma_px) ** 2 * fy**2)
    noise = fft.irfft2(frequency, s=(TEXTURE_PX, TEXTURE_PX))
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def _level(values: np.ndarray) -> np.ndarray:
    """Return values with the ranks kept and one histogram for all: even from 0 to 255.

    Textures that share a histogram cannot be told apart by colour.
    """
    edges = np.quantile(values[::4, ::4], np.linspace(0, 1, 257)[1:-1])
    return np.searchsorted(edges, values.ravel()).reshape(values.shape)

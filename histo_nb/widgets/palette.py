"""Colours of probabilities, which read without colour vision too, and pictures as bytes."""

import cv2
import numpy as np

# Viridis at equal steps: rises in lightness, so it reads without colour vision too.
SCALE_RGB = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def paint_probabilities(values: np.ndarray) -> np.ndarray:
    """Return (rows, columns, 4) uint8 RGBA of probabilities 0–1; NaN is clear.

    Low values are nearly clear as well, so that unsuspicious tissue stays to be seen.
    """
    known = np.nan_to_num(values, nan=0.0).clip(0, 1)
    steps = np.linspace(0, 1, len(SCALE_RGB))
    channels = [np.interp(known, steps, channel) for channel in np.transpose(SCALE_RGB)]
    alpha = np.where(np.isnan(values), 0, 255 * known)
    return np.stack([*channels, alpha], axis=-1).round().astype(np.uint8)


def encode_png(rgba: np.ndarray) -> bytes:
    """Return an RGBA picture as the bytes of a PNG file."""
    _, file = cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    return file.tobytes()


def encode_jpeg(rgb: np.ndarray, *, quality: int) -> bytes:
    """Return an RGB picture as the bytes of a JPEG file."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return file.tobytes()

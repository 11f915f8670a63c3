"""Colours: of classes and of probabilities. They stay apart for colour-blind readers."""

from collections.abc import Sequence

import cv2
import numpy as np

NORMAL_COLOUR = "#6b7280"
# The last class takes the first. The first three are of Okabe & Ito, "Color Universal Design"
# (2008); the rest was searched for: each stands out from light and dark panels (3:1), and from each
# other also for readers who lack red or green; `tests/widgets/test_design.py` measures it.
ABNORMAL_COLOURS = (
    *("#d55e00", "#0072b2", "#009e73", "#5454fc"),
    *("#0090fc", "#d80c3c", "#3c90b4", "#3c8448"),
)
# Viridis at equal steps: rises in lightness, so it reads without colour vision too.
SCALE_RGB = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def class_colours(classes: Sequence[str], *, normal_class: str) -> dict[str, str]:
    """Return a CSS colour for each class: grey for the normal one, strong for the others.

    >>> class_colours(["normal", "carcinoma"], normal_class="normal")["carcinoma"]
    '#d55e00'
    """
    abnormal = [name for name in classes if name != normal_class]
    colours = {
        name: ABNORMAL_COLOURS[i % len(ABNORMAL_COLOURS)]
        for i, name in enumerate(reversed(abnormal))
    }
    return {name: colours.get(name, NORMAL_COLOUR) for name in classes}


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

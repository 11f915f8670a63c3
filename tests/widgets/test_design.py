"""The design's promises, measured: contrast by day and by night, colours that stay apart."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import histo_nb.widgets
from histo_nb.export.colours import ABNORMAL_COLOURS, NORMAL_COLOUR

FOLDER = Path(histo_nb.widgets.__file__).parent
DESIGN = (FOLDER / "design.css").read_text("utf-8")
BUILT = {"node_modules", "static"}
FILES = [path for path in sorted(FOLDER.rglob("*.css")) if not BUILT & set(path.parts)]
VARIANTS = ("light", "dark")
TEXT, SIGN = 4.5, 3.0  # WCAG 2.2, 1.4.3 and 1.4.11, level AA
# Token of what is read or seen: tokens of what it stands on.
TEXTS = {
    "ink": "paper ground hover field accent-soft ok-soft danger-soft",
    "quiet": "paper ground hover field accent-soft",
    "accent": "paper ground hover accent-soft",
    "accent-ink": "accent accent-hover",
    "warn-ink": "warn paper ground",
    "ok": "paper ground ok-soft",
    "danger": "paper ground danger-soft",
    "info": "paper ground",
    "paper": "ink",
    "halo": "badge pen",
}
SIGNS = {
    "edge": "paper ground field",
    "accent-line": "paper ground accent-soft",
    "warn-line": "paper ground warn",
    "badge": "glass",
    "pen": "glass halo",
    "focus": "paper ground field hover accent-soft warn",
}
# Colours outside the design, each with its reason: file name → colours.
ALLOWED: dict[str, set[str]] = {}
COLOUR = re.compile(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgba?|hsla?|oklch|lab)\(|\b(?:white|black)\b(?!-)")
# Machado, Oliveira & Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", IEEE TVCG 15 (2009), severity 1.0; on linear RGB.
SIGHT = {
    "trichromat": np.eye(3),
    "protanope": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranope": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
# IEC 61966-2-1: linear sRGB to CIE XYZ, white D65.
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it, 1–21."""
    dark, light = sorted(float(linear(colour) @ XYZ[1]) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(colour: str, *, sight: str) -> np.ndarray:
    """Return CIELAB of a colour as somebody sees it."""
    seen = np.clip(SIGHT[sight] @ linear(colour), 0, 1)
    f = XYZ @ seen / XYZ.sum(axis=1)
    f = np.where(f > (6 / 29) ** 3, np.cbrt(f), f / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: str, other: str) -> float:
    """Return the least distance of two colours (CIELAB, 1976) over the three kinds of sight."""
    return min(
        float(np.linalg.norm(lab(one, sight=sight) - lab(other, sight=sight))) for sight in SIGHT
    )


def tokens() -> dict[str, tuple[str, str]]:
    """Return each colour of the design by day and by night."""
    pattern = r"--h-([\w-]+): light-dark\((#[0-9a-f]{6})\w*, (#[0-9a-f]{6})\w*\);"
    return {name: (day, night) for name, day, night in re.findall(pattern, DESIGN)}


def pairs(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(seen, ground) for seen, grounds in table.items() for ground in grounds.split()]


def test_every_colour_of_the_design_has_a_day_and_a_night():
    declared = re.findall(r"--h-[\w-]+:[^;]*#", DESIGN)
    assert len(declared) == len(tokens()) > 20
    rules = DESIGN.split("color-scheme: light;")[1]  # below the tokens
    assert not COLOUR.findall(rules)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("seen", "ground", "least"),
    [(*pair, TEXT) for pair in pairs(TEXTS)] + [(*pair, SIGN) for pair in pairs(SIGNS)],
)
def test_contrast_is_aa(seen, ground, least, variant):
    i = VARIANTS.index(variant)
    found = contrast(tokens()[seen][i], tokens()[ground][i])
    assert found >= least, f"{seen} on {ground}, {variant}: {found:.2f}"


def test_a_jupyterlab_theme_and_the_readers_system_are_followed_each_in_its_place():
    assert '[data-jp-theme-light="false"] .histo { color-scheme: dark; }' in DESIGN
    assert "[data-voila] .histo { color-scheme: light dark; }" in DESIGN
    assert "prefers-color-scheme" not in DESIGN  # it would darken a light JupyterLab


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_other_file_has_colours_of_its_own(file):
    if file.name == "design.css":
        return
    text = re.sub(r"/\*.*?\*/", "", file.read_text("utf-8"), flags=re.DOTALL)
    values = re.findall(r"[\w-]+\s*:\s*([^;{}]+)[;}]", text)
    found = {colour for value in values for colour in COLOUR.findall(value)}
    assert found - ALLOWED.get(file.name, set()) == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_file_uses_a_token_that_is_none(file):
    used = set(re.findall(r"var\((--h-[\w-]+)", file.read_text("utf-8")))
    assert used <= set(re.findall(r"(--h-[\w-]+):", DESIGN))


CLASSES = (NORMAL_COLOUR, *ABNORMAL_COLOURS)


@pytest.mark.parametrize("colour", CLASSES)
def test_a_class_is_seen_on_every_panel_and_can_be_written_on(colour):
    for ground in ("paper", "ground"):
        for variant, panel in zip(VARIANTS, tokens()[ground], strict=True):
            assert contrast(colour, panel) >= SIGN, f"{ground}, {variant}"
    assert max(contrast(colour, ink) for ink in ("#000000", "#ffffff")) >= TEXT  # `inkOn`, dom.js


def test_classes_stay_apart_without_red_or_green():
    """A just noticeable difference is about 2.3; the usual slide has four classes at most."""
    assert min(itertools.starmap(distance, itertools.combinations(CLASSES[:4], 2))) > 19
    assert min(itertools.starmap(distance, itertools.combinations(CLASSES, 2))) > 15

"""Colours of classes, the same on every page and in every file, apart for colour-blind readers."""

from collections.abc import Sequence

NORMAL_COLOUR = "#6b7280"
# The last class takes the first. The first three are of Okabe & Ito, "Color Universal Design"
# (2008); the rest was searched for: each stands out from light and dark panels (3:1), and from each
# other also for readers who lack red or green; `tests/widgets/test_design.py` measures it.
ABNORMAL_COLOURS = (
    *("#d55e00", "#0072b2", "#009e73", "#5454fc"),
    *("#0090fc", "#d80c3c", "#3c90b4", "#3c8448"),
)
TISSUE_COLOUR = "#e69f00"  # Okabe & Ito's orange: an outline over pink and violet tissue


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


def rgb(colour: str) -> tuple[int, int, int]:
    """Return a CSS colour as red, green and blue, 0–255.

    >>> rgb("#d55e00")
    (213, 94, 0)
    """
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue

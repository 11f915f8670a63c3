"""What a slide's report says of how its answer came about: facts, limits, hashes of all inputs."""

from collections.abc import Mapping
from typing import Any

from histo_nb import __version__
from histo_nb.export.words import UNKNOWN, say_code, say_count, say_duration
from histo_nb.inference.result import SlideResult
from histo_nb.inference.trust import reasons_for_doubt


def list_facts(result: SlideResult) -> list[tuple[str, str]]:
    """Return what was found and how, each with its name."""
    shares = sorted(result.class_fractions.items(), key=lambda item: -item[1])
    return [
        ("Tissue by class", ", ".join(f"{name} {share:.0%}" for name, share in shares)),
        ("Tissue examined", f"{result.tissue_mm2:.3g} mm² in {say_count(result.n_tiles, 'tile')}"),
        ("Rule", result.rule),
        ("Computed with", f"{result.runtime}, in {say_duration(result.seconds)}"),
    ]


def list_limits(result: SlideResult) -> list[str]:
    """Return what the answer does not say, in plain words."""
    return [
        "Research use only: it is no diagnosis, and no part of a patient's treatment.",
        f"It knows {', '.join(result.classes)} and nothing else: whatever lies on the slide, each "
        "tile gets one of these classes.",
        f"Only the {result.tissue_mm2:.3g} mm² of tissue that were cut into tiles were examined. "
        "What was taken for glass, and edges with too little tissue, were not.",
        _say_unreadable(result.n_failures),
        _say_doubts(result),
    ]


def _say_unreadable(n: int) -> str:
    if not n:
        return "Every tile could be read."
    return f"{say_count(n, 'tile')} could not be read; what they show was not examined."


def _say_doubts(result: SlideResult) -> str:
    n = len(reasons_for_doubt(result))
    if n:
        return f"There {'is a reason' if n == 1 else f'are {n} reasons'} for doubt; see above."
    return "No reason for doubt was found, which proves nothing."


def find_inputs(
    result: SlideResult, *, slide: Mapping[str, Any], result_sha256: str
) -> list[tuple[str, str]]:
    """Return by name and hash what decided an answer, the answer itself, and the code.

    Results of earlier versions say little of it; that is unknown then.
    """
    made = result.provenance or {}
    model, code, packages = (made.get(name) or {} for name in ("model", "code", "packages"))
    # the catalogue's hash may be of a later scan: a result that does not say is of neither
    sha256 = (made.get("slide") or {}).get("sha256")
    return [
        ("Slide, SHA-256", sha256 or f"{UNKNOWN}; of the file now: {slide['sha256']}"),
        ("Tissue mask, SHA-256", (made.get("mask") or {}).get("sha256") or UNKNOWN),
        ("Tiles, SHA-256", made.get("tiles_sha256") or UNKNOWN),
        ("Model", result.model_id),
        ("Weights, SHA-256", model.get("weights_sha256") or UNKNOWN),
        ("Gate, SHA-256", model.get("gate_sha256") or (UNKNOWN if not model else "none")),
        ("Result, SHA-256", result_sha256),
        ("Code", _say_version(code)),
        ("Packages", _say_packages(packages)),
        ("This report", f"histo_nb {__version__}"),
    ]


def _say_version(code: Mapping[str, Any]) -> str:
    return f"histo_nb {code['version']}, {say_code(code)}" if code else UNKNOWN


def _say_packages(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items()) or UNKNOWN

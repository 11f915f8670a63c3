"""The card of a model as a page or on paper: what it is for, learnt from, worth, and not for.

It is drawn from what lies in the registry and with the data set; nothing is measured again. Loads
no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo_nb.catalog import now
from histo_nb.export.model_facts import PARTS, read_certificate, say_gate, say_test
from histo_nb.export.model_limits import list_limits, list_misuses, list_uses
from histo_nb.export.templates import Kind, check_kind, kind_of, render, write_document
from histo_nb.export.unnamed import unnamed
from histo_nb.export.words import UNKNOWN, say_count, say_number, say_time
from histo_nb.home import Home
from histo_nb.inference.rule import SlideRule
from histo_nb.model.card import Card
from histo_nb.model.registry import describe_model
from histo_nb.model.seal import is_passed

SCORES = {  # of the gate: what it says, where it stands, the least that is asked
    "Balanced accuracy": ("balanced_accuracy", "min_balanced_accuracy"),
    "Accuracy": ("accuracy", "min_accuracy"),
    "AUC, mean of the classes": ("auc_macro", None),
}


@dataclass(frozen=True, kw_only=True)
class Score:
    """A figure between 0 and 1, as it is drawn."""

    name: str
    value: float | None
    low: float | None = None  # 95 % interval over patients
    high: float | None = None
    least: float | None = None  # that the gate asks for


@dataclass(frozen=True, kw_only=True)
class Period:
    """A time in which a model served."""

    since: str
    until: str
    who: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """All that a card says, in words and figures."""

    model_id: str
    classes: list[str]
    verdict: str
    passed: bool  # by no lowered criteria
    serves: bool
    uses: list[str]
    misuses: list[str]
    limits: list[str]
    scores: list[Score]
    tested: str  # on how many patients, slides and tiles
    by_class: list[tuple[str, ...]]  # class, tiles, recall, precision, F1, AUC
    confusion: list[list[int]]  # truth down, prediction across; [] if none is known
    measured: list[tuple[str, str]]
    data: list[tuple[str, ...]]  # class, then each part, then copies
    split: list[tuple[str, str]]
    training: list[tuple[str, str]]
    reading: list[tuple[str, str]]
    rule: str
    runtimes: list[tuple[str, ...]]  # name, ms a tile, difference, changed, slides, verdict
    runtimes_on: str
    periods: list[Period]
    sums: list[tuple[str, str]]
    written_at: str


def write_model_card(home: Home, model_id: str, path: Path) -> Path:
    """Write a model's card as the kind that the path's suffix names, .html or .pdf; return it.

    Raises
    ------
    SpecError
        The suffix is another one.
    BundleError
        There is no such model, or it is damaged.
    PrintError
        A PDF is asked for, and this machine cannot set type.
    """
    path = Path(path)
    return write_document(make_model_card(home, model_id, kind=kind_of(path)), path)


def make_model_card(home: Home, model_id: str, *, kind: Kind = "html") -> bytes:
    """Return a model's card as the bytes of a file; see `write_model_card`."""
    check_kind(kind)
    return render("model_card.html.j2", kind=kind, m=collect_model_card(home, model_id))


def collect_model_card(home: Home, model_id: str) -> ModelCard:
    """Return what the card of a model says.

    Raises
    ------
    BundleError
        There is no such model, or it is damaged.
    """
    known = describe_model(home, model_id)
    card, gate = Card(**known["card"]), known["gate"]
    certificate = read_certificate(home, card)
    figures = gate if gate and "balanced_accuracy" in gate else {}
    return ModelCard(
        model_id=model_id,
        classes=card.classes,
        verdict=say_gate(gate),
        passed=is_passed(gate),
        serves=known["production"],
        uses=list_uses(card),
        misuses=list_misuses(card),
        limits=list_limits(card, gate=gate, certificate=certificate),
        scores=_scores(figures),
        tested=say_test(figures) if figures else UNKNOWN,
        by_class=_by_class(figures, card.classes),
        confusion=figures.get("confusion", []),
        measured=_measured(figures),
        data=_data(certificate, card.classes),
        split=_split(certificate, card),
        training=_training(card),
        reading=_reading(card),
        rule=SlideRule.from_card(card.slide_rule).describe(card.normal_class),
        runtimes=_runtimes(known["prepared"]),
        runtimes_on=_say_machine(known["prepared"]),
        periods=[_period(entry) for entry in known["served"]],
        sums=_sums(card, gate, known["prepared"]),
        written_at=say_time(now()),
    )


def _scores(figures: Mapping[str, Any]) -> list[Score]:
    """Return what is drawn: the model, its worst class, and what colour alone reaches."""
    if not figures:
        return []
    asked, intervals = figures.get("spec", {}), figures["intervals"]
    scores = [
        _score(name, figures.get(key), intervals.get(key), asked.get(least))
        for name, (key, least) in SCORES.items()
    ]
    for label, recall in figures["recall"].items():
        scores.append(_score(f"Recall of {label}", recall, None, asked.get("min_class_recall")))
    for name, found in figures.get("baseline_figures", {}).items():
        interval = found["intervals"].get("balanced_accuracy")
        title = f"Colour alone: {name.replace('_', ' ')}"
        scores.append(_score(title, found["balanced_accuracy"], interval, None))
    return scores


def _score(name: str, value: float | None, interval: Any, least: float | None) -> Score:
    low, high = interval or (None, None)
    return Score(name=name, value=value, low=low, high=high, least=least)


def _by_class(figures: Mapping[str, Any], classes: list[str]) -> list[tuple[str, ...]]:
    if not figures:
        return []
    columns = [figures.get(name) or {} for name in ("recall", "precision", "f1", "auc")]
    return [
        (label, f"{figures['n'].get(label, 0):,}", *(say_number(c.get(label)) for c in columns))
        for label in classes
    ]


def _measured(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the gate measured beside the scores."""
    if not figures:
        return []
    slides, raw = figures["slides"], figures["uncalibrated"]
    before = f"; {say_number(raw['ece'])} without its temperature" if raw else ""
    most = (figures.get("spec") or {}).get("max_ece")
    limit = "" if most is None else f" (at most {most:g} is allowed)"
    return [
        ("Slides", f"{say_number(slides['accuracy'])} right of {slides['n_slides']}"),
        ("Calibration error", f"{say_number(figures['ece'])}{limit}{before}"),
        ("Brier score, log-loss", f"{say_number(figures['brier'])}, {say_number(figures['nll'])}"),
        ("Looks at the test part", _say_looks(figures)),
        ("Verdicts before this one", str(len(figures.get("earlier", [])))),
    ]


def _say_looks(figures: Mapping[str, Any]) -> str:
    if "looks" not in figures:
        return UNKNOWN
    return (
        f"{say_count(figures['looks'], 'look')} by this model, {figures['looks_of_test_part']} by "
        "any; the more, the more luck is in a good figure"
    )


def _data(certificate: Mapping[str, Any] | None, classes: list[str]) -> list[tuple[str, ...]]:
    if certificate is None:
        return []
    return [
        (
            label,
            *(_say_part(certificate, side, label) for side in PARTS),
            f"{certificate['copies'].get(label, 0):,}",
        )
        for label in classes
    ]


def _say_part(certificate: Mapping[str, Any], side: str, label: str) -> str:
    tiles, slides, patients = (
        certificate[what].get(side, {}).get(label, 0) for what in ("tiles", "slides", "patients")
    )
    return (
        f"{say_count(tiles, 'tile')}, {say_count(slides, 'slide')}, "
        f"{say_count(patients, 'patient')}"
    )


def _split(certificate: Mapping[str, Any] | None, card: Card) -> list[tuple[str, str]]:
    rows = [("Data set", card.dataset_id), ("Certificate, SHA-256", card.certificate_sha256)]
    if certificate is None:
        return [*rows, ("What it proves", "unknown: the data set is no longer here")]
    return [
        *rows,
        ("It proves", "; ".join(certificate["checked"])),
        ("It does not know", "; ".join(certificate["unknown"]) or "nothing that it asks"),
        ("Test part, SHA-256", certificate["test_sha256"]),
    ]


def _training(card: Card) -> list[tuple[str, str]]:
    width = ", ".join(f"{name} {value}" for name, value in card.network_args.items())
    recipe = ", ".join(f"{name.replace('_', ' ')} {_short(v)}" for name, v in card.recipe.items())
    chosen = f"epoch {card.best_epoch}, by the {PARTS.get(card.select_on, card.select_on)} part"
    validation = card.validation.get("balanced_accuracy")
    return [
        ("Trained", say_time(card.created_at) if "T" in card.created_at else card.created_at),
        ("Network", f"{card.network}{f' ({width})' if width else ''}"),
        ("Recipe", recipe),
        ("Chosen", f"{chosen}: balanced accuracy {say_number(validation)} there"),
        ("Temperature", f"{card.temperature:.3f}; the logits are divided by it"),
    ]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _reading(card: Card) -> list[tuple[str, str]]:
    scale = "unknown" if card.mpp is None else f"{card.mpp:g} µm/px"
    shown = "" if card.mpp is None else f", {card.tile_size * card.mpp:g} µm of tissue"
    return [
        ("Tile", f"{card.tile_size} px at {scale}{shown}"),
        ("Read from", card.read_path),
        ("Stored, shown", f"{card.store_size} px, then {card.image_size} px to the network"),
        ("Normalised by", f"mean and {card.normalize} of the training tiles"),
        *((name.capitalize(), _say_channels(v)) for name, v in card.statistics.items()),
    ]


def _say_channels(values: list[float]) -> str:
    return ", ".join(f"{c} {v:.4f}" for c, v in zip("RGB", values, strict=False))


def _runtimes(prepared: Mapping[str, Any] | None) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{found['ms_per_tile']:.2f}",
            f"{found['max_difference']:.2g}",
            f"{found['changed']:.2%}",
            str(found["slides_changed"]),
            "passed" if found["passed"] else "; ".join(found["faults"]),
        )
        for name, found in (prepared or {}).get("runtimes", {}).items()
    ]


def _say_machine(prepared: Mapping[str, Any] | None) -> str:
    """Return where and on what the runtimes were compared."""
    if not prepared or "runtimes" not in prepared:
        return "It was not prepared for analysis here, so that nothing was compared."
    packages = ", ".join(f"{name} {v}" for name, v in prepared["packages"].items())
    return (
        f"Compared with fp32 on torch over {say_count(prepared['n_tiles'], 'validation tile')} of "
        f"{say_count(prepared['n_slides'], 'slide')}, {say_time(prepared['at'])}, "
        f"{say_count(prepared['n_threads'], 'thread')} of {prepared['cpu']}; {packages}."
    )


def _period(entry: Mapping[str, Any]) -> Period:
    until = entry["until"]
    return Period(
        since=say_time(entry["since"]),
        until=say_time(until) if until else "now",
        who=str(entry.get("who") or UNKNOWN),
        reason=unnamed(str(entry["reason"])),
    )


def _sums(
    card: Card, gate: Mapping[str, Any] | None, prepared: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    packages = ", ".join(f"{name} {version}" for name, version in card.packages.items())
    return [
        ("Weights, SHA-256", card.weights_sha256),
        ("Gate, SHA-256", str((gate or {}).get("sha256", "none"))),
        ("Runtimes, SHA-256", str((prepared or {}).get("sha256", "none"))),
        ("Trained with", packages or UNKNOWN),
    ]

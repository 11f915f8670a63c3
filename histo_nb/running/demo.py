"""The main job end to end, on virtual slides, in a home of its own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from histo_nb.balancing.dataset import make_dataset
from histo_nb.balancing.split import SplitSpec
from histo_nb.home import Home, open_home
from histo_nb.inference.pipeline import analyse_slides
from histo_nb.inference.result import read_result
from histo_nb.inference.verdict import true_slide_class
from histo_nb.masking.masks import mask_slides
from histo_nb.model.registry import promote
from histo_nb.scanning.console import scan_rack
from histo_nb.scanning.virtual.rack import RackSpec, fill_rack
from histo_nb.tiling.grid import TileSpec, tile_slides
from histo_nb.tiling.labels import label_slides
from histo_nb.tiling.table import file_tiles, tile_table_path
from histo_nb.training.gate import score
from histo_nb.training.learner import TrainSpec, train
from histo_nb.training.prepare import prepare_model

DEMOS = "demo"  # folder of the homes of demos
LAID_TILES = TileSpec(tile_size=448, stride=224)  # fits images of some 900 × 600 px at 0.5 µm/px


@dataclass(frozen=True, kw_only=True)
class DemoSpec:
    """What the demo runs: the system's defaults, with a narrow network and a quick recipe."""

    rack: RackSpec = field(default_factory=RackSpec)
    tiles: TileSpec = field(default_factory=TileSpec)
    training: TrainSpec = field(
        default_factory=lambda: TrainSpec(recipe="quick", network_args={"width": 0.25})
    )
    split: SplitSpec = field(default_factory=SplitSpec)

    @classmethod
    def laid(cls, rack: RackSpec) -> "DemoSpec":
        """Return the spec for slides laid from a folder of images: smaller, overlapping tiles."""
        spec = cls(rack=rack, tiles=LAID_TILES)
        return replace(spec, training=replace(spec.training, normal_class=rack.severity[0]))


def run_demo(home: Home, *, spec: DemoSpec | None = None) -> dict[str, Any]:
    """Scan, mask, tile, balance, train, gate and analyse; return figures, seconds and paths.

    A model that fails the gate is put into production all the same, with that reason on record,
    and every page says so: a demo shows its results, good or bad.
    """
    spec = spec or DemoSpec()
    seconds: dict[str, float] = {}
    with _timed(seconds, "scan"):
        slides = scan_rack(fill_rack(spec.rack), home)
    slide_ids = slides.slide_id.tolist()
    with _timed(seconds, "mask"):
        _, unmasked = mask_slides(home, slide_ids)
    with _timed(seconds, "tile"):
        masked = [name for name in slide_ids if name not in set(unmasked.slide_id)]
        tiles, untiled = tile_slides(home, masked, spec=spec.tiles)
        tiles = label_slides(home, tiles)
        file_tiles(tiles, home)
    with _timed(seconds, "balance"):
        dataset = make_dataset(tiles, home, split=spec.split)
    with _timed(seconds, "train"):
        model_id = train(dataset, home, spec=spec.training)
    with _timed(seconds, "gate"):
        gate = _gate(home, model_id)
    with _timed(seconds, "prepare"):
        prepare_model(home, model_id)
    with _timed(seconds, "analyse"):
        folders, failures = analyse_slides(home, sorted(set(tiles.slide_id)))
    truth = {
        str(slide_id): true_slide_class(rows.label, spec.training.normal_class)
        for slide_id, rows in dataset.rows[dataset.rows.split == "test"].groupby("slide_id")
    }
    verdicts = {result.slide_id: result.slide_class for result in map(read_result, folders)}
    return {
        "slides": len(slides),
        "patients": int(slides.patient_id.nunique()),
        "tiles": len(tiles),
        "model_id": model_id,
        "gate_passed": gate["passed"],
        "gate_reasons": gate["reasons"],
        "test_patients": gate["n_patients"],
        "test_tiles": gate["n_tiles"],
        "accuracy": gate["accuracy"],
        "balanced_accuracy": gate["balanced_accuracy"],
        "intervals": gate["intervals"],
        "recall": gate["recall"],
        "baselines": gate["baselines"],
        "test_slides": len(truth),
        "slide_correct": sum(verdicts.get(name) == label for name, label in truth.items())
        / max(len(truth), 1),
        "failures": [*unmasked.to_dict("records"), *untiled.to_dict("records"),
                     *failures.to_dict("records")],
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "paths": {
            "home": str(home.root),
            "tiles": str(tile_table_path(home)),
            "dataset": str(dataset.folder),
            "model": str(home.models / model_id),
            "results": str(home.results),
        },
    }  # fmt: skip


def fresh_home(home: Home) -> Home:
    """Return a new home for one demo, in the folder `demo` of `home`, with its own catalogue."""
    return open_home(home.root / DEMOS / time.strftime("%Y%m%d-%H%M%S"), own_catalog=True)


def home_with_results(home: Home) -> Home:
    """Return `home` if it has results, else the newest demo in it that has some, else `home`."""
    demos = sorted((home.root / DEMOS).glob("*/"), reverse=True)
    for candidate in (home, *map(open_home, demos)):
        if not candidate.catalog.results().empty:
            return candidate
    return home


def _gate(home: Home, model_id: str) -> dict[str, Any]:
    gate = score(home, model_id)
    if not gate["passed"]:
        reasons = "; ".join(gate["reasons"])
        reason = f"demonstration only, the gate was not passed: {reasons}"
        promote(home, model_id, reason=reason, despite_gate=True)
    return gate


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started

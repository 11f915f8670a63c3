"""How fast slides are analysed: ours, the loop that people write, TIAToolbox, WSInfer, LazySlide.

`python benchmarks/inference.py --setup` makes one environment a peer (20 GB, once). Then
`HISTO_DATA=… python benchmarks/inference.py --model FOLDER --slide all` prints one table a slide
and writes all of it as JSON. FOLDER is a bundle (`card.json`, `model.safetensors`); every
contender gets its weights. Runs are interleaved: each round runs every contender once, each in a
process of its own. `wall_s` is from the file to the tiles' probabilities, without imports; ours
opens the network in it and goes on to regions, verdict and the written result (`own_s` leaves mask
and opening out). `command_s` is the whole process, imports included, for everybody. `cpu_s` and
`mb` are of the whole process with its children. `x_plain` and `x_peer` say how many times faster
than the plain loop and the fastest peer; `same`, the share of tiles whose class is that of exact
reading and PyTorch fp32 at the same place.
`--what limit|linear|memory|start` measures one of those instead; `--quick` takes small slides.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from peers.limits import BATCH, measure_limits
from peers.slides import LEVELS, BenchSlide, find_data, make_slide
from peers.watch import run_measured

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from histo_nb.home import Home, open_home  # noqa: E402
from histo_nb.masking.masks import mask_path  # noqa: E402
from histo_nb.model.registry import production_entry, promote  # noqa: E402
from histo_nb.scanning.intake import IntakeSpec, take_in  # noqa: E402
from histo_nb.slide import Slide  # noqa: E402

TORCH = ("torch==2.14.1", "torchvision==0.29.1")
PEERS = {
    "tiatoolbox": ("torch==2.12.0", "torchvision==0.27.0", "tiatoolbox==2.1.3"),  # torch<2.13
    "wsinfer": (*TORCH, "wsinfer==0.6.1", "zarr<3", "tiffslide<3"),
    "lazyslide": (*TORCH, "lazyslide==0.13.0", "openslide-python", "openslide-bin"),
}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# contender → the script that runs it, and what its job says
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("plain", {}),
    "wsinfer": ("wsinfer", {}),
    "wsinfer-speedup": ("wsinfer", {"speedup": True}),
    "tiatoolbox": ("tiatoolbox", {}),
    "tiatoolbox-coarse": ("tiatoolbox", {"coarse": True}),
    "lazyslide": ("lazyslide", {}),
    "lazyslide-coarse": ("lazyslide", {"coarse": True}),
}
OURS = {
    "ours-torch": ("--runtime", "torch", "--precision", "fp32"),
    "ours-fp32": ("--runtime", "openvino", "--precision", "fp32"),
    "ours-bf16": ("--runtime", "openvino", "--precision", "bf16"),
    "ours-int8": ("--runtime", "openvino", "--precision", "int8"),
    "ours-default": (),
}


class Bench:
    """The cache folder, the model as every contender gets it, and a home for ours."""

    def __init__(self, cache: Path, model: Path, *, timeout_s: float, workers: int) -> None:
        self.cache, self.bundle = cache, model.resolve()
        self.timeout_s, self.workers = timeout_s, workers
        self.card = json.loads((model / "card.json").read_text())
        self.torchscript = cache / "models" / f"{self.card['model_id']}.pt"
        if not self.torchscript.is_file():
            write_torchscript(self.bundle, self.torchscript)
        self.home = prepare_home(cache / "home", self.bundle)
        (cache / "scratch").mkdir(parents=True, exist_ok=True)

    @contextmanager
    def job(self, slide: Path, **said: Any) -> Iterator[Path]:
        """Write what a contender's script is told; remove it and its scratch folder after."""
        card = self.card
        with Slide(slide) as opened:
            slide_mpp = opened.slide_mpp
        with tempfile.TemporaryDirectory(dir=self.cache / "scratch") as scratch:
            content = {"slide": str(slide), "bundle": str(self.bundle), "batch": BATCH,
                       "torchscript": str(self.torchscript), "slide_mpp": slide_mpp,
                       "scratch": scratch, "workers": self.workers} | said  # fmt: skip
            content |= {name: card[name] for name in ("classes", "tile_size", "mpp", "image_size")}
            path = Path(scratch) / "job.json"
            path.write_text(json.dumps(content))
            yield path

    def reference(self, slide: Path, places: list[tuple[int, int]] | None = None) -> dict[str, Any]:
        """Return the probabilities of our tiles, or those at `places`, made once for each.

        Exact reading, PyTorch, fp32.
        """
        said = {"x": [x for x, _ in places], "y": [y for _, y in places]} if places else {}
        name = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:8] if said else "ours"
        path = self.cache / "reference" / f"{slide.stem}-{self.card['model_id']}-{name}.json"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            with self.job(slide, **said) as job:
                command = [sys.executable, str(HERE / "peers/reference.py"), str(job)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            path.write_text(done.stdout.splitlines()[-1])
        return json.loads(path.read_text())

    def compare(self, slide: Path, run: dict[str, Any]) -> tuple[float, int]:
        """Return the share of tiles with the reference's class, and how many were compared.

        Those of a peer are compared with the reference at its own places inside the slide.
        """
        places = list(zip(run["x"], run["y"], strict=True))
        reference = self.reference(slide)
        if set(places) - set(zip(reference["x"], reference["y"], strict=True)):
            reference = self.reference(slide, places)
        known = dict(
            zip(
                zip(reference["x"], reference["y"], strict=True),
                np.argmax(reference["prob"], axis=1),
                strict=True,
            )
        )
        found = zip(places, np.argmax(run["prob"], axis=1), strict=True)
        same = [known[place] == best for place, best in found if place in known]
        return float(np.mean(same)), len(same)

    def run(self, name: str, slide: Path) -> dict[str, Any]:
        """Run one contender once; a failure is an answer too."""
        try:
            return self._run_ours(name, slide) if name in OURS else self._run_script(name, slide)
        except (OSError, ValueError, LookupError, RuntimeError) as error:
            return {"error": " ".join(str(error).split())[-300:]}

    def _run_script(self, name: str, slide: Path) -> dict[str, Any]:
        script, said = CONTENDERS[name]
        python, environment = Path(sys.executable), dict(os.environ)
        if script in PEERS:
            folder = self.cache / "venvs" / script
            python = folder / "bin/python"
            if not (folder / "ready").is_file():
                raise LookupError("not installed: run --setup, see setup.log in the cache folder")
            # peers make folders in the user's home and would ask the network for models
            environment |= {"HOME": str(self.cache / "scratch"), "HF_HUB_OFFLINE": "1"}
        else:
            found = self.reference(slide)
            said = said | {key: found[key] for key in ("x", "y", "size_l0")}
        with self.job(slide, **said) as job:
            command = [str(python), str(HERE / "peers" / f"{script}.py"), str(job)]
            out, measured = run_measured(command, environment, self.timeout_s)
        return measured | json.loads(out.splitlines()[-1])

    def _run_ours(self, name: str, slide: Path) -> dict[str, Any]:
        slide_id = file_slide(self.home, slide)
        # the whole job each time: neither an earlier result nor the mask may be there
        shutil.rmtree(self.home.results / slide_id, ignore_errors=True)
        for path in self.home.masks.glob(f"{mask_path(self.home, slide_id).stem}*"):
            path.unlink()
        program = str(Path(sys.executable).with_name("histo-nb"))
        command = [program, "analyse", slide_id, "--json", "--home", str(self.home.root)]
        out, measured = run_measured([*command, *OURS[name]], dict(os.environ), self.timeout_s)
        said = json.loads(out.splitlines()[-1])
        result = said["results"][0]
        rows = pd.read_parquet(Path(result["path"]) / "predictions.parquet")
        columns = [f"prob_{label}" for label in self.card["classes"]]
        return measured | {"wall_s": said["seconds"], "own_s": result["seconds"],
                           "x": rows.x.tolist(), "y": rows.y.tolist(),
                           "prob": rows[columns].to_numpy().tolist()}  # fmt: skip


def set_up(cache: Path) -> None:
    """Make the environment of each peer that has none; what cannot be installed is said."""
    for name, wanted in PEERS.items():
        folder = cache / "venvs" / name
        ready = folder / "ready"
        if ready.is_file() and ready.read_text() == " ".join(wanted):
            print(f"{name}: ready")
            continue
        ready.unlink(missing_ok=True)
        if not (folder / "bin/python").exists():
            venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
        print(f"{name}: installing {' '.join(wanted)} …", flush=True)
        command = [str(folder / "bin/python"), "-m", "pip", "install", "-q", *wanted]
        with (folder / "setup.log").open("w") as log:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode == 0:
            ready.write_text(" ".join(wanted))
        print(f"{name}: {'ready' if done.returncode == 0 else f'failed, see {folder}/setup.log'}")


def prepare_home(root: Path, bundle: Path) -> Home:
    """Return a home with the bundle in production."""
    home = open_home(root)
    shutil.copytree(bundle, home.models / bundle.name, dirs_exist_ok=True)
    if (production_entry(home) or {}).get("model_id") != bundle.name:
        promote(home, bundle.name, reason="benchmark", despite_gate=True)
    return home


def file_slide(home: Home, slide: Path) -> str:
    """Return the id of a slide in the catalogue; it is taken in the first time."""
    known_path = home.root / "benchmark_slides.json"
    known = json.loads(known_path.read_text()) if known_path.is_file() else {}
    if str(slide) not in known:
        rows, refused = take_in([slide], home, spec=IntakeSpec())
        if not len(rows):
            raise LookupError(f"intake refused {slide.name}: {refused.error.iloc[0]}")
        known[str(slide)] = rows.slide_id.iloc[0]
        known_path.write_text(json.dumps(known))
    return str(known[str(slide)])


def write_torchscript(bundle: Path, path: Path) -> None:
    """Write the network as TorchScript: RGB 0–1 (N, 3, S, S) → logits; normalising is inside."""
    import torch  # noqa: PLC0415

    from histo_nb.model.bundle import open_bundle  # noqa: PLC0415

    opened = open_bundle(bundle)
    card = opened.card

    class Normalised(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = opened.network
            for name, of in (("mean", "mean"), ("std", card.normalize)):
                values = torch.tensor(card.statistics[of])[:, None, None]
                self.register_buffer(name, values)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network((images - self.mean) / self.std) / card.temperature

    path.parent.mkdir(parents=True, exist_ok=True)
    example = torch.rand(2, 3, card.image_size, card.image_size)
    with torch.no_grad():
        torch.jit.trace(Normalised().eval(), example).save(str(path))


def run_rounds(
    bench: Bench, slide: Path, names: list[str], n_rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Run all contenders in turn, round by round. One that failed is not tried again."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(n_rounds):
        for name, done in runs.items():
            if any("error" in run for run in done):
                continue
            run = bench.run(name, slide)
            done.append(run)
            said = run.get("error") or f"{run['wall_s']:.1f} s, {len(run['x'])} tiles"
            print(f"round {number + 1}, {name}: {said}", file=sys.stderr, flush=True)
    return runs


def summarise(
    bench: Bench,
    slide: Path,
    runs: dict[str, list[dict[str, Any]]],
    limits: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return one row a contender: medians, ratios, share of equal classes, share of the limit."""
    rows = []
    for name, done in runs.items():
        if errors := [run["error"] for run in done if "error" in run]:
            rows.append({"contender": name, "error": errors[0]})
            continue
        row: dict[str, Any] = {"contender": name, "tiles": len(done[0]["x"])}
        for key in ("wall_s", "import_s", "own_s", "command_s", "cpu_s", "mb"):
            values = [run[key] for run in done if key in run]
            row[key] = statistics.median(values) if values else None
        row["torch"] = any(run["torch"] for run in done)
        if limits is not None:
            row["same"], row["compared"] = bench.compare(slide, done[-1])
        limit = (limits or {}).get(name.removeprefix("ours-"))
        row["of_limit"] = limit["limit_s"] / row["wall_s"] if limit else None
        rows.append(row)
    peers = [r["wall_s"] for r in rows if r["contender"].split("-")[0] in PEERS and "wall_s" in r]
    plain = [r["wall_s"] for r in rows if r["contender"] == "plain" and "wall_s" in r]
    for row in rows:
        if "wall_s" in row:
            row["x_plain"] = plain[0] / row["wall_s"] if plain else None
            row["x_peer"] = min(peers) / row["wall_s"] if peers else None
            row["ms_a_tile"] = 1000 * row["wall_s"] / row["tiles"]
            row["cpu_ms_a_tile"] = 1000 * row["cpu_s"] / row["tiles"]
    return rows


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(f"\n### {title}\n\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        print(f"| {' | '.join(say(row.get(name)) for name in names)} |")


def say(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.4g}"  # noqa: PLR0124 (NaN)
    return "–" if value is None else str(value).replace("|", "/")


def measure_slides(bench: Bench, asked: argparse.Namespace) -> dict[str, Any]:
    """Print and return a table a slide of all contenders."""
    told = {}
    for name, slide in choose_slides(bench.cache / "slides", asked).items():
        limits = find_limits(bench, slide)
        runs = run_rounds(bench, slide, asked.only, asked.rounds)
        told[name] = summarise(bench, slide, runs, limits)
        show(f"{name}, {asked.rounds} rounds, {CORES} cores", told[name])
    return told


def find_limits(bench: Bench, slide: Path) -> dict[str, dict[str, Any]]:
    """Return the limit at each precision that can be measured here; print them."""
    found, n_cores = bench.reference(slide), CORES
    limits = measure_limits(slide, found, bench.bundle, bench.torchscript, n_cores=n_cores)
    show(f"Limit of {slide.stem}", [{"precision": name} | row for name, row in limits.items()])
    return limits


def measure_limits_only(bench: Bench, asked: argparse.Namespace) -> dict[str, Any]:
    slides = choose_slides(bench.cache / "slides", asked)
    return {name: find_limits(bench, slide) for name, slide in slides.items()}


def measure_linear(bench: Bench, asked: argparse.Namespace) -> dict[str, Any]:
    """Print and return time and memory of 1, 4, 16 and 64 times the tissue on one size of glass."""
    side, least, times = (15_360, 6, (1, 4, 16)) if asked.quick else (61_440, 25, (1, 4, 16, 64))
    told = []
    for factor in times:
        spec = BenchSlide(name="linear", size=(side, side), n_tissue=least * factor)
        slide = make_slide(spec, bench.cache / "slides")
        runs = run_rounds(bench, slide, ours_of(asked), asked.rounds)
        told += [{"tissue": factor} | row for row in summarise(bench, slide, runs)]
    show(f"Tissue ×1–×{times[-1]} on {side:,} × {side:,} px", told)
    return {"linear": told}


def measure_memory(bench: Bench, asked: argparse.Namespace) -> dict[str, Any]:
    """Print and return the memory of a very large slide, and whether torch was loaded."""
    side, n_tissue = (20_000, 24) if asked.quick else (100_000, 400)
    spec = BenchSlide(name="large", size=(side, side), n_tissue=n_tissue)
    slide = make_slide(spec, bench.cache / "slides")
    told = summarise(bench, slide, run_rounds(bench, slide, ours_of(asked), asked.rounds))
    show(f"{side:,} × {side:,} px", told)
    return {"memory": told}


def measure_start(bench: Bench, asked: argparse.Namespace) -> dict[str, Any]:
    """Print and return the seconds of the whole command on a slide of four tiles, warm."""
    slide = find_data("CMU-1-Small-Region.svs")
    if slide is None:
        raise SystemExit("set HISTO_DATA to a folder with CMU-1-Small-Region.svs")
    for name in ours_of(asked):
        bench.run(name, slide)  # files into memory
    told = summarise(bench, slide, run_rounds(bench, slide, ours_of(asked), asked.rounds))
    show("Start: command_s to the answer on CMU-1-Small-Region", told)
    return {"start": told}


def ours_of(asked: argparse.Namespace) -> list[str]:
    return [name for name in asked.only if name in OURS]


def choose_slides(folder: Path, asked: argparse.Namespace) -> dict[str, Path]:
    """Return the slides that were asked for, made if they are not there."""
    small = {"size": (12_000, 9_000), "n_tissue": 24} if asked.quick else {}
    names = [*LEVELS, "cmu"] if asked.slide == "all" else [asked.slide]
    slides = {
        name: make_slide(BenchSlide(name=name, downsamples=LEVELS[name], **small), folder)
        for name in names
        if name in LEVELS
    }
    if "cmu" in names and (real := find_data("CMU-1-Small-Region.svs")):
        slides["cmu"] = real
    return slides


WHAT = {"slides": measure_slides, "limit": measure_limits_only, "linear": measure_linear,
        "memory": measure_memory, "start": measure_start}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setup", action="store_true", help="install the peers, each on its own")
    parser.add_argument("--model", type=Path, help="folder of a bundle")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/histo_nb/benchmark"))
    parser.add_argument("--what", choices=WHAT, default="slides")
    parser.add_argument("--slide", choices=(*LEVELS, "cmu", "all"), default="pyramid")
    parser.add_argument("--quick", action="store_true", help="small slides")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help=", ".join((*CONTENDERS, *OURS)))
    parser.add_argument("--workers", type=int, default=CORES, help="reading processes of peers")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of one run")
    parser.add_argument("--out", type=Path, help="JSON  [default: <what>.json in the cache]")
    asked = parser.parse_args()
    asked.only = asked.only.split(",") if asked.only else [*CONTENDERS, *OURS]
    if unknown := set(asked.only) - {*CONTENDERS, *OURS}:
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}")
    cache = asked.cache.expanduser().absolute()
    if asked.setup:
        set_up(cache)
    if not asked.model:
        return None if asked.setup else parser.error("--model FOLDER is needed")
    bench = Bench(cache, asked.model, timeout_s=asked.timeout, workers=asked.workers)
    told = WHAT[asked.what](bench, asked)
    out = asked.out or cache / f"{asked.what}.json"
    out.write_text(json.dumps(told, indent=1, default=str))
    print(f"\n{out}")
    return None


if __name__ == "__main__":
    main()

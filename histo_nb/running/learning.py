"""Commands of learning: balance, train, learning-curve, evaluate, improve."""
# ruff: noqa: PLC0415

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from histo_nb.errors import GateFailed, SpecError
from histo_nb.home import Home
from histo_nb.running.report import command

Work = Callable[..., dict[str, Any]]

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
DATASET = click.option("--dataset", "dataset_id", default="", help="Its id.  [default: the newest]")


def _with(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(work: Any) -> Any:
        for option in reversed(options):
            work = option(work)
        return work

    return add


IMAGES = _with(
    click.option("--groups", default="",
                 help="MANIFEST.csv:COLUMN[,COLUMN] of the images; the first is the patient."),
    click.option("--tile-size", default=0, help="px at --mpp.  [default: the shortest side]"),
    click.option("--image-mpp", type=float, default=None,
                 help="µm/px of the images; without it the model serves images only."),
    click.option("--centre-only", is_flag=True, help="One tile from the centre of each image."),
    click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be read."),
)  # fmt: skip
SPLIT = _with(
    click.option("--test-share", default=0.2, show_default=True, help="Of all tiles."),
    click.option("--valid-share", default=0.2, show_default=True, help="Of the other tiles."),
    click.option("--seed", default=42, show_default=True, help="Of the split and the rotations."),
    click.option("--balance/--no-balance", default=True, help="Raise rare classes by copies."),
    click.option(
        "--free-angles/--right-angles", default=True, help="Of training tiles that have room."
    ),
)
STORE = _with(
    click.option("--store/--no-store", "stored", default=True,
                 help="Decode once; or read from the slides in each epoch."),
    click.option("--search-duplicates/--trust", default=True,
                 help="Search the cut for tiles that show the same."),
    click.option("--join-duplicates", is_flag=True,
                 help="Tiles that look alike become one group before the split."),
)  # fmt: skip
TRAINING = _with(
    click.option("--recipe", default="recommended", show_default=True, help="patent, or quick."),
    click.option("--network", default="histonet33", show_default=True,
                 help="Or resnet34_taps, or a torchvision classifier."),
    click.option("--width", default=1.0, show_default=True,
                 help="Of histonet33; 0.25 on small CPUs."),
    click.option("--image-size", default=224, show_default=True, help="px the network gets."),
    click.option("--epochs", default=0, help="[default: as the recipe says]"),
    click.option("--normalize", default="",
                 help="std, or variance.  [default: as the recipe says]"),
    click.option("--select-on", default="valid", show_default=True,
                 help="Part that chooses the epoch; test as in the patent, optimistic."),
    click.option("--normal-class", default="normal", show_default=True, help="The benign class."),
    click.option("--train-seed", default=42, show_default=True, help="Of weights and order."),
    click.option("--precision", default="best", show_default=True, help="fp32, bf16 or fp16."),
)  # fmt: skip

OF_IMAGES = {"--groups", "--tile-size", "--image-mpp", "--centre-only", "--skip-broken",
             "--test-share", "--valid-share", "--seed", "--balance", "--free-angles", "--store",
             "--search-duplicates", "--join-duplicates"}  # fmt: skip


def data_specs(given: dict[str, Any]) -> dict[str, Any]:
    """Take the options of `SPLIT` and `STORE` out of `given`; return what `make_dataset` takes."""
    from histo_nb.balancing.balance import BalanceSpec
    from histo_nb.balancing.dataset import StoreSpec
    from histo_nb.balancing.split import SplitSpec

    names = {
        "split": (SplitSpec, ("test_share", "valid_share", "groups")),
        "balance": (BalanceSpec, ("balance", "free_angles")),
        "store": (StoreSpec, ("stored", "search_duplicates", "join_duplicates")),
    }
    seed = given.pop("seed")
    specs = {
        name: {key: given.pop(key) for key in keys if key in given}
        for name, (_, keys) in names.items()
    }
    specs["split"]["seed"], specs["balance"]["balance_seed"] = seed, seed
    return {name: kind(**specs[name]) for name, (kind, _) in names.items()}


def train_spec(given: dict[str, Any]) -> Any:
    """Return the `TrainSpec` of the options of `TRAINING`."""
    from histo_nb.training.learner import TrainSpec

    width = given.pop("width")
    arguments = {"width": width} if given["network"] == "histonet33" else {}
    return TrainSpec(network_args=arguments, **given)


@click.option("--tiles", default=None, type=click.Path(path_type=Path),
              help="Table of labelled tiles.  [default: the last one]")  # fmt: skip
@click.option("--group-columns", default="",
              help="More columns of it that must not be torn: site,field …")  # fmt: skip
@click.option("--keep-sides", is_flag=True,
              help="Patients of the newest data set stay where they were.")  # fmt: skip
@SPLIT
@STORE
def balance(
    home: Home, tiles: Path | None, group_columns: str, keep_sides: bool, **given: Any
) -> dict[str, Any]:
    """Split labelled tiles by patient, balance the training part, certify, decode."""
    from histo_nb.balancing.dataset import known_sides, make_dataset
    from histo_nb.tiling.table import read_tiles

    rows = read_tiles(home, tiles)
    sides = known_sides(home, rows) if keep_sides else None
    given["groups"] = tuple(name for name in group_columns.split(",") if name)
    dataset = make_dataset(rows, home, sides=sides, **data_specs(given))
    return _describe(dataset)


@DATASET
@click.option("--images", default=None, type=FOLDER,
              help="Learn from loose images instead, one folder a class.")  # fmt: skip
@IMAGES
@SPLIT
@STORE
@TRAINING
def train(
    home: Home, dataset_id: str, images: Path | None, skip_broken: bool, **given: Any
) -> dict[str, Any]:
    """Train a candidate model on a data set, or straight from a folder of images.

    A training that was killed goes on after its last whole epoch when it is called again. The
    model is prepared for this machine, as `histo-nb prepare-model` does it.
    """
    from histo_nb.balancing.dataset import find_dataset, make_dataset
    from histo_nb.model.card import read_card
    from histo_nb.tiling.images import ImageSpec, group_columns
    from histo_nb.training.images import read_images
    from histo_nb.training.learner import train as train_candidate
    from histo_nb.training.prepare import prepare_model

    _check_used(images, dataset_id)
    groups = given.pop("groups")
    image_spec = ImageSpec(
        **{name: given.pop(name) for name in ("tile_size", "image_mpp", "centre_only")}
    )
    given["groups"] = tuple(group_columns(groups)[1:])
    specs, spec, answer = data_specs(given), train_spec(given), {}
    if images:
        tiles, broken = read_images(images, groups=groups, spec=image_spec, skip_broken=skip_broken)
        dataset = make_dataset(tiles, home, **specs)
        answer = {**_describe(dataset), "left_out": broken.to_dict("records")}
    else:
        dataset = find_dataset(home, dataset_id)
    model_id = train_candidate(dataset, home, spec=spec)
    prepared = prepare_model(home, model_id)
    card = read_card(home.models / model_id / "card.json")
    return {**answer, "dataset_id": dataset.dataset_id, "model_id": model_id,
            "validation": card.validation, "runtimes": prepared["runtimes"],
            "path": home.models / model_id}  # fmt: skip


@DATASET
@click.option("--steps", default=3, show_default=True, help="Shares of the patients.")
@click.option("--recipe", default="quick", show_default=True, help="Or recommended, patent.")
@click.option("--width", default=0.25, show_default=True, help="Of histonet33.")
@click.option("--image-size", default=224, show_default=True, help="px the network gets.")
@click.option("--epochs", default=0, help="[default: as the recipe says]")
@click.option("--normal-class", default="normal", show_default=True, help="The benign class.")
def learning_curve(
    home: Home, dataset_id: str, steps: int, width: float, **spec: Any
) -> dict[str, Any]:
    """Train on growing shares of the patients: would more of them help, and of which class?"""
    from histo_nb.balancing.dataset import find_dataset
    from histo_nb.training.curve import measure_curve, say_curve
    from histo_nb.training.learner import TrainSpec

    dataset = find_dataset(home, dataset_id)
    curve = measure_curve(
        dataset, spec=TrainSpec(network_args={"width": width}, **spec), steps=steps
    )
    return {
        "dataset_id": dataset.dataset_id,
        "curve": curve.to_dict("records"),
        "says": say_curve(curve),
    }


@click.argument("model", metavar="MODEL")
@click.option("--images", required=True, type=FOLDER, help="Labelled images, one folder a class.")
@click.option("--groups", default="", help="MANIFEST.csv:COLUMN: the patient, for the interval.")
@click.option("--image-mpp", type=float, default=None, help="µm/px of the images.")
@click.option("--skip-broken", is_flag=True, help="Leave out images that cannot be read.")
def evaluate(
    home: Home,
    model: str,
    images: Path,
    groups: str,
    image_mpp: float | None,
    skip_broken: bool,
) -> dict[str, Any]:
    """Measure a model (its id, or its folder) on labelled images."""
    from histo_nb.model.bundle import open_bundle
    from histo_nb.model.registry import find_model
    from histo_nb.training.images import evaluate_images, image_spec, read_images

    folder = Path(model) if (Path(model) / "card.json").is_file() else find_model(home, model)
    bundle = open_bundle(folder)
    tiles, broken = read_images(
        images, groups=groups, spec=image_spec(bundle.card, image_mpp), skip_broken=skip_broken
    )
    figures = evaluate_images(bundle, tiles, home)
    return {**figures, "left_out": broken.to_dict("records")}


@click.option("--rounds", default=3, show_default=True, help="Trainings at the most.")
@click.option("--wait-min", default=0.0, show_default=True,
              help="Minutes to wait for labels after a failed round.")  # fmt: skip
@click.option("--min-new-labels", default=20, show_default=True, help="Before the next round.")
@click.option("--spec", "spec_file", type=click.Path(path_type=Path), default=None,
              help="The gate's criteria, as JSON.")  # fmt: skip
@SPLIT
@STORE
@TRAINING
def improve(
    home: Home,
    rounds: int,
    wait_min: float,
    min_new_labels: int,
    spec_file: Path | None,
    **given: Any,
) -> dict[str, Any]:
    """Train, gate, say what to label next; again, until the gate passes or the rounds are spent.

    What was asked lies on the label board, the most uncertain tiles first. Patients keep their
    side, so that the test part stays unseen. Exits with 3 if no candidate passed.
    """
    from histo_nb.training.criteria import read_spec
    from histo_nb.training.improve import ImproveSpec, LoopSpec
    from histo_nb.training.improve import improve as go_round

    loop = ImproveSpec(rounds=rounds, wait_min=wait_min, min_new_labels=min_new_labels)
    specs = data_specs(given)
    spec = LoopSpec(improve=loop, gate=read_spec(spec_file), training=train_spec(given), **specs)
    answer = go_round(home, spec=spec)
    if not answer["passed"]:
        last = answer["rounds"][-1]
        said = (
            f"no candidate passed in {len(answer['rounds'])} rounds, the last, {last['model_id']}: "
            f"{'; '.join(last['reasons'])}. {'; '.join(answer['collect']) or 'Collect more.'} "
            f"{answer['asked']} uncertain tiles wait on the label board; then call improve again"
        )
        raise GateFailed(said, facts=answer)
    return answer


def add_learning(main: click.Group) -> None:
    """Add the commands of learning to the command line."""
    for work in (balance, train, learning_curve, evaluate, improve):
        command(main)(work)


def _check_used(images: Path | None, dataset_id: str) -> None:
    """Raise `SpecError` for options of `train` that were given and would do nothing."""
    if images and dataset_id:
        raise SpecError("choose --images or --dataset, not both")
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(parameter.name or "") == ParameterSource.COMMANDLINE
    ]
    idle = [] if images else sorted(set(given) & OF_IMAGES)
    if context.params["network"] != "histonet33":
        idle += sorted(set(given) & {"--width"})
    if idle:
        raise SpecError(
            f"{', '.join(idle)} would do nothing here: a data set is made with `histo-nb balance`, "
            "or from --images; --width is of histonet33"
        )


def _describe(dataset: Any) -> dict[str, Any]:
    said = ("tiles", "patients", "copies", "share_of_tiles", "checked", "unknown")
    return {
        "dataset_id": dataset.dataset_id,
        "certificate": dataset.certificate["sha256"],
        **{name: dataset.certificate[name] for name in said},
        "path": dataset.folder,
    }

"""Commands of the models: the gate, and the registry that says which one serves and why."""
# ruff: noqa: PLC0415

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from histo_nb.errors import SpecError
from histo_nb.home import Home
from histo_nb.running.report import command
from histo_nb.training.criteria import GateSpec, read_spec

SAYS = {
    "min_accuracy": "Of tiles of patients never seen.",
    "min_balanced_accuracy": "Mean of the classes' recalls.",
    "min_lower_bound": "Of the 95 % interval of balanced accuracy.",
    "min_class_recall": "Of the worst class.",
    "min_gain_over_colour": "Balanced accuracy above what colour alone reaches.",
    "max_ece": "Expected calibration error.",
    "min_test_patients": "Patients in the test part.",
    "allow_selected_on_test": "Also where the test part chose the epoch.",
}
REASON = click.option("--reason", required=True, help="Why; it stays on record.")
WHO = click.option("--who", default="", help="Who decided.  [default: this account]")


def criteria(work: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each criterion of the gate; those that are not given are left to it."""
    for field in reversed(fields(GateSpec)):
        name, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        says = SAYS[field.name]
        if kind is bool:
            option = click.option(name, is_flag=True, default=None, help=says)
        else:
            option = click.option(
                name, type=kind, default=None, help=f"{says}  [default: {field.default}]"
            )
        work = option(work)
    return work


@click.argument("model_id", required=False, metavar="[MODEL]")
@click.option("--spec", "spec_file", type=click.Path(path_type=Path), default=None,
              help='JSON such as {"min_accuracy": 0.9}; options come first.')  # fmt: skip
@criteria
def gate(home: Home, model_id: str | None, spec_file: Path | None, **asked: Any) -> dict[str, Any]:
    """Score a candidate (the newest by default) on the test part; it serves only if it passes.

    Each look at the test part is counted. Exits with 3 if the model did not pass.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    spec = read_spec(spec_file, **given)
    from histo_nb.model.registry import newest_model
    from histo_nb.training.gate import pass_gate

    return pass_gate(home, model_id or newest_model(home), spec=spec)


@click.group(no_args_is_help=True)
def registry() -> None:
    """The models: which one serves, which served before, and why."""


@command(registry, "list")
def list_all(home: Home) -> dict[str, Any]:
    """List the models: candidates, rejected and damaged ones, the one in production."""
    from histo_nb.model.registry import list_models

    return {"models": list_models(home).to_dict("records")}


@command(registry)
@click.argument("model_id", metavar="MODEL")
def show(home: Home, model_id: str) -> dict[str, Any]:
    """Show a model's card, its gate, and when and why it served."""
    from histo_nb.model.registry import describe_model

    return describe_model(home, model_id)


@command(registry)
@click.argument("model_id", metavar="MODEL")
@REASON
@WHO
@click.option("--despite-gate", is_flag=True,
              help="Also if it has not passed its gate; every page will say so.")  # fmt: skip
def promote(home: Home, model_id: str, **decision: Any) -> dict[str, Any]:
    """Put a model into production; one that has not passed its gate is refused with exit code 3."""
    from histo_nb.model.registry import production_entry
    from histo_nb.model.registry import promote as put

    folder = put(home, model_id, **decision)
    return {**(production_entry(home) or {}), "path": folder}


@command(registry)
@REASON
@WHO
def rollback(home: Home, **decision: Any) -> dict[str, Any]:
    """Put back the model that served before the one in production."""
    from histo_nb.model.registry import production_entry
    from histo_nb.model.registry import rollback as go_back

    folder = go_back(home, **decision)
    return {**(production_entry(home) or {}), "path": folder}


@click.argument("model_id", required=False, metavar="[MODEL]")
def prepare_model(home: Home, model_id: str | None) -> dict[str, Any]:
    """Make a model (the newest by default) fast on this machine, and measure that it stays right.

    Its networks for OpenVINO in fp32, bf16 and int8 are compared with fp32 on torch over the
    validation tiles; `analyse` uses the fastest that passed.
    """
    from histo_nb.model.registry import newest_model
    from histo_nb.training.prepare import prepare_model as make_ready

    return make_ready(home, model_id or newest_model(home))


@click.argument("model_id", metavar="MODEL")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--wsinfer", is_flag=True, help="A new folder for WSInfer: TorchScript and config.")
def export_model(home: Home, model_id: str, path: Path, wsinfer: bool) -> dict[str, Any]:
    """Write a model for other programs, or its card as a page.

    PATH ends in .onnx (normalised tiles in, probabilities out; read back and compared), in .html or
    .pdf (the card), or is a folder with --wsinfer.
    """
    kind = "wsinfer" if wsinfer else path.suffix.lower()
    if kind in (".html", ".pdf"):
        from histo_nb.export.model_card import write_model_card

        return {"path": write_model_card(home, model_id, path)}
    from histo_nb.model.bundle import open_bundle
    from histo_nb.model.onnx import write_onnx
    from histo_nb.model.registry import find_model
    from histo_nb.model.wsinfer import write_wsinfer

    if kind not in ("wsinfer", ".onnx"):
        raise SpecError(
            f"{path} ends in none of .onnx, .html, .pdf; or give --wsinfer for a folder"
        )
    write = write_wsinfer if wsinfer else write_onnx
    return {"path": write(open_bundle(find_model(home, model_id)), path)}


def add_models(main: click.Group) -> None:
    """Add the commands of the models to the command line."""
    command(main)(gate)
    command(main)(prepare_model)
    command(main)(export_model)
    main.add_command(registry)

"""How a command answers: one JSON object or a few lines on stdout, all else on stderr."""

import functools
import json
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from histo_nb.errors import HistoError
from histo_nb.home import open_home

Command = Callable[..., dict[str, Any]]
SLIDES = click.argument("slide_ids", nargs=-1, metavar="[SLIDE]...")


class CommandLine(click.Group):
    """The outermost group: a command that was called wrongly answers in JSON too, if asked to."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, **extra: Any
    ) -> Any:
        """Run the command that the arguments name, and end the process."""
        asked = list(sys.argv[1:] if args is None else args)
        try:
            status = super().main(args, **extra | {"standalone_mode": False})
        except click.ClickException as error:
            error.show()
            if "--json" in asked:
                _print_json({"error": error.format_message(), "kind": "UsageError"})
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(130)
        sys.exit(status if isinstance(status, int) else 0)


def command(group: click.Group, name: str | None = None) -> Callable[[Command], click.Command]:
    """Make a function that takes `home` and returns a dictionary a command of `group`.

    Adds `--home` and `--json`. Named errors are printed, not traced; the exit code is 0 only if
    the function returned and its answer has no `failures`.
    """

    def decorate(work: Command) -> click.Command:
        @functools.wraps(work)
        def run(*, home_folder: str | None, as_json: bool, **arguments: Any) -> None:
            try:
                with redirect_stdout(sys.stderr):
                    answer = work(home=open_home(home_folder), **arguments)
            except HistoError as error:
                click.echo(f"{type(error).__name__}: {error}", err=True)
                if as_json:
                    facts = getattr(error, "facts", {})
                    _print_json({**facts, "error": str(error), "kind": type(error).__name__})
                sys.exit(error.exit_code)
            except click.ClickException:
                raise
            except Exception as error:  # a defect of ours: its trace for us, its JSON for a script
                if not as_json:
                    raise
                traceback.print_exc()
                _print_json({"error": str(error), "kind": type(error).__name__})
                sys.exit(1)
            _print_json(answer) if as_json else _print_lines(answer)
            if answer.get("failures"):
                sys.exit(1)

        run = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")(
            run
        )
        run = click.option(
            "--home",
            "home_folder",
            type=click.Path(file_okay=False),
            help="Folder of all state.  [default: $HISTO_HOME]",
        )(run)
        return group.command(name or work.__name__.replace("_", "-"))(run)

    return decorate


def _print_json(answer: dict[str, Any]) -> None:
    click.echo(json.dumps(_without_nan(answer), ensure_ascii=False, default=_plain))


def _without_nan(value: Any) -> Any:
    """Pandas says "unknown" as NaN, which is no JSON."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    return str(value) if isinstance(value, Path) else repr(value)


def _print_lines(answer: dict[str, Any]) -> None:
    width = max((len(name) for name in answer), default=0)
    for name, value in answer.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            click.echo(f"{name}:")
            for row in value:
                click.echo("  " + "  ".join(f"{k}={_short(v)}" for k, v in row.items()))
        elif isinstance(value, dict):
            inner = "  ".join(f"{k}={_short(v)}" for k, v in value.items())
            click.echo(f"{name:<{width}}  {inner}")
        else:
            click.echo(f"{name:<{width}}  {_short(value)}")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value) or "none"
    return str(value)

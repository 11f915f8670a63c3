"""What a notebook's parameters cell declares, and values checked against it."""

import ast
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nbformat import NotebookNode

from histo_nb.errors import NotebookError

TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
KINDS = "int, float, bool, str, and list[…] or Optional[…] of them"
WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")  # what `int` takes, less 2026_01 and foreign digits
OPTIONAL = re.compile(r"(?:typing\.)?Optional\[(?P<item>.*)\]|(?P<plain>.*) \| None")
LIST = re.compile(r"(?:typing\.)?[Ll]ist\[(?P<item>.*)\]")


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    kind: str  # its annotation; "" = none
    default: Any  # what is no plain value stands here as its code


def read_parameters(content: NotebookNode, name: str) -> dict[str, Parameter]:
    """Return what the cell tagged `parameters` declares.

    Python's own parser reads it: papermill's overlooks `float | None` and cuts texts at `#`.

    Raises
    ------
    NotebookError
        That cell is no Python.
    """
    cells = [cell for cell in content.cells if _is_parameters(cell)]
    try:
        tree = ast.parse(cells[0].source if cells else "")
    except (SyntaxError, ValueError, RecursionError) as error:
        raise NotebookError(
            f"the parameters cell of {name} is no plain Python ({error}); write one parameter a "
            "line, name: type = value"
        ) from error
    found = [parameter for node in tree.body for parameter in _declared(node)]
    return {parameter.name: parameter for parameter in found}


def _is_parameters(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])


def _declared(node: ast.stmt) -> list[Parameter]:
    if isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
        kind = node.annotation
        text = kind.value if isinstance(kind, ast.Constant) else ast.unparse(kind)
        return [Parameter(node.target.id, str(text), _value(node.value))]
    if isinstance(node, ast.Assign):
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return [Parameter(name, "", _value(node.value)) for name in names]
    return []


def _value(node: ast.expr) -> Any:
    with suppress(ValueError, TypeError, MemoryError, RecursionError):
        value = ast.literal_eval(node)
        if _is_plain(value):
            return value
    return ast.unparse(node)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has no other numbers
    return value is None or isinstance(value, str | bool | int)


def check_values(
    declared: Mapping[str, Parameter], given: Mapping[str, Any], *, notebook: str
) -> dict[str, Any]:
    """Return values in their declared types; texts (from a command line) are converted.

    Raises
    ------
    NotebookError
        A name is not declared, its type is not one that can be given, or a value has another.
    """
    return {name: _check(declared.get(name), name, given[name], notebook) for name in given}


def _check(parameter: Parameter | None, name: str, value: Any, notebook: str) -> Any:
    if parameter is None:
        raise NotebookError(
            f"{notebook} has no parameter {name!r}; give only what its cell tagged `parameters` "
            "declares (`histo-nb run --dry-run` lists it)"
        )
    if not parameter.kind:
        raise NotebookError(
            f"parameter {name} of {notebook} has no type, so that no value can be checked; write "
            f"{name}: type = value in its parameters cell; types are {KINDS}"
        )
    try:
        return _convert(value, parameter.kind)
    except NotImplementedError as error:
        raise NotebookError(
            f"parameter {name} of {notebook} is {parameter.kind}, which cannot be given; "
            f"types are {KINDS}"
        ) from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise NotebookError(
            f"parameter {name}={value!r} of {notebook} must be {parameter.kind}"
        ) from error


def _convert(value: Any, kind: str) -> Any:
    if optional := OPTIONAL.fullmatch(kind):
        item = optional["item"] or optional["plain"]
        return None if value in (None, "None", "") else _convert(value, item)
    if several := LIST.fullmatch(kind):
        items = json.loads(value) if isinstance(value, str) else value
        if not isinstance(items, list):
            raise ValueError(value)
        return [_convert(item, several["item"]) for item in items]
    if kind not in SCALARS:
        raise NotImplementedError(kind)
    return SCALARS[kind](value)


def _to_str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    value.encode()  # bytes of a command line that are no text
    return value


def _to_bool(value: Any) -> bool:
    if str(value).lower() not in TRUTH:
        raise ValueError(value)
    return TRUTH[str(value).lower()]


def _to_int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, str) and not WHOLE.fullmatch(value)):
        raise ValueError(value)
    if int(value) != value and not isinstance(value, str):
        raise ValueError(value)
    return int(value)


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError(value)
    exact = int(value) if isinstance(value, str) and WHOLE.fullmatch(value) else value
    number = float(exact)
    if not math.isfinite(number) or (not isinstance(exact, str) and number != exact):
        raise ValueError(value)
    return number


SCALARS = {"str": _to_str, "bool": _to_bool, "int": _to_int, "float": _to_float}

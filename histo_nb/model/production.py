"""The file `production.json`: which model serves, and which served before, and why.

It holds the entry in force and, under `history`, all earlier ones: one file, so that one rename
moves both. Loads no torch.
"""

from typing import Any

from histo_nb.catalog import account, now
from histo_nb.errors import BundleError, SpecError
from histo_nb.files import write_json
from histo_nb.home import Home
from histo_nb.model.seal import read_object

PRODUCTION = "production.json"
NEEDED = {"model_id", "since", "reason"}
WAY_OUT = "restore it from a copy, or move it away and promote a model"


def production_history(home: Home) -> list[dict[str, Any]]:
    """Return all entries, the oldest first, the one in force last; [] if no model ever served.

    Each has `model_id, since, reason, who, gate_passed`; a return also `back_to`, the number of
    the entry it went back to. Entries of earlier versions may lack the last three.

    Raises
    ------
    BundleError
        The file is damaged.
    """
    path = home.models / PRODUCTION
    if not path.is_file():
        return []
    current = read_object(path, way_out=WAY_OUT)
    earlier = current.pop("history", [])
    entries = [*earlier, current] if isinstance(earlier, list) else []
    if not entries or not all(isinstance(e, dict) and set(e) >= NEEDED for e in entries):
        raise BundleError(f"{path} is damaged; {WAY_OUT}")
    return entries


def write_entry(home: Home, model_id: str, reason: str, who: str, **facts: Any) -> None:
    """Write the new entry before all earlier ones; only under the registry's lock."""
    if not reason.strip():
        raise SpecError("reason='' says nothing; say in a few words why this model serves from now")
    for cut_off in home.models.glob(f".*-{PRODUCTION}"):  # of a process killed under this lock
        cut_off.unlink()
    entry = {"model_id": model_id, "since": now(), "reason": reason, "who": who or account()}
    write_json(home.models / PRODUCTION, {**entry, **facts, "history": production_history(home)})


def number_before(entries: list[dict[str, Any]]) -> int:
    """Return the number of the entry of the model that served before the current one.

    >>> number_before([{"model_id": "A"}, {"model_id": "B"}, {"model_id": "C"},
    ...          {"model_id": "B", "back_to": 1}])
    0
    """
    current = entries[-1]
    for number in reversed(range(current.get("back_to", len(entries) - 1))):
        if entries[number]["model_id"] != current["model_id"]:
            back_to: int = entries[number].get("back_to", number)
            return back_to
    raise BundleError(
        f"no model served before {current['model_id']}; name one: `histo-nb registry promote`"
    )

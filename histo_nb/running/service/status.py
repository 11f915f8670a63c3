"""How a service is, in facts and in words: what `histo-nb status` and the operations page say."""

import shutil
from typing import Any

from histo_nb.errors import HistoError
from histo_nb.home import Home
from histo_nb.model.production import production_history
from histo_nb.running.service.spec import GB
from histo_nb.running.service.waiting import count_today, count_waiting, find_failed
from histo_nb.service_state import is_ill, read_state


def read_status(home: Home) -> dict[str, Any]:
    """Return how the service of a home is, now. Loads no torch.

    Returns
    -------
    `state`, `since`, `parts` (each with `part`, `state`, `since`, `restarts`, `last_beat`,
    `doing`), `held` (why no slides are taken, or None), `waiting`, `analysed_today`, `failed`,
    `free_gb`, `model` and `trouble`: sentences, none where all is well.
    """
    facts = read_state(home.root)
    trouble = _say_trouble(facts)
    facts |= {"model": None, "waiting": None, "analysed_today": None, "failed": None}
    try:
        entries = production_history(home)
        facts["model"] = model_id = entries[-1]["model_id"] if entries else None
        facts["waiting"] = count_waiting(home, model_id)
        facts["analysed_today"] = count_today(home)
        facts["failed"] = len(find_failed(home, model_id))
    except HistoError as error:
        trouble.append(str(error))
    else:
        trouble += _say_counts(facts)
    facts["free_gb"] = round(shutil.disk_usage(home.root).free / GB, 1)
    return facts | {"trouble": trouble}


def _say_trouble(facts: dict[str, Any]) -> list[str]:
    state = facts["state"]
    if state == "not running":
        return ["the service is not running; start it with `histo-nb serve --watch FOLDER`"]
    if state == "not answering":
        return [f"the service does not answer (process {facts['pid']}); start it again"]
    said = [f"no slides are taken: {facts['held']}"] if facts["held"] else []
    ill = [part for part in facts["parts"] if is_ill(part)]
    return said + [f"{part['part']} is {part['state']}: {part['doing']}" for part in ill]


def _say_counts(facts: dict[str, Any]) -> list[str]:
    said = []
    if facts["model"] is None:
        said.append("no model is in production; promote one with `histo-nb registry promote`")
    if facts["failed"]:
        said.append(f"slides that could not be analysed: {facts['failed']}")
    return said

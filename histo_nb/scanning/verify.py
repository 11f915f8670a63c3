"""Hashes stored slides again: bits rot, disks lie, people edit files."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from histo_nb.errors import SpecError
from histo_nb.failures import FAILURE_COLUMNS
from histo_nb.files import hash_file
from histo_nb.home import Home

MAX_DAYS = 36_500


def verify_slides(
    home: Home, slide_ids: Sequence[str] = (), *, older_than_days: float = 0.0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hash the files of slides (all by default) again, those first that wait longest.

    Made to run on a schedule: what was verified less than `older_than_days` ago is left out, and
    a run that is cut off goes on with the next files.

    Returns
    -------
    `slide_id, name` of the files that are as they arrived, and `(slide_id, step, error)` of those
    that are damaged or gone; the catalogue keeps both.
    """
    if slide_ids:
        home.catalog.slides(slide_ids)  # names that are wrong are an error, not an empty answer
    if not 0 <= older_than_days <= MAX_DAYS:
        raise SpecError(f"older_than_days={older_than_days:g} must be 0–{MAX_DAYS}")
    before = (datetime.now(UTC) - timedelta(days=older_than_days)).isoformat()
    files = home.catalog.slide_files(slide_ids)
    due = files[files.verified_at.isna() | (files.verified_at.astype(str) < before)]
    whole, damaged = [], []
    with tqdm(total=int(due.n_bytes.sum()), desc="verify", unit="B", unit_scale=True) as bar:
        for row in due.to_dict("records"):
            damage = find_damage(row, home)
            home.catalog.note_verified(row["slide_id"], row["name"], damage=damage)
            if damage:
                damaged.append({"slide_id": row["slide_id"], "step": "verify", "error": damage})
            else:
                whole.append({"slide_id": row["slide_id"], "name": row["name"]})
            bar.update(row["n_bytes"])
    return (
        pd.DataFrame(whole, columns=["slide_id", "name"]),
        pd.DataFrame(damaged, columns=FAILURE_COLUMNS),
    )


def find_damage(row: Mapping[Any, Any], home: Home) -> str | None:
    """Return what is wrong with a stored file, a row of `Catalog.slide_files`; None = nothing."""
    way_out = "bring it back from a copy, or scan the slide again"
    try:
        found = hash_file(home.slides / row["name"])
    except FileNotFoundError:
        return f"{row['name']} is gone; {way_out}"
    except OSError as error:
        return f"{row['name']} cannot be read ({error.strerror}); {way_out}"
    if found != row["sha256"]:
        return f"{row['name']} is no longer what arrived: its SHA-256 differs; {way_out}"
    return None

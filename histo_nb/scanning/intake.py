"""The intake desk: a file enters the catalogue whole and once, or lies in quarantine.

Issue by issue this desk grows stricter; today it checks that a file opens (in a process of its
own), reads at every level, states a usable mpp, and is new.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from histo_nb.annotations import Annotation, write_geojson
from histo_nb.errors import HistoError, SlideError
from histo_nb.files import check_free_space, hash_file, write_json, writing
from histo_nb.home import Home
from histo_nb.scanning.probe import probe_slide


def take_in(
    paths: Sequence[Path],
    home: Home,
    *,
    patient_id: str | None = None,
    slide_mpp: float | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """File slides from disk; what is refused goes to quarantine, the originals stay.

    Returns
    -------
    Catalogue rows of the accepted slides, and `(slide_id, step, error)` of the refused files,
    where `slide_id` is the file's name in quarantine.
    """
    accepted, refused = [], []
    for path in tqdm([Path(p) for p in paths], desc="intake", unit="file"):
        try:
            slide_id = file_slide(
                path, home, patient_id=patient_id, source="file", slide_mpp=slide_mpp
            )
            accepted.append(slide_id)
        except SlideError as error:
            name = quarantine(path, home, reason=str(error)) if path.is_file() else path.name
            refused.append({"slide_id": name, "step": "intake", "error": str(error)})
    rows = home.catalog.slides(accepted) if accepted else pd.DataFrame()
    return rows, pd.DataFrame(refused, columns=["slide_id", "step", "error"])


def file_slide(
    path: Path,
    home: Home,
    *,
    source: str,
    patient_id: str | None = None,
    slide_mpp: float | None = None,
    truth: Sequence[Annotation] = (),
) -> str:
    """Copy one slide into the home and the catalogue, all or nothing; return its `slide_id`.

    The `slide_id` is made from the content, never from a name or a barcode. A slide whose bytes
    are there already is not filed twice: its `slide_id` is returned.

    Raises
    ------
    SlideError, MppError
        The file does not open, cannot be read, or states no usable mpp.
    StorageError
        There is not enough space.
    """
    facts = probe_slide(path, slide_mpp=slide_mpp)
    sha256 = hash_file(path)
    known = home.catalog.find_hash(sha256)
    if known:
        return known
    slide_id = f"S-{sha256[:10]}"
    target = home.slides / f"{slide_id}{path.suffix.lower()}"
    check_free_space(home.slides, path.stat().st_size)
    with writing(target) as temporary:
        shutil.copyfile(path, temporary)
        if hash_file(temporary) != sha256:
            raise SlideError(f"{path.name} changed while it was copied; wait until it is complete")
    truth_path = None
    try:
        if truth:
            truth_path = write_geojson(list(truth), home.truth / f"{slide_id}.geojson")
        home.catalog.add_slide(
            {
                "slide_id": slide_id,
                "patient_id": patient_id,
                "slide_path": str(target),
                "sha256": sha256,
                "n_bytes": target.stat().st_size,
                **facts,
                "mpp_source": "given" if slide_mpp is not None else "file",
                "source": source,
                "truth_path": str(truth_path) if truth_path else None,
            }
        )
    except HistoError:
        if home.catalog.find_hash(sha256):  # another process filed the same bytes just now
            return slide_id
        target.unlink(missing_ok=True)
        if truth_path:
            truth_path.unlink(missing_ok=True)
        raise
    return slide_id


def quarantine(path: Path, home: Home, *, reason: str) -> str:
    """Keep a copy of a refused file with its reason; return its name in quarantine.

    The file's own name may be a patient's: neither reason nor catalogue keep it.
    """
    name = f"Q-{hash_file(path)[:10]}{path.suffix.lower()}"
    reason = reason.replace(path.name, name)
    check_free_space(home.quarantine, path.stat().st_size)
    with writing(home.quarantine / name) as temporary:
        shutil.copyfile(path, temporary)
    write_json(home.quarantine / f"{name}.reason.json", {"reason": reason})
    home.catalog.note("file refused", name, reason)
    return name

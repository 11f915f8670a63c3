"""The one folder all state lives in: `HISTO_HOME`."""

import os
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from platformdirs import user_data_path

from histo_nb.catalog import Catalog
from histo_nb.files import storage_errors

_NAMES = "slides quarantine identity staging truth masks tiles datasets models results runs"
FOLDERS = tuple(_NAMES.split())
OWN_CATALOG = "own-catalogue.txt"  # a home with this file has its catalogue in it, always
PRIVATE = ("quarantine", "identity", "staging")  # they hold names; for this account only


@dataclass(frozen=True)
class Home:
    """Paths of one `HISTO_HOME` and its catalogue.

    `slides` scans · `quarantine` refused files · `identity` label and macro images, shown to
    nobody · `staging` slides on their way in · `truth` outlines of virtual slides · `masks` ·
    `tiles` · `datasets` · `models` · `results` · `runs` executed notebooks.
    """

    root: Path

    @property
    def slides(self) -> Path:
        return self.root / "slides"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def identity(self) -> Path:
        return self.root / "identity"

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    @property
    def truth(self) -> Path:
        return self.root / "truth"

    @property
    def masks(self) -> Path:
        return self.root / "masks"

    @property
    def tiles(self) -> Path:
        return self.root / "tiles"

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def catalog(self) -> Catalog:
        """The catalogue: `HISTO_DATABASE_URL`, or an SQLite file in this folder.

        Always that file in a home that was opened with `own_catalog` once.
        """
        url = os.environ.get("HISTO_DATABASE_URL")
        if url and not (self.root / OWN_CATALOG).exists():
            return Catalog(url)
        return Catalog(sa.URL.create("sqlite", database=str(self.root / "catalog.sqlite")))


def open_home(root: Path | str | None = None, *, own_catalog: bool = False) -> Home:
    """Return the home at `root`, else `HISTO_HOME`, else the platform's data folder; make it.

    With `own_catalog`, its catalogue lies in it from now on, in every process and whatever
    `HISTO_DATABASE_URL` says: what a demo writes belongs into no shared catalogue.

    Raises
    ------
    StorageError
        The folder cannot be made.
    """
    root = root or os.environ.get("HISTO_HOME") or user_data_path("histo_nb")
    home = Home(Path(root).expanduser().absolute())
    with storage_errors(home.root):
        home.root.mkdir(parents=True, exist_ok=True)
        for name in FOLDERS:
            mode = 0o700 if name in PRIVATE else 0o777
            (home.root / name).mkdir(mode, exist_ok=True)
        if own_catalog:
            (home.root / OWN_CATALOG).write_text(
                "The catalogue of this folder is catalog.sqlite beside this file, whatever "
                "HISTO_DATABASE_URL says.\n",
                encoding="utf-8",
            )
    return home

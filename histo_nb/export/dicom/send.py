"""Sends DICOM objects to an archive by C-STORE, once it has answered.

Unencrypted, as DICOM is by default: for a network that is trusted. With `tls` the connection is
encrypted, and the archive must prove who it is.
"""

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification
from tqdm.auto import tqdm

from histo_nb.errors import HistoError, SpecError

MAX_TITLE = 16  # characters of an application entity's name (PS3.5, AE)
STORED = 0x0000
WARNINGS = range(0xB000, 0xC000)  # stored, with values that the archive changed (PS3.4, B.2.3)
# By the first two digits of a status, or by the first one (PS3.4, B.2.3).
SAYS = {0xA7: "the archive is out of resources: free some space there",
        0xA9: "the archive says that the object is of another class",
        0xC: "the archive does not understand the object"}  # fmt: skip
SETTINGS = "check its address, port and title, and that it knows ours"


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Files (PEM) for an encrypted connection."""

    ca: Path  # whom to believe that the archive is itself
    certificate: Path | None = None  # ours, for archives that ask for one
    key: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Peer:
    """An archive, and how long to wait for it."""

    host: str
    port: int
    title: str
    own_title: str = "HISTO_NB"
    timeout_s: float = 30.0  # for a connection and for each answer
    tls: Tls | None = None

    def __post_init__(self) -> None:
        for title in (self.title, self.own_title):
            if not (0 < len(title.strip()) <= MAX_TITLE and title.isascii() and "\\" not in title):
                raise SpecError(
                    f"title={title!r} must have 1–{MAX_TITLE} characters of ASCII, without \\"
                )
        if not 0 < self.port < 65536:
            raise SpecError(f"port={self.port} must be 1–65535; DICOM's own are 104 and 11112")
        if self.timeout_s <= 0:
            raise SpecError(f"timeout_s={self.timeout_s:g} must be above 0")


def send_dicom(paths: Sequence[Path], *, peer: Peer) -> tuple[list[Path], pd.DataFrame]:
    """Send files to an archive; return those it stored, and a table of those it did not.

    Returns
    -------
    The files' paths, and `file` (its folder and name), `step`, `error`.

    Raises
    ------
    HistoError
        The archive cannot be reached, refuses us, or does not answer an echo.
    """
    paths = [Path(path) for path in paths]
    contexts = _find_contexts(paths)
    sent: list[Path] = []
    failures: list[dict[str, str]] = []
    with _associated(peer, contexts) as association:
        _check_echo(association, peer)
        for path in tqdm(paths, desc="sending", unit="object", disable=len(paths) < 2):
            error = _store(association, path)
            if error:
                name = f"{path.parent.name}/{path.name}"
                failures.append({"file": name, "step": "send", "error": error})
            else:
                sent.append(path)
    return sent, pd.DataFrame(failures, columns=["file", "step", "error"])


def _find_contexts(paths: Sequence[Path]) -> list[PresentationContext]:
    """Return one context for each class and encoding, and one for the echo."""
    kinds = set()
    for path in paths:
        try:
            meta = dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True).file_meta
            kinds.add((str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)))
        except (OSError, InvalidDicomError, AttributeError) as error:
            raise HistoError(
                f"{path.name} cannot be sent, it is no DICOM file ({type(error).__name__}); "
                "write the results again"
            ) from error
    return [build_context(Verification), *(build_context(*kind) for kind in sorted(kinds))]


@contextmanager
def _associated(peer: Peer, contexts: list[PresentationContext]) -> Iterator[Association]:
    entity = AE(ae_title=peer.own_title)
    entity.requested_contexts = contexts
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = peer.timeout_s
    entity.connection_timeout = peer.timeout_s
    tls = {"tls_args": (_open_tls(peer.tls), peer.host)} if peer.tls else {}
    association = entity.associate(peer.host, peer.port, ae_title=peer.title, **tls)
    try:
        if not association.is_established:
            raise _refused(association, peer)
        yield association
    finally:
        if association.is_established:
            association.release()


def _refused(association: Association, peer: Peer) -> HistoError:
    where = f"the archive {peer.title!r} at {peer.host}:{peer.port}"
    if association.is_rejected:
        said = association.acceptor.primitive
        why = getattr(said, "reason_str", "no reason given")
        return HistoError(f"{where} refuses us as {peer.own_title!r} ({why}); {SETTINGS}")
    encrypted = "encrypted" if peer.tls else "unencrypted"
    return HistoError(f"{where} cannot be reached, {encrypted}; {SETTINGS}")


def _open_tls(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(tls.ca))
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise HistoError(
            f"the certificates cannot be used ({type(error).__name__}); give PEM files: that of "
            "the authority, and our own with its key"
        ) from error
    return context


def _check_echo(association: Association, peer: Peer) -> None:
    try:
        status = association.send_c_echo()
    except (ValueError, RuntimeError):  # it took no part in it, or has gone
        status = None
    if not status or status.Status != STORED:
        raise HistoError(
            f"the archive {peer.title!r} at {peer.host}:{peer.port} does not answer an echo; "
            f"{SETTINGS}"
        )


def _store(association: Association, path: Path) -> str | None:
    """Send one file; return what went wrong, None = it is stored."""
    try:
        status = association.send_c_store(path)
    except ValueError:  # no context was accepted for it
        return "the archive does not take objects of this kind; allow its class there"
    except (RuntimeError, OSError) as error:  # the connection is gone, or the file
        return f"it was not sent ({type(error).__name__}); send it again"
    return _say_status(status)


def _say_status(status: Any) -> str | None:
    if not status:
        return "the archive broke off, or did not answer in time; send it again"
    code = int(status.Status)
    if code == STORED or code in WARNINGS:
        return None
    known = SAYS.get(code >> 8) or SAYS.get(code >> 12)
    why = known or "the archive could not store the object: see its log"
    return f"{why} (status 0x{code:04X})"

"""Receives whole-slide images by DICOM C-STORE and files each series when it is complete.

An instance is acknowledged when it is on the disk, and then it is not lost, whatever is killed. A
series whose full resolution, a tile or a part is missing waits; nothing else sees it.
"""

import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pynetdicom import AE, _config, dimse_messages, evt
from pynetdicom.sop_class import Verification, VLWholeSlideMicroscopyImageStorage
from pynetdicom.transport import ThreadedAssociationServer

from histo_nb.errors import HistoError, SpecError
from histo_nb.files import staging, storage_errors
from histo_nb.geometry import check_positive
from histo_nb.home import Home
from histo_nb.scanning.dicom.instance import SYNTAXES
from histo_nb.scanning.dicom.keeper import Keeper
from histo_nb.scanning.dicom.spool import Spool

if TYPE_CHECKING:
    from histo_nb.scanning.intake import Arrival

MAX_PDU = 1 << 20  # bytes a packet; 16 KiB, pynetdicom's default, is half as fast
BACKLOG = 256  # connections that wait to be accepted; the default, 5, makes senders try again
MAX_TITLE = 16  # characters of an application entity title (PS3.5, table 6.2-1)

_ONE = threading.Lock()  # pynetdicom's settings are those of the whole process


@dataclass(frozen=True, kw_only=True)
class ReceiverSpec:
    """Who may send, and when a series counts as complete."""

    port: int = 0  # 0 = a free one
    host: str = "127.0.0.1"  # "0.0.0.0" = from the whole network, which sees it unencrypted
    aet: str = "HISTO_NB"  # our application entity title
    allowed: tuple[str, ...] = ()  # titles that may send; none = all of them
    quiet_s: float = 10.0  # no instance of the series has come for so long
    poll_s: float = 1.0  # between two looks at what came
    stale_s: float = 3600.0  # a series not complete by then is reported, once
    timeout_s: float = 30.0  # silence after which a connection is ended
    max_associations: int = 200  # at once; senders beyond are asked to come later
    min_free: int = 1 << 30  # bytes left free on the disk; below, senders are refused

    def __post_init__(self) -> None:
        check_positive(poll_s=self.poll_s, stale_s=self.stale_s, timeout_s=self.timeout_s,
                       max_associations=self.max_associations)  # fmt: skip
        if self.quiet_s < 0:
            raise SpecError(f"quiet_s={self.quiet_s:g} must be 0 or more")
        if not 0 <= self.port < 1 << 16:
            raise SpecError(f"port={self.port} must be 0–65535; 0 takes a free one")
        for title in (self.aet, *self.allowed):
            if not _is_title(title):
                raise SpecError(
                    f"{title!r} is no application entity title; it has 1–{MAX_TITLE} plain letters"
                )


class DicomReceiver:
    """A C-STORE receiver; a context manager. One a process, and one a home.

    Parameters
    ----------
    home
        Gets the slides, and the folder `dicom` with what waits.
    on_arrival
        Is called with each slide filed or refused.
    is_held
        Is asked for each instance whether its sender is to come later: "out of resources".
    settings
        Fields of `ReceiverSpec`.

    Raises
    ------
    SpecError
        A setting is wrong, or the port is taken.
    HistoError
        Another receiver is at work here.
    """

    def __init__(
        self,
        home: Home,
        *,
        on_arrival: "Callable[[Arrival], None] | None" = None,
        is_held: Callable[[], bool] = lambda: False,
        **settings: Any,
    ) -> None:
        allowed = tuple(settings.pop("allowed", ()))
        self.spec = ReceiverSpec(allowed=allowed, **settings)
        self._home, self._on_arrival, self._is_held = home, on_arrival, is_held
        self._stack = ExitStack()
        self._keeper: Keeper | None = None
        self._thread: threading.Thread | None = None  # the keeper's
        self.port = self.spec.port  # the true one once it was started

    def __enter__(self) -> "DicomReceiver":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Open the port and go on with what an earlier receiver left."""
        folder = self._home.root / "dicom"
        with ExitStack() as stack, storage_errors(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            stack.enter_context(_alone(folder))
            incoming = stack.enter_context(staging(folder / ".incoming"))
            spool = Spool(folder, incoming, min_free=self.spec.min_free, is_held=self._is_held)
            stack.enter_context(_writing_to(spool))
            self._keeper = self._start_keeper(spool, stack)
            server = self._serve(spool, stack)
            self.port = int(server.server_address[1])
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """Close the port, end open connections, and wait for the intake of a series under way."""
        self._stack.close()

    def is_alive(self) -> bool:
        """Say whether what is received is still filed."""
        return self._thread is not None and self._thread.is_alive()

    def waiting(self) -> list[tuple[str, str]]:
        """Return what each series waits for, by its tag; nothing of it names a patient."""
        return self._keeper.waiting() if self._keeper else []

    def _start_keeper(self, spool: Spool, stack: ExitStack) -> Keeper:
        spec, stop = self.spec, threading.Event()
        keeper = Keeper(
            spool,
            self._home,
            quiet_s=spec.quiet_s,
            stale_s=spec.stale_s,
            on_arrival=self._on_arrival,
        )
        thread = threading.Thread(
            target=keeper.run, args=(stop,), kwargs={"poll_s": spec.poll_s}, name="dicom keeper"
        )
        thread.start()
        self._thread = thread
        stack.callback(thread.join)
        stack.callback(stop.set)
        return keeper

    def _serve(self, spool: Spool, stack: ExitStack) -> "_Server":
        spec = self.spec
        entity = make_entity(spec)
        handlers = [
            (evt.EVT_C_STORE, _store, [spool]),
            (evt.EVT_C_ECHO, lambda _: 0x0000),
            (evt.EVT_ACCEPTED, _release_when_idle),
            (evt.EVT_RELEASED, lambda event: spool.senders.finish(event.assoc.dul)),
        ]
        try:
            server = entity.make_server(
                (spec.host, spec.port), evt_handlers=handlers, server_class=_Server
            )
        except OSError as error:
            raise SpecError(
                f"{spec.host}:{spec.port} cannot be listened on ({error.strerror}); "
                "choose another --port or --host"
            ) from error
        entity._servers.append(server)  # as `start_server` does: `shutdown` ends what is listed
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        stack.callback(entity.shutdown)
        return server


class _Server(ThreadedAssociationServer):  # type: ignore[misc] # pynetdicom is untyped for us
    request_queue_size = BACKLOG


def make_entity(spec: ReceiverSpec) -> AE:
    """Return an application entity that takes whole-slide images as OpenSlide reads them."""
    entity = AE(ae_title=spec.aet)
    entity.add_supported_context(VLWholeSlideMicroscopyImageStorage, list(SYNTAXES))
    entity.add_supported_context(Verification)
    entity.require_calling_aet = list(spec.allowed)
    entity.maximum_associations = spec.max_associations
    entity.maximum_pdu_size = MAX_PDU
    entity.network_timeout = entity.dimse_timeout = entity.acse_timeout = spec.timeout_s
    return entity


def _store(event: Any, spool: Spool) -> int:
    return spool.keep(Path(event.dataset_path), str(event.request.AffectedSOPInstanceUID))


def _release_when_idle(event: Any) -> None:
    """End silent connections politely: some senders keep theirs, with nothing more to say."""
    event.assoc.network_timeout_response = "A-RELEASE"


def _is_title(text: str) -> bool:
    plain = text.isascii() and text.isprintable() and "\\" not in text
    return plain and bool(text.strip()) and len(text) <= MAX_TITLE


class _alone:  # noqa: N801 - used as a function
    """Hold a folder for this process's only receiver."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"

    def __enter__(self) -> None:
        if not _ONE.acquire(blocking=False):
            raise HistoError("this process receives DICOM already; stop that receiver first")
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            _ONE.release()
            raise
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.__exit__()
            raise HistoError(
                f"another process receives DICOM into {self._path.parent}; stop that one first"
            ) from error

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
        _ONE.release()


class _writing_to:  # noqa: N801 - used as a function
    """Make pynetdicom write data sets to a spool as they arrive, not to memory.

    Its chunked mode takes temporary files from the module's name, with no setting for their
    place; they must lie on the spool's disk, and those of senders that went away be known.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def __enter__(self) -> None:
        self._before = _config.STORE_RECV_CHUNKED_DATASET, dimse_messages.NamedTemporaryFile
        _config.STORE_RECV_CHUNKED_DATASET = True
        dimse_messages.NamedTemporaryFile = self._spool.open_incoming

    def __exit__(self, *_: object) -> None:
        _config.STORE_RECV_CHUNKED_DATASET, dimse_messages.NamedTemporaryFile = self._before

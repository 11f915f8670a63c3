"""Kernels of visitors: how many there may be, what they know, and some that wait, warm.

A warm kernel has started and imported what the pages need, and has shown nothing yet: whoever gets
it sees today's data. Voila's own pre-heating renders whole pages ahead and lets kernels ask for
their visitor at an address without login; this needs neither.
"""

import asyncio
import logging
import os
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode

import tornado.web
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_server._tz import utcnow
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from jupyter_server.utils import ApiPath
from traitlets import Float, Integer, Unicode

log = logging.getLogger(__name__)

# All that a kernel inherits: whatever else the server's environment holds may be a secret.
_NAMES = (
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TMPDIR VIRTUAL_ENV CONDA_PREFIX "
    "LD_LIBRARY_PATH DYLD_LIBRARY_PATH XDG_DATA_HOME XDG_CACHE_HOME "
    "OPENBLAS_NUM_THREADS MKL_NUM_THREADS NUMEXPR_NUM_THREADS TQDM_DISABLE"
)
INHERITED = frozenset(_NAMES.split())
PREFIXES = ("LC_", "PYTHON", "HISTO_", "OMP_")
MAX_QUERY = 4000  # characters
WARM_S = 120.0  # what a kernel gets to start and to import
POLL_S = 0.1


def kernel_environment() -> dict[str, str]:
    """Return the part of this process' environment that kernels may know."""
    return {k: v for k, v in os.environ.items() if k in INHERITED or k.startswith(PREFIXES)}


class VisitorKernels(AsyncMappingKernelManager):  # type: ignore[misc]
    """One kernel a visitor, at most `max_visitors`; `n_warm` more wait for the next ones."""

    max_visitors = Integer(10, config=True)
    n_warm = Integer(1, config=True)
    warm_code = Unicode("", config=True)
    refill_s = Float(3.0, config=True)  # the visitor's own page comes first
    patience_s = Float(2.0, config=True)  # a page that is loaded anew gives its place back first

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.visitors: set[str] = set()
        self._opening = 0
        self._waiting: dict[str, AsyncKernelClient] = {}
        self._warming = 0

    # ------------------------------------------------------------------------------ visitors
    async def start_kernel(self, *, env: dict[str, str], **options: Any) -> str:  # type: ignore[override]
        """Return a kernel for the visitor whose request `env` describes.

        Raises
        ------
        tornado.web.HTTPError
            503: all places are taken.
        """
        await self._take_place()
        try:
            facts = {"HISTO_QUERY": _query(env.get("QUERY_STRING", ""))}
            kernel_id = await self._warm_kernel(facts) or await super().start_kernel(
                env=kernel_environment() | facts, **options
            )
            self.visitors.add(kernel_id)
        finally:
            self._opening -= 1
        asyncio.get_running_loop().call_later(self.refill_s, self.fill)
        return kernel_id

    async def _take_place(self) -> None:
        # Between the look and the step there is no await: two cannot take the same place.
        for _ in range(1 + round(self.patience_s / POLL_S)):
            if len(self.visitors) + self._opening < self.max_visitors:
                self._opening += 1
                return
            await asyncio.sleep(POLL_S)
        raise tornado.web.HTTPError(503, reason="Busy")

    async def shutdown_kernel(self, kernel_id: str, *args: Any, **options: Any) -> None:
        """End a kernel; its place is free at once."""
        self.visitors.discard(kernel_id)
        self._close(kernel_id)
        await super().shutdown_kernel(kernel_id, *args, **options)  # type: ignore[no-untyped-call]

    async def shutdown_all(self, now: bool = False) -> None:
        """End all kernels; those without a visitor are not asked, which they would complain of."""
        ends = [
            self.shutdown_kernel(kernel_id, now=now or kernel_id not in self.visitors)
            for kernel_id in list(self.list_kernel_ids())
        ]
        await asyncio.gather(*ends, return_exceptions=True)  # some end by themselves meanwhile

    async def cull_kernel_if_idle(self, kernel_id: str) -> None:
        """End the kernel of a page that is gone; those that wait may wait."""
        if kernel_id in self.visitors:
            await super().cull_kernel_if_idle(kernel_id)  # type: ignore[no-untyped-call]

    # ------------------------------------------------------------------------- warm kernels
    def fill(self) -> None:
        """Start as many kernels as are missing among those that wait."""
        while len(self._waiting) + self._warming < self.n_warm:
            self._warming += 1
            asyncio.get_running_loop().create_task(self._warm())

    async def _warm(self) -> None:
        kernel_id = ""
        try:
            kernel_id = await super().start_kernel(
                kernel_name="python3", path=ApiPath(""), env=kernel_environment()
            )
            client = self.get_kernel(kernel_id).client()
            client.start_channels(iopub=False, stdin=False, hb=False, control=False)
            await _execute(client, self.warm_code)
            self._waiting[kernel_id] = client
        except Exception:
            log.exception("a kernel could not be warmed; pages open more slowly")
            if kernel_id in self:
                await self.shutdown_kernel(kernel_id, now=True)
        finally:
            self._warming -= 1

    async def _warm_kernel(self, facts: dict[str, str]) -> str | None:
        """Return a kernel that waited and lives, told its visitor's `facts`; or None."""
        while self._waiting:
            kernel_id = next(iter(self._waiting))
            client = self._waiting.pop(kernel_id)
            kernel = self.get_kernel(kernel_id)
            try:
                kernel.last_activity = utcnow()  # its idle time begins now
                if await kernel.is_alive():
                    await _execute(client, f"import os; os.environ.update({facts!r})")
                    return kernel_id
            except Exception:
                log.exception("a waiting kernel failed")
            finally:
                client.stop_channels()
            with suppress(Exception):
                await self.shutdown_kernel(kernel_id, now=True)
        return None

    def _close(self, kernel_id: str) -> None:
        if client := self._waiting.pop(kernel_id, None):
            client.stop_channels()


async def _execute(client: AsyncKernelClient, code: str) -> None:
    reply = await client.execute(code, silent=True, reply=True, timeout=WARM_S)
    if reply["content"]["status"] != "ok":
        raise RuntimeError("\n".join(reply["content"].get("traceback", ["aborted"])))


def _query(text: str) -> str:
    """Return the query string without a token that may stand in it."""
    kept = [item for item in parse_qsl(text[:MAX_QUERY]) if item[0] != "token"]
    return urlencode(kept)

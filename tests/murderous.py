"""For workers in tests: what the mask of a slide called KILLER or HANGER does to them."""

import os
import signal
import time
from typing import Any

from histo_nb.running.cohort import stages


def dask_setup(_: Any) -> None:
    """Dask calls this when a worker starts."""
    original = stages.mask_slides

    def mask_slides(home: Any, slide_ids: list[str], **named: Any) -> Any:
        if slide_ids == ["KILLER"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if slide_ids == ["HANGER"]:
            time.sleep(600)
        if slide_ids == ["BROKEN"]:
            raise MemoryError("no room for it")
        return original(home, slide_ids, **named)

    stages.mask_slides = mask_slides

"""What is installed, and whether this machine is ready."""

import importlib.metadata
import os
import platform
import shutil
from typing import Any

import openslide
import psutil
import torch

from histo_nb.home import Home
from histo_nb.model.card import installed_versions

FACES = ("jupyterlab", "voila", "papermill", "anywidget", "ipywidgets", "pandas", "sqlalchemy")
MIN_FREE_GB = 2.0  # the demo's slides, pixels and models need about half of it


def examine(home: Home) -> dict[str, Any]:
    """Return versions, cores, memory, GPU, free disk; `failures` names what must be put right."""
    free_gb = shutil.disk_usage(home.root).free / 1e9
    failures = []
    if free_gb < MIN_FREE_GB:
        failures.append(
            {
                "check": "disk",
                "error": f"{free_gb:.1f} GB free at {home.root}; {MIN_FREE_GB} needed",
            }
        )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": installed_versions()
        | {name: importlib.metadata.version(name) for name in FACES},
        "openslide": openslide.__library_version__,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": gpu,
        "chromium": shutil.which("chromium"),
        "home": str(home.root),
        "free_disk_gb": round(free_gb, 1),
        "failures": failures,
    }

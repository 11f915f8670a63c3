"""JupyterLab with one notebook, from any environment, and the kernels of a server."""

import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import psutil
from playwright.sync_api import Page

START_S = 60.0
NEWS = ".SETTINGS/@jupyterlab/apputils-extension/notification.jupyterlab-settings"


@contextmanager
def serving_lab(python: Path, cells: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Serve a notebook in JupyterLab; yield the server's process id and the notebook's address."""
    with tempfile.TemporaryDirectory() as name:
        folder, token = Path(name), secrets.token_urlsafe()
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, folder / "viewer.ipynb")
        (folder / NEWS).parent.mkdir(parents=True)
        (folder / NEWS).write_text(json.dumps({"fetchNews": "false"}))  # else it asks in front
        port = free_port()
        lab = start_lab(python, folder, port=port, token=token)
        try:
            wait_for(f"http://127.0.0.1:{port}/api?token={token}", lab)
            yield lab.pid, f"http://127.0.0.1:{port}/lab/tree/viewer.ipynb?token={token}"
        finally:
            lab.terminate()
            lab.wait()


def start_lab(python: Path, folder: Path, *, port: int, token: str) -> "subprocess.Popen[bytes]":
    # settings and workspaces of its own: what a person has set up is neither used nor changed
    own = {
        f"JUPYTERLAB_{name}_DIR": str(folder / f".{name}") for name in ("SETTINGS", "WORKSPACES")
    }
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder,
        "Application.log_level": "CRITICAL",
        "IdentityProvider.token": token,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [str(python), "-m", "jupyterlab", "--no-browser", "--allow-root", *arguments]
    return subprocess.Popen(command, env=os.environ | own, cwd=folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url).close()
        except urllib.error.URLError:
            time.sleep(0.3)
        else:
            return
    raise RuntimeError("JupyterLab did not start")


def open_notebook(page: Page, url: str) -> None:
    """Open a notebook and wait until its kernel is idle."""
    page.goto(url)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=60_000)
    page.keyboard.press("Control+b")  # the file browser, away
    page.wait_for_timeout(1000)


def enter_cell(page: Page, number: int) -> None:
    page.locator(".jp-Notebook .jp-Cell").nth(number).locator(".cm-content").click()


def is_computing(page: Page, number: int) -> bool:
    prompt = page.locator(".jp-Notebook .jp-Cell").nth(number).locator(".jp-InputPrompt").first
    return "*" in prompt.inner_text()


def find_kernels(server: int) -> list[psutil.Process]:
    """Return the kernels that a server has started, the newest last."""
    children = psutil.Process(server).children(recursive=True)
    kernels = [child for child in children if "ipykernel_launcher" in " ".join(child.cmdline())]
    return sorted(kernels, key=psutil.Process.create_time)


def memory_mb(kernel: psutil.Process) -> dict[str, Any]:
    """Return MB of a process: its own, and with its part of what is shared (Linux)."""
    told = kernel.memory_full_info()
    return {"uss_mb": told.uss / 1e6, "pss_mb": getattr(told, "pss", float("nan")) / 1e6}

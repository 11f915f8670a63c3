"""Pace and memory of the DICOM receiver: one instance of some 400 MB by dcmtk's storescu, loopback.

`python benchmarks/dicom_receive.py [--megabytes 400] [--times 3]`; the goals are 150 MB/s with the
bytes on the disk, and 150 MB resident. The receiver is a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from dicoms import frames_of, write_instance  # noqa: E402 - of the tests

SERVE = """
import sys
from histo_nb.home import open_home
from histo_nb.scanning.dicom.receiver import DicomReceiver
with DicomReceiver(open_home(sys.argv[1]), quiet_s=1e6, allowed=["STORESCU"]) as receiver:
    print(receiver.port, flush=True)
    sys.stdin.read()
"""


def write_large(path: Path, n_bytes: int) -> Path:
    noise = np.random.default_rng(1).integers(0, 255, (4096, 4096, 3), np.uint8)
    frames = frames_of(noise, "JPEG", 256)
    side = int((n_bytes / (sum(map(len, frames)) / len(frames))) ** 0.5)
    frames = [frames[i % len(frames)] for i in range(side * side)]
    return write_instance(path, frames, size=(side * 256, side * 256), tile=256)


def send(path: Path, port: int) -> float:
    command = ["storescu", "-xy", "-R", "-aec", "HISTO_NB", "127.0.0.1", str(port), str(path)]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def measure(folder: Path, path: Path, number: int) -> dict[str, float]:
    home = folder / f"home{number}"
    child = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        port = int(child.stdout.readline())
        before = psutil.Process(child.pid).memory_info().rss
        seconds = send(path, port)
        status = Path(f"/proc/{child.pid}/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
        (kept,) = (home / "dicom").glob("*/*.dcm")
        n_bytes = kept.stat().st_size
    finally:
        child.communicate("")
    return {
        "MB": round(n_bytes / 1e6),
        "MB/s": round(n_bytes / 1e6 / seconds),
        "MB resident before": round(before / 1e6),
        "MB resident at most": round(peak / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_large(folder / "large.dcm", asked.megabytes * 1_000_000)
        for number in range(asked.times):
            print(json.dumps(measure(folder, path, number)))


if __name__ == "__main__":
    main()

"""What no program can beat on this machine: decoding once, the network alone, the mask.

Decoder and network are measured with all cores at the same work, since cores share caches and
clocks, and are taken at their best; times are of one core.
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tifffile

BATCH, INPUT_PX = 8, 224
NETWORK_GFLOP = 2 * 3.644  # histonet33 on one tile of 224 px
FILES = {"bf16": "fp32"}  # rounded when it is loaded
HINTS: dict[str, dict[str, Any]] = {
    "fp32": {"INFERENCE_PRECISION_HINT": "f32"},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
    "int8": {"INFERENCE_PRECISION_HINT": "f32"},  # of what is not quantised
}


def best_of(n: int, work: Callable[[], Any]) -> float:
    """Return the shortest of `n` times in seconds."""
    times = []
    for _ in range(n):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def best_of_all(n: int, makers: list[Callable[[], Any]]) -> float:
    """Return the shortest of `n` times in which as many threads did their work side by side."""
    with ThreadPoolExecutor(len(makers)) as pool:
        return best_of(n, lambda: list(pool.map(lambda work: work(), makers)))


def measure_decoder(slide: Path, found: dict[str, Any], n_cores: int) -> tuple[float, int]:
    """Return libjpeg-turbo's ms for a stored tile, and how many of them hold the tiles found."""
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[0]
        columns = -(-page.imagewidth // page.tilewidth)
        size = found["size_l0"]
        held = {
            row * columns + column
            for x, y in zip(found["x"], found["y"], strict=True)
            for row in range(y // page.tilelength, -(-(y + size) // page.tilelength))
            for column in range(x // page.tilewidth, -(-(x + size) // page.tilewidth))
        }
        encoded = []
        for number in sorted(held)[:: max(len(held) // 1000, 1)]:
            tiff.filehandle.seek(page.dataoffsets[number])
            data = tiff.filehandle.read(page.databytecounts[number])
            encoded.append((page.jpegtables or b"\xff\xd8\xff\xd9")[:-2] + data[2:])
        shape = (page.tilelength, page.tilewidth, 3)

    def decode() -> None:
        pixels = np.empty(shape, np.uint8)
        for data in encoded:
            simplejpeg.decode_jpeg(data, buffer=pixels)

    return 1000 * best_of_all(3, [decode] * n_cores) / len(encoded), len(held)


def open_network(bundle: Path, torchscript: Path, precision: str) -> Any:
    """Return the OpenVINO model of a precision, batch `BATCH`.

    The bundle's own lie in `prepared/<precision>.xml`; where it has none, the TorchScript is
    converted, and of int8 there is none.
    """
    import openvino  # noqa: PLC0415

    stored = bundle / "prepared" / f"{FILES.get(precision, precision)}.xml"
    if stored.is_file():
        model = openvino.Core().read_model(stored)
        axes = list(model.input(0).partial_shape)[1:]
        model.reshape([BATCH, *(axis.get_length() for axis in axes)])
        return model
    if precision == "int8":
        raise LookupError(f"the bundle has no {stored.name}")
    import torch  # noqa: PLC0415

    shape = [BATCH, 3, INPUT_PX, INPUT_PX]
    network = torch.jit.load(str(torchscript))
    return openvino.convert_model(network, input=shape, example_input=torch.rand(shape))


def measure_network(bundle: Path, torchscript: Path, precision: str, n_cores: int) -> float:
    """Return ms of one core a tile of the network alone, pixels in memory."""
    import openvino  # noqa: PLC0415

    model = open_network(bundle, torchscript, precision)
    said = {"INFERENCE_NUM_THREADS": n_cores, "NUM_STREAMS": n_cores} | HINTS[precision]
    compiled = openvino.Core().compile_model(model, "CPU", said)
    requests = [compiled.create_infer_request() for _ in range(n_cores)]
    pixels = np.random.default_rng(0).random(tuple(model.input(0).shape))
    pixels = pixels.astype(model.input(0).get_element_type().to_dtype())
    works = [lambda request=request: request.infer([pixels]) for request in requests]
    return 1000 * best_of_all(10, works) / BATCH


def measure_matmul(precision: str) -> float | None:
    """Return GFLOP/s of a large product of matrices; of int8 it is not measured."""
    import torch  # noqa: PLC0415

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(precision)
    if kind is None:
        return None
    torch.set_num_threads(1)
    n = 2048
    a, b = (torch.rand(n, n).to(kind) for _ in range(2))
    return 2 * n**3 / best_of(5, lambda: a @ b) / 1e9


def measure_mask(slide: Path) -> float:
    """Return the seconds of our mask."""
    from histo_nb.masking.tissue import MaskSpec, mask_slide  # noqa: PLC0415
    from histo_nb.slide import Slide  # noqa: PLC0415

    def mask() -> None:
        with Slide(slide) as opened:
            mask_slide(opened, spec=MaskSpec(), measure=False)

    return best_of(3, mask)


def measure_reading(slide: Path) -> float:
    """Return ms of one core a tile for our exact reading alone, 1024 px to 512."""
    from histo_nb.masking.tissue import MaskSpec, mask_slide  # noqa: PLC0415
    from histo_nb.slide import Slide  # noqa: PLC0415
    from histo_nb.tiling.grid import TileSpec, tile_slide  # noqa: PLC0415
    from histo_nb.tiling.reader import read_tiles  # noqa: PLC0415

    with Slide(slide) as opened:
        mask = mask_slide(opened, spec=MaskSpec(), measure=False)
        tiles = tile_slide(opened, mask, spec=TileSpec(), slide_id="S", patient_id=None)

    def read() -> None:
        for _, pixels in read_tiles(tiles, lambda s, row: s.read_tile(row, size=512), size=512,
                                    n_threads=1):  # fmt: skip
            del pixels

    return 1000 * best_of(3, read) / len(tiles)


def measure_limits(
    slide: Path, found: dict[str, Any], bundle: Path, torchscript: Path, *, n_cores: int
) -> dict[str, dict[str, Any]]:
    """Return by precision the seconds that no program can beat, and what they are made of.

    (tiles × (decoding of their stored tiles, each once + network) + mask) ÷ cores.

    Parameters
    ----------
    found
        The tiles: `x`, `y`, `size_l0`.
    """
    stored_ms, n_stored = measure_decoder(slide, found, n_cores)
    n_tiles, mask_s, read_ms = len(found["x"]), measure_mask(slide), measure_reading(slide)
    decode_ms = n_stored * stored_ms / n_tiles
    limits: dict[str, dict[str, Any]] = {}
    for precision in HINTS:
        try:
            network_ms = measure_network(bundle, torchscript, precision, n_cores)
        except (LookupError, RuntimeError, ImportError) as error:
            print(f"limit at {precision}: not measured ({error})", file=sys.stderr)
            continue
        limits[precision] = {
            "tiles": n_tiles,
            "decode_ms_a_tile": decode_ms,
            "read_ms_a_tile": read_ms,
            "network_ms_a_tile": network_ms,
            "network_gflops": 1000 * NETWORK_GFLOP / network_ms,
            "matmul_gflops": measure_matmul(precision),
            "mask_s": mask_s,
            "limit_s": (n_tiles * (decode_ms + network_ms) / 1000 + mask_s) / n_cores,
        }
    return limits

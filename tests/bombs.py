"""Small files that ask for gigabytes, and a process with limits to look at them in."""

import os
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage

APERIO = "Aperio Image Library v12\r\n|AppMag = 20|MPP = 0.5"


def label_of_zeros(path: Path, side: int = 30_000) -> Path:
    """An SVS whose label is 30,000² px of nothing: 3 MB, 2.7 GB when opened."""
    rows = side // 30
    strip = zlib.compress(bytes(side * rows * 3), 9)
    options = {"photometric": "rgb", "metadata": None, "description": APERIO}
    with tifffile.TiffWriter(path) as tiff:
        noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
        tiff.write(noise, tile=(256, 256), compression="jpeg", **options)
        tiff.write(
            iter([strip] * 30),
            shape=(side, side, 3),
            dtype=np.uint8,
            rowsperstrip=rows,
            compression="zlib",
            subfiletype=1,
            **options,
        )
    return path


def sparse(path: Path) -> Path:
    """A TIFF of 200,000² px of which no tile is stored."""
    return _all_alike(path, stored=False)


def hole(path: Path) -> Path:
    """An uncompressed TIFF of 40,000² px whose 4.8 GB were announced and never written."""
    side, tile = 40_000, 2048
    n_tiles, n_bytes = (-(-side // tile)) ** 2, tile * tile * 3
    _all_alike(path, stored=False, side=side, tile=tile, compression=None)
    with tifffile.TiffFile(path) as tiff:
        places = tiff.pages[0].tags["TileOffsets"].valueoffset
        counts = tiff.pages[0].tags["TileByteCounts"].valueoffset
    with path.open("r+b") as file:
        start = file.seek(0, os.SEEK_END)
        file.truncate(start + n_tiles * n_bytes)  # takes no room on the disk
        file.seek(places)
        file.write((start + n_bytes * np.arange(n_tiles)).astype("<u8").tobytes())
        file.seek(counts)
        file.write(np.full(n_tiles, n_bytes, "<u8").tobytes())
    return path


def shared(path: Path) -> Path:
    """A TIFF of 200,000² px, all of them the same small tile."""
    return _all_alike(path, stored=True)


def _all_alike(
    path: Path,
    *,
    stored: bool,
    side: int = 200_000,
    tile: int = 256,
    compression: str | None = "jpeg",
) -> Path:
    """Write one tile, then change the directory to a large grid of tiles, all of them that one."""
    options = {"photometric": "rgb", "metadata": None, "compression": compression}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        noise = np.random.default_rng(0).integers(0, 255, (tile, tile, 3), np.uint8)
        tiff.write(noise, tile=(tile, tile), **options)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        places = {tag.name: tag.offset for tag in page.tags.values()}
        lists = {"TileOffsets": page.dataoffsets[0], "TileByteCounts": page.databytecounts[0]}
    n_tiles = (-(-side // tile)) ** 2
    with path.open("r+b") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.seek(places[name] + 2)
            file.write(struct.pack("<HQQ", 4, 1, side))
        for name, value in lists.items():
            end = file.seek(0, os.SEEK_END)
            file.write(np.full(n_tiles, value if stored else 0, "<u8").tobytes())
            file.seek(places[name] + 2)
            file.write(struct.pack("<HQQ", 16, n_tiles, end))
    return path


def deflated_dicom(path: Path, n_bytes: int = 3 << 30) -> Path:
    """A DICOM instance of 3 MB that inflates to 3 GB."""
    dataset = Dataset()
    dataset.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.2"
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.3"
    dataset.Modality = "SM"
    dataset.Rows = dataset.Columns = 1 << 15
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = BytesIO()
    dcmwrite(whole, dataset, enforce_file_format=True)
    head = whole.getvalue()
    place = head.index(b"\x02\x00\x10\x00UI")  # transfer syntax, the last but some of the header
    (group,) = struct.unpack("<I", head[140:144])  # length of the group 0002
    assert place < 144 + group
    raw = zlib.decompress(head[144 + group :], -15)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = raw + b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", n_bytes)
    chunk = 1 << 26
    with path.open("wb") as file:
        file.write(head[: 144 + group])
        file.write(deflate.compress(start) + deflate.flush(zlib.Z_FULL_FLUSH))
        again = deflate.compress(bytes(chunk)) + deflate.flush(zlib.Z_FULL_FLUSH)
        for _ in range(n_bytes // chunk):  # after a full flush, the same bytes mean the same
            file.write(again)
        file.write(deflate.flush())
    return path


def wide_jpeg(path: Path, side: int = 65_500) -> Path:
    """An SVS with a JPEG tile that claims 65,500² px: 12 GB."""
    with tifffile.TiffWriter(path) as tiff:
        noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
        options = {"photometric": "rgb", "metadata": None, "description": APERIO}
        tiff.write(noise, tile=(256, 256), compression="jpeg", **options)
    raw = bytearray(path.read_bytes())
    frame = raw.index(b"\xff\xc0")
    raw[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    path.write_bytes(raw)
    return path


def many_entries(path: Path, n: int = 2_000_000) -> Path:
    """A BigTIFF with one directory of two million entries."""
    entries = np.zeros(n, np.dtype("<u2,<u2,<u8,<u8"))
    entries["f0"], entries["f1"], entries["f2"] = 65000, 3, 1
    path.write_bytes(struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, n) + entries.tobytes() + bytes(8))
    return path


def many_directories(path: Path, n: int = 100_000) -> Path:
    """A TIFF with a chain of 100,000 directories."""
    chain = np.zeros(n, np.dtype("<u2,<u2,<u2,<u4,<u4,<u4"))
    chain["f0"], chain["f1"], chain["f2"], chain["f3"], chain["f4"] = 1, 256, 3, 1, 7
    chain["f5"] = 8 + 18 * (np.arange(n) + 1)
    chain["f5"][-1] = 0
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + chain.tobytes())
    return path


def many_values(path: Path, n: int = 1 << 32) -> Path:
    """A BigTIFF whose tile offsets are said to be 4 billion numbers."""
    entries = [(256, 4, 1, 1 << 24), (257, 4, 1, 1 << 12), (322, 3, 1, 16), (323, 3, 1, 16)]
    entries += [(324, 16, n, 16), (325, 16, n, 16)]
    packed = b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
    head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(entries))
    path.write_bytes(head + packed + bytes(4096))
    return path


STRUCTURE_BOMBS = (label_of_zeros, sparse, hole, shared, wide_jpeg, many_entries, many_directories,
                   many_values)  # fmt: skip
MEMORY_LIMIT, CPU_LIMIT_S = 1 << 30, 5  # each file's own

CHILD = """
import os, resource, sys
from pathlib import Path
from histo_nb.errors import SlideError
from histo_nb.scanning.structure.check import check_structure
for line in sys.stdin:
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]),) * 2)
        try:
            check_structure(Path(line.rstrip("\\n")))
        except SlideError:
            os._exit(1)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(2)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def examine_limited(paths: list[Path]) -> list[int]:
    """Return for each file 0 (passed), 1 (refused by name), or else: how its process ended."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(MEMORY_LIMIT), str(CPU_LIMIT_S)],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    return [int(line) for line in child.stdout.split()]

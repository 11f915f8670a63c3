"""The structure walk: lets every honest file pass, refuses every hostile one, and stays alive."""

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import bombs
import numpy as np
import pytest
import tifffile
from counts import count
from damage import CODECS, tissue
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.structure import bytefile, zero_runs
from histo_nb.scanning.structure.bytefile import ByteFile
from histo_nb.scanning.structure.check import check_structure
from histo_nb.scanning.structure.tiff_walk import walk_tiff
from histo_nb.scanning.virtual.drawn import DrawnSpec, draw_glass
from histo_nb.scanning.virtual.scanner import write_scan

RGB = {"photometric": "rgb", "metadata": None}


# ------------------------------------------------------------------ honest files pass
def test_real_and_drawn_slides_pass(data: Path) -> None:
    paths = [p for p in sorted((data / "slides").rglob("*")) if ".dcm" not in p.name]
    paths = [p for p in paths if p.is_file()]
    assert len(paths) >= 13
    for path in paths:
        check_structure(path)


def test_a_slide_of_the_virtual_scanner_passes(tmp_path: Path) -> None:
    glass = draw_glass("P-1", diagnosis="normal", seed=2, spec=DrawnSpec(size_um=(1300, 1200)))
    check_structure(write_scan(glass, tmp_path / "scan.svs", spec=ScanSpec()))


@pytest.mark.parametrize("codec", CODECS)
def test_each_codec_passes_in_either_byte_order(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    for order in "<>":
        for planes in ("contig", "separate"):
            image = tissue() if planes == "contig" else np.moveaxis(tissue(), 2, 0).copy()
            if codec.startswith("JPEG") and planes == "separate":
                continue  # nobody writes that
            options = RGB | CODECS[codec] | {"planarconfig": planes, "tile": (256, 256)}
            tifffile.imwrite(path, image, byteorder=order, **options)
            check_structure(path)


@pytest.mark.parametrize("way", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", None])
def test_strips_of_libtiff_pass(way: str | None, tmp_path: Path) -> None:
    path = tmp_path / "picture.tif"
    picture = Image.fromarray(tissue())
    picture.save(path, compression=way, save_all=True, append_images=[picture.resize((300, 200))])
    check_structure(path)


def test_pyramids_below_a_directory_pass_and_are_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "slide.ome.tif"
    tiled = {"photometric": "rgb", "compression": "jpeg", "tile": (256, 256)}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(tissue(), subifds=2, **tiled)
        for step in (2, 4):
            tiff.write(tissue()[::step, ::step].copy(), subfiletype=1, **tiled)
    check_structure(path)
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[0].pages[1].dataoffsets[0]
    overwrite(path, start, bytes(2))
    with pytest.raises(IncompleteError, match="lacks its beginning"):
        check_structure(path)


@pytest.mark.parametrize("codec", ["aperio_jp2000_rgb", "zlib", "lzw", "zstd", "packbits"])
@pytest.mark.parametrize("colour", [0, 243])
def test_large_tiles_of_one_colour_pass(codec: str, colour: int, tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    plane = np.full((2048, 2048, 3), colour, np.uint8)
    tifffile.imwrite(path, plane, tile=(2048, 2048), compression=codec, **RGB)
    check_structure(path)


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_optimised_jpeg_of_blank_glass_passes_and_its_damage_does_not(
    share: float, tmp_path: Path
) -> None:
    """Zero bits are a flat picture where the Huffman tables were made for the tile."""
    plane = np.full((1024, 1024, 3), 243, np.uint8)
    plane[: int(share * 1024)] = tissue()[: int(share * 1024), :1024]
    path = optimised_jpeg(plane, tmp_path / "slide.tif", tile=1024)
    whole = path.read_bytes()
    assert b"\0" * 1024 in whole
    check_structure(path)
    for start in range(1500, len(whole) - 4096, count(quick=9_973, full=997)):
        if whole[start : start + 4096].strip(b"\0"):
            path.write_bytes(whole[:start] + bytes(4096) + whole[start + 4096 :])
            with pytest.raises(IncompleteError):
                check_structure(path)


def test_a_tile_shared_by_all_passes_and_a_part_shared_does_not(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, tissue(), tile=(256, 256), compression="jpeg", **RGB)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        starts, counts = page.tags["TileOffsets"], page.tags["TileByteCounts"]
        places = starts.valueoffset, counts.valueoffset
        values = page.dataoffsets[0], page.databytecounts[0]
        size = {"TileByteCounts": counts.dtype.value}[counts.name]
    code = {3: "<H", 4: "<I"}[size]
    overwrite(path, places[0] + 4, struct.pack("<I", values[0]))
    overwrite(path, places[1] + struct.calcsize(code), struct.pack(code, values[1]))
    check_structure(path)
    overwrite(path, places[0] + 4, struct.pack("<I", values[0] + 8))
    with pytest.raises(SlideError, match="share bytes"):
        check_structure(path)


def test_padding_behind_tiles_and_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    tiles = [jpeg(tissue()[:256, :256]) + bytes(30)] * 4
    tifffile.imwrite(
        path, iter(tiles), shape=(512, 512, 3), dtype=np.uint8, tile=(256, 256),
        compression="jpeg", photometric="ycbcr", subsampling=(2, 2), metadata=None,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + bytes(4000))
    check_structure(path)
    path.write_bytes(path.read_bytes() + bytes(100_000))
    with pytest.raises(IncompleteError, match="nothing refers to"):
        check_structure(path)


def test_black_areas_pass_where_they_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    plane = tissue().copy()
    plane[200:700, 100:1000] = 0
    tifffile.imwrite(path, plane, tile=(256, 256), **RGB)
    with pytest.raises(IncompleteError, match="histo-nb intake --allow-black"):
        check_structure(path)
    check_structure(path, allow_black=True)


@pytest.mark.parametrize("far", [False, True])
def test_ndpi_is_read_with_its_long_offsets(far: bool, tmp_path: Path) -> None:
    """`far`: its directory and values lie behind 4 GiB; the hole there takes no disk."""
    path = write_ndpi(tmp_path / "slide.ndpi", base=(1 << 32) + 4096 if far else 16)
    with ByteFile(path) as file:
        (directory,) = walk_tiff(file)
        assert directory.number(file, 273, 0) == directory.start - 40_000
        assert directory.raw(file, 270, most=99).startswith(b"made by hand")
    if not far:
        check_structure(path)
        overwrite(path, 20_000, bytes(4096))
        with pytest.raises(IncompleteError, match="never written"):
            check_structure(path)


# ------------------------------------------------------------------ hostile files are refused
@pytest.mark.parametrize("make", bombs.STRUCTURE_BOMBS)
def test_bombs_are_refused_within_limits(make, tmp_path: Path) -> None:
    assert bombs.examine_limited([make(tmp_path / "slide.svs")]) == [1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (bombs.many_entries, "2,000,000 entries"),
        (bombs.many_directories, "a slide has far fewer"),
        (bombs.many_values, "refers to byte 34,359,738,384"),
    ],
)
def test_huge_directories_are_not_read(make, said: str, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=said):
        check_structure(make(tmp_path / "slide.svs"))


LIES = {  # entry: type, values, value or place, and what is said of it
    256: (4, 1, 1 << 31, "px; copy"),
    257: (4, 1, 0, "× 0 px"),
    258: (3, 1, 7, "bits"),
    259: (3, 1, 4711, "compression 4711"),
    270: (2, 200, 1 << 30, "refers to byte"),
    277: (3, 1, 999, "999 colours"),
    322: (4, 1, 1 << 30, "tiles of"),
    324: (4, 3, 8, "needs 4 tiles or strips and lists 3"),
    325: (4, 4, 8, "tiles"),
}


@pytest.mark.parametrize("code", LIES)
def test_one_lie_is_enough(code: int, tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    tifffile.imwrite(path, tissue()[:128, :128], tile=(64, 64), **RGB, description=bombs.APERIO)
    kind, n_values, value, said = LIES[code]
    overwrite(path, tag_place(path, code) + 2, struct.pack("<HII", kind, n_values, value))
    with pytest.raises(SlideError, match=said):
        check_structure(path)


def test_directories_in_a_circle_and_empty_entries_are_refused(tmp_path: Path) -> None:
    path = write_codec(tmp_path, "deflate")
    with ByteFile(path) as file:
        (directory,) = walk_tiff(file)
    end = directory.start + directory.n_bytes - 4
    overwrite(path, end, struct.pack("<I", directory.start))
    with pytest.raises(SlideError, match="in a circle"):
        check_structure(path)
    overwrite(path, end - 12, bytes(16))
    with pytest.raises(IncompleteError, match="empty entries"):
        check_structure(path)


@pytest.mark.parametrize(
    ("codec", "place", "spoilt"),
    [
        ("JPEG", 0, b"\0\0"),
        ("JPEG", -2, b"\x11\x11"),
        ("JPEG 2000", 0, b"\0\0"),
        ("JPEG 2000", -2, b"\x11\x11"),
        ("LZW", 0, b"\0"),
        ("LZW", -20, bytes(20)),
        ("deflate", 0, b"\0"),
        ("deflate", -20, bytes(20)),
    ],
)
def test_the_ends_of_a_tile_are_looked_at(
    codec: str, place: int, spoilt: bytes, tmp_path: Path
) -> None:
    path = write_codec(tmp_path, codec)
    with tifffile.TiffFile(path) as tiff:
        start, count_ = tiff.pages[0].dataoffsets[2], tiff.pages[0].databytecounts[2]
    overwrite(path, start + place % count_, spoilt)
    with pytest.raises(IncompleteError, match="tile 3 of its image 1 lacks"):
        check_structure(path)


def test_short_tiles_are_refused(tmp_path: Path) -> None:
    path = write_codec(tmp_path, "uncompressed")
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
    overwrite(path, tag.valueoffset, struct.pack("<H", 99))
    with pytest.raises(IncompleteError, match="shorter than their pixels"):
        check_structure(path)


def test_deflated_black_passes_whole_and_not_cut(tmp_path: Path) -> None:
    """Its long zeros are true, and its checksum says whether it is all there."""
    path = tmp_path / "slide.svs"
    black = zlib.compress(bytes(2048 * 2048 * 3))
    assert b"\0" * 1024 in black
    size = {"shape": (2048, 2048, 3), "dtype": np.uint8, "tile": (2048, 2048)}
    tifffile.imwrite(path, iter([black]), compression="zlib", **RGB, **size)
    check_structure(path)
    overwrite(path, tag_place(path, 325) + 8, struct.pack("<I", len(black) - 1))
    with pytest.raises(IncompleteError, match="zero bytes at tile 1"):
        check_structure(path)


def test_a_colour_profile_with_a_hole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    profile = bytes(range(1, 251)) * 40
    tifffile.imwrite(path, tissue(), tile=(256, 256), **RGB, iccprofile=profile)
    check_structure(path)
    overwrite(path, path.read_bytes().index(profile) + 3000, bytes(4096))
    with pytest.raises(IncompleteError, match="what it says of itself"):
        check_structure(path)


def test_a_file_with_large_unclaimed_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    blob = (65000, 7, 3_000_000, b"\1" * 3_000_000, True)
    tifffile.imwrite(path, tissue(), tile=(256, 256), **RGB, extratags=[blob])
    check_structure(path)
    overwrite(path, tag_place(path, 65000) + 4, struct.pack("<I", 1))
    with pytest.raises(IncompleteError, match="nothing refers to 3,0"):
        check_structure(path)


def test_malformed_files_are_refused_or_pass_within_limits(data: Path) -> None:
    paths = [p for p in sorted((data / "malformed").rglob("*")) if p.is_file()]
    assert len(paths) == 121
    results = bombs.examine_limited(paths)
    assert set(results) == {0, 1}
    at_risk = [r for p, r in zip(paths, results, strict=True) if p.parent.name == "abort"]
    assert at_risk == [1, 1, 1]  # each of these ends OpenSlide's process


def test_fuzzed_headers_are_refused_or_pass_within_limits(tmp_path: Path) -> None:
    paths = list(fuzzed(tmp_path, count(quick=150, full=2000)))
    results = bombs.examine_limited(paths)
    assert len(results) == len(paths)
    assert set(results) == {0, 1}


@given(st.binary(max_size=400), st.sampled_from([b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b""]))
def test_random_bytes_give_a_named_error(body: bytes, mark: bytes) -> None:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"histo-random-{os.getpid()}.svs"
    path.write_bytes(mark + body)
    try:
        with pytest.raises(SlideError):
            check_structure(path)
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"", "has 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        (b"<!DOCTYPE HTML>\n<html><head>", "a web page, saved in place of the slide"),
        (b"\x89PNG\r\n\x1a\n" + bytes(90), "a PNG picture"),
        (b"PK\x03\x04" + bytes(90), "a ZIP archive; unpack it"),
        (b"\xff\xd8\xff\xe0" + bytes(90), "a JPEG picture alone"),
        (b"Hello", "a text file"),
        (bytes(5000), "begins with zeros"),
        (b"\x01\x02\x03", "of an unknown kind"),
        (b"II*\0\x08\0\0\0", "is cut off"),
    ],
)
def test_what_is_no_slide_is_named(head: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "slide.svs"
    path.write_bytes(head)
    with pytest.raises(SlideError, match=rf"^slide\.svs .*{re.escape(said)}"):
        check_structure(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    for name in ("pipe.svs", "missing.svs", "."):
        with pytest.raises(SlideError):
            check_structure(tmp_path / name)


# ------------------------------------------------------------------ MIRAX and VMS
def test_files_of_a_mirax_slide(tmp_path: Path) -> None:
    main, folder = tmp_path / "slide.mrxs", tmp_path / "slide"
    folder.mkdir()
    main.write_bytes(jpeg(tissue()[:300, :300]))
    head = b"01.02" + b"7C691E3F2DC6412781AECA3E3B3213C1" + bytes(259)
    tiles = [jpeg(tissue()[y : y + 256, :256]) for y in range(0, 1024, 256)]
    content = {
        "Slidedat.ini": b"\xef\xbb\xbf[GENERAL]\r\nSLIDE_ID = 7C\r\n",
        "Index.dat": head + bytes(9000) + b"\1" * 40,
        "Data0000.dat": head + b"".join(tiles[:2]) + bytes(5000) + b"\1" + b"".join(tiles[2:]),
    }
    for name, raw in content.items():
        (folder / name).write_bytes(raw)
    paths = [main, *folder.iterdir()]
    for path in paths:
        check_structure(path)
    data = folder / "Data0000.dat"
    raw = data.read_bytes()
    for start in (2000, len(head + b"".join(tiles[:2])) - 300, len(raw) - 4096):
        data.write_bytes(raw[:start] + bytes(4096) + raw[start + 4096 :])
        with pytest.raises(IncompleteError, match="never written"):
            check_structure(data)
    for path in (main, folder / "Slidedat.ini", folder / "Index.dat"):
        path.write_bytes(bytes(300) + path.read_bytes()[300:])
        with pytest.raises(SlideError):
            check_structure(path)


def test_files_of_a_vms_slide(tmp_path: Path) -> None:
    main, picture = tmp_path / "slide.vms", tmp_path / "slide(0,1).jpg"
    main.write_bytes(b"[Virtual Microscope Specimen]\r\nNoLayers=1\r\n")
    picture.write_bytes(jpeg(tissue()))
    (tmp_path / "slide.opt").write_bytes(b"\1" + bytes(39))
    for path in tmp_path.iterdir():
        check_structure(path)
    raw = picture.read_bytes()
    for spoilt in (raw[:-5000], raw[:9000] + bytes(4096) + raw[13_096:], bytes(300) + raw[300:]):
        picture.write_bytes(spoilt)
        with pytest.raises(IncompleteError):
            check_structure(picture)
    main.write_bytes(b"[Something Else]")
    with pytest.raises(SlideError, match="lacks its section"):
        check_structure(main)


# ------------------------------------------------------------------ runs of zeros
@given(
    st.lists(
        st.tuples(st.integers(0, 30_000), st.sampled_from([1, 63, 64, 1023, 1024, 4096, 9000])),
        max_size=6,
    ),
    st.integers(0, 30_000),
)
def test_zero_runs_are_found_wherever_they_lie(runs, n_bytes: int) -> None:
    raw = bytearray(b"\1" * n_bytes)
    for start, length in runs:
        raw[start : min(start + length, n_bytes)] = bytes(max(min(length, n_bytes - start), 0))
    found = [match.span() for match in re.finditer(b"\0+", bytes(raw))]
    wanted = [(a, b) for a, b in found if b - a >= 1024 or (b == n_bytes and b - a >= 64)]
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"histo-runs-{os.getpid()}.bin"
    path.write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch, ByteFile(path) as file:
        patch.setattr(bytefile, "BLOCK", 4096)
        patch.setattr(zero_runs, "BLOCK", 1 << 20)
        assert list(zero_runs.find_zero_runs(file)) == wanted
    path.unlink()


def test_gigabytes_of_zeros_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "hole.bin"
    path.write_bytes(b"\1")
    os.truncate(path, 1 << 40)
    with ByteFile(path) as file:
        assert next(zero_runs.find_zero_runs(file))[0] == 1


# ------------------------------------------------------------------ makers
def overwrite(path: Path, place: int, raw: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(raw)


def write_codec(folder: Path, codec: str) -> Path:
    path = folder / "slide.svs"
    tifffile.imwrite(path, tissue()[:128, :128], tile=(64, 64), **RGB, **CODECS[codec])
    return path


def tag_place(path: Path, code: int) -> int:
    """Return the place of an entry of the first directory."""
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[0].tags[code].offset


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", **options)
    return stream.getvalue()


def optimised_jpeg(plane: np.ndarray, path: Path, *, tile: int) -> Path:
    tiles = [
        jpeg(plane[y : y + tile, x : x + tile], optimize=True)
        for y in range(0, plane.shape[0], tile)
        for x in range(0, plane.shape[1], tile)
    ]
    tifffile.imwrite(
        path, iter(tiles), shape=plane.shape, dtype=np.uint8, tile=(tile, tile),
        compression="jpeg", photometric="ycbcr", subsampling=(2, 2), metadata=None,
    )  # fmt: skip
    return path


def write_ndpi(path: Path, *, base: int) -> Path:
    """Write a slide as Hamamatsu's scanners do: 8-byte pointers, high halves behind the entries."""
    picture = tissue()[:300, :500]
    stream = jpeg(picture, quality=80, restart_marker_blocks=8)
    start, place = base, base + 40_000
    text = b"made by hand\0"
    entries = [(256, 4, 1, 500), (257, 4, 1, 300), (258, 3, 1, 8), (259, 3, 1, 7),
               (270, 2, len(text), start + 39_000), (273, 4, 1, start), (277, 3, 1, 3),
               (278, 4, 1, 300), (279, 4, 1, len(stream)), (65420, 4, 1, 1)]  # fmt: skip
    packed = b"".join(struct.pack("<HHII", *e[:3], e[3] & 0xFFFFFFFF) for e in entries)
    high = b"".join(struct.pack("<I", e[3] >> 32) for e in entries)
    with path.open("wb") as file:
        file.write(struct.pack("<2sHQ", b"II", 42, place) + bytes(4))
        for where, raw in [(start, stream), (start + 39_000, text)]:
            file.seek(where)
            file.write(raw)
        file.seek(place)
        file.write(struct.pack("<H", len(entries)) + packed + bytes(8) + high)
    return path


def fuzzed(folder: Path, n: int) -> Iterator[Path]:
    """Yield small slides with some bytes of their directories and values changed."""
    rng = np.random.default_rng(7)
    sources = []
    for codec in CODECS:
        for bigtiff in (False, True):
            path = folder / "whole.svs"
            options = RGB | CODECS[codec] | {"description": bombs.APERIO}
            with tifffile.TiffWriter(path, bigtiff=bigtiff) as tiff:
                tiff.write(tissue()[:200, :300], tile=(64, 64), **options)
                tiff.write(tissue()[:50, :75], tile=(64, 64), **options)
                tiff.write(tissue()[:90, :70], rowsperstrip=16, **RGB, compression="lzw")
            sources.append((path.read_bytes(), places_of_claims(path)))
    for i in range(n):
        raw, places = sources[i % len(sources)]
        spoilt = bytearray(raw)
        for place in rng.choice(places, size=rng.integers(1, 6)):
            spoilt[place] = rng.choice([0, 1, 0x7F, 0xFF, rng.integers(256)])
        path = folder / f"{i}.svs"
        path.write_bytes(spoilt)
        yield path


def places_of_claims(path: Path) -> np.ndarray:
    """Return the places of all bytes of a file's header, directories and their values."""
    with ByteFile(path) as file:
        directories = walk_tiff(file)
    parts = [(0, 16)] + [(d.start, d.n_bytes) for d in directories]
    parts += [(tag.start, tag.n_bytes) for d in directories for tag in d.tags.values()]
    return np.unique(np.concatenate([np.arange(start, start + n) for start, n in parts]))

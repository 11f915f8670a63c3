"""Documents as others read them: a page's elements and words, a PDF's words, boxes and bytes."""

import re
import shutil
import subprocess
import zlib
from html.parser import HTMLParser

import pytest

STREAM = re.compile(rb"stream\r?\n(.*?)\r?\nendstream", re.DOTALL)
WORD = re.compile(r'<word xMin="([-\d.]+)" yMin="([-\d.]+)" xMax="([-\d.]+)" yMax="([-\d.]+)">')
A4 = (595.3, 841.9)  # pt


class Page(HTMLParser):
    """What a browser would make of a page: its elements, addresses and words."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.words += f"{data} "


def ask(program: str, content: bytes, *arguments: str) -> str:
    """What a program of Poppler, which is not ours, says of a PDF."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([program, *arguments], input=content, capture_output=True, check=True)
    return done.stdout.decode()


def pdf_words(content: bytes) -> str:
    """The text of a PDF."""
    return " ".join(ask("pdftotext", content, "-", "-").split())


def check_inside(content: bytes) -> None:
    """Every word stands on its page, within the margins left and right."""
    boxes = WORD.findall(ask("pdftotext", content, "-bbox", "-", "-"))
    assert boxes
    for box in boxes:
        left, top, right, bottom = map(float, box)
        assert 40 < left <= right < A4[0] - 40, box
        assert 0 < top <= bottom < A4[1], box


def all_bytes(content: bytes) -> bytes:
    """A file, and beside it what its streams hold, unpacked."""
    unpacked = []
    for stream in STREAM.findall(content):
        try:
            unpacked.append(zlib.decompress(stream))
        except zlib.error:
            continue  # a picture, or not packed at all
    return content + b"\n".join(unpacked)

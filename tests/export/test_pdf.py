"""Paper: nothing is opened for it, its type is ours, the same page gives the same bytes."""

import io
import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from judged import HOSTILE, add_result
from papers import all_bytes, ask, check_inside, pdf_words
from PIL import Image, ImageFile

from histo_nb.export.pdf import render_pdf
from histo_nb.export.report import collect_report, render_report
from histo_nb.export.templates import jpeg_uri
from histo_nb.home import Home
from histo_nb.running.cli import main

PAGE = '<html lang="en"><head><title>A title</title></head><body>{}</body></html>'
SECRET = "planted secret of this machine"


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env=os.environ | environment)  # fmt: skip


def test_paper_says_what_it_is_to_those_who_cannot_see_it() -> None:
    content = render_pdf(PAGE.format("<h1>Words</h1>"))
    said = ask("pdfinfo", content, "-")
    assert "Title:           A title" in said
    assert "Tagged:          yes" in said
    assert "A4" in said
    inside = all_bytes(content)
    assert b"pdfuaid" in inside
    assert b"/Lang (en)" in inside


def test_the_same_page_gives_the_same_bytes() -> None:
    page = PAGE.format("<p>µ² and <b>more</b></p>")
    code = f"""if True:
        import sys
        from histo_nb.export.pdf import render_pdf
        sys.stdout.buffer.write(render_pdf({page!r}))"""
    command = [sys.executable, "-c", code]
    other = subprocess.run(command, capture_output=True, check=True)
    assert other.stdout == render_pdf(page) == render_pdf(page)
    assert other.stderr == b""


def test_nothing_is_opened_but_what_a_page_holds(tmp_path: Path) -> None:
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "secret.css").write_text(f'p::after {{ content: "{SECRET}" }}')
    square = Image.new("RGB", (40, 40), (12, 200, 77))
    square.save(tmp_path / "secret.png")
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        far, near = f"http://127.0.0.1:{server.server_port}", tmp_path.as_uri()
        content = render_pdf(
            PAGE.format(
                f'<link rel="stylesheet" href="{far}/a.css"><link rel="stylesheet" '
                f'href="{near}/secret.css"><link rel="attachment" href="{near}/secret.txt">'
                f'<style>@import url("{far}/b.css"); @import url("{near}/secret.css"); p {{ '
                f'background: url("{far}/c.png"), url("{near}/secret.png") }} @font-face {{ '
                f'font-family: F; src: url("{far}/d.ttf") }}</style>'
                f'<img src="{far}/e.png"><img src="{near}/secret.png"><object data="{far}/f.svg">'
                f'</object><svg><image href="{far}/g.png"/><image href="{near}/secret.png"/></svg>'
                f'<p style="font-family: F">words</p>'
            )
        )
        server.shutdown()
    assert asked == []
    assert SECRET.encode() not in all_bytes(content)
    assert SECRET not in pdf_words(content)
    assert b"/Subtype /Image" not in all_bytes(content)
    assert pdf_words(content) == "words"


def test_pictures_inside_a_page_are_shown() -> None:
    Image.new("RGB", (40, 40), (12, 200, 77)).save(file := io.BytesIO(), "JPEG")
    content = render_pdf(PAGE.format(f'<img src="{jpeg_uri(file.getvalue())}" alt="green">'))
    assert b"/Subtype /Image" in all_bytes(content)


def test_no_letter_is_borrowed_from_the_system() -> None:
    text = "µm² ≥ Ærø Żółć Ωμέγα 有丝 \U0001f9ec <b>fett</b> שלום مرحبا"
    content = render_pdf(PAGE.format(f"<p>{text}</p>"))
    fonts = ask("pdffonts", content, "-").splitlines()[2:]
    assert fonts
    assert all("+Paper" in font for font in fonts)
    words = pdf_words(content)
    assert "µm² ≥ Ærø Żółć Ωμέγα" in words
    assert "▯▯ ▯ fett" in words


def test_half_a_picture_stays_an_error_for_the_rest_of_the_process() -> None:
    render_pdf(PAGE.format("words"))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    done = run_python(
        "from PIL import ImageFile; from histo_nb.export.pdf import render_pdf; "
        "render_pdf('x'); print(ImageFile.LOAD_TRUNCATED_IMAGES)"
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "A" * 200 + " and " + "μ" * 300,
        "\u202eevitagen si siht\u202c שלום " * 20,
        "\U0001f9ec\U0001f468\u200d\U0001f469\u200d\U0001f467 \x00\x07\ufeff\ufffe" * 30,
        "</p></main><style>* { display: none }</style>{{ 7 * 7 }}{% raw %}",
        "\n".join(f"line {number} of very many" for number in range(5000)),
    ],
    ids=["script", "long", "right-to-left", "signs", "markup", "lines"],
)
def test_any_text_is_shown_as_text_and_keeps_to_its_page(home: Home, text: str) -> None:
    add_result(home, doubts=[text[:5000]], slide_class=text[:64])
    report = replace(
        collect_report(home, "S-1"),
        comments=[(text[:300], text)],
        facts=[(text[:64], text[:500])],
        limits=[text[:300]],
    )
    content = render_report(report, kind="pdf")
    check_inside(content)
    words = pdf_words(content)
    assert "What it was made from" in words
    assert "Page 2 of" in words
    if text == HOSTILE:
        assert "<script>window.planted=1</script>" in words
    if "line" in text:
        assert "line 0 of" in words
        assert "line 4999 of" in words
    if "7 * 7" in text:
        assert "{{ 7 * 7 }}" in words
    assert b"/JavaScript" not in all_bytes(content)
    assert b"/JS" not in all_bytes(content)


def test_without_pango_it_is_said_and_pages_are_still_written(home: Home, tmp_path: Path) -> None:
    add_result(home)
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "weasyprint.py").write_text(
        "raise OSError(\"cannot load library 'libpango-1.0-0'\")"
    )
    code = "from histo_nb.running.cli import main; main()"
    for kind, status in (("pdf", 1), ("html", 0)):
        command = [sys.executable, "-c", code, "report", "S-1", str(tmp_path / f"r.{kind}"),
                   "--home", str(home.root), "--json"]  # fmt: skip
        without = os.environ | {"PYTHONPATH": str(tmp_path / "without")}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=without)
        assert done.returncode == status, done.stderr
        if kind == "pdf":
            assert '"kind": "PrintError"' in done.stdout
            for way in ("libpango-1.0-0", "brew install pango", "write .html"):
                assert way in done.stdout
    assert sorted(path.name for path in tmp_path.glob("r.*")) == ["r.html"]


def test_pages_load_no_typesetter(home: Home) -> None:
    add_result(home)
    done = run_python(
        "import sys; from histo_nb.export.report import make_report; from histo_nb.home import "
        f"open_home; make_report(open_home({str(home.root)!r}), 'S-1'); "
        "print({'weasyprint', 'fontTools'} & set(sys.modules))"
    )
    assert done.stdout.strip() == "set()"


def test_command_writes_paper(home: Home, tmp_path: Path) -> None:
    add_result(home)
    asked = ["report", "S-1", str(tmp_path / "r.PDF"), "--home", str(home.root)]
    assert CliRunner().invoke(main, asked).exit_code == 0
    assert (tmp_path / "r.PDF").read_bytes().startswith(b"%PDF-")

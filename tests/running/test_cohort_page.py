"""The page of a cohort: what it says, in which order, and what it never says."""

import base64
import json
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from papers import all_bytes, check_inside, pdf_words
from PIL import Image

import histo_nb
from histo_nb.errors import CatalogError, SpecError
from histo_nb.export import cohort_page
from histo_nb.export.cohort_page import PICTURE_PX, write_cohort_page, write_cohort_report
from histo_nb.export.unnamed import unnamed
from histo_nb.running.cohort.runner import COLUMNS

HOSTILE = '<script>alert("1")</script>'
PACKAGE = Path(histo_nb.__file__).parent


class Page(HTMLParser):
    """What a browser would make of a page: its elements, addresses and words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: dict[str, list[str]] = {"src": [], "href": []}
        self.source, words = path.read_text("utf-8"), []
        self._hear = words.append
        self.feed(self.source)
        self.words = " ".join(" ".join(words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        for name, value in attrs:
            if name in self.addresses:
                self.addresses[name].append(value or "")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] != "style":
            self._hear(data)

    def at(self, *words: str) -> list[int]:
        """Where on the page words stand, each once."""
        assert [self.words.count(word) for word in words] == [1] * len(words), words
        return [self.words.index(word) for word in words]


def facts(**changed: Any) -> dict[str, Any]:
    return {
        "cohort_id": "20260301T200000_cohort",
        "started_at": "2026-03-01T20:00:00+00:00",
        "ended_at": "2026-03-02T04:30:00+00:00",
        "seconds": 30_600.0,
        "n_workers": 4,
        "slides_per_hour": 1234.5,
        "model_id": "M-7",
        "gate_passed": True,
        "code": {"source_sha256": "ab" * 32, "commit": "cd" * 20, "dirty": False},
        "failures_of_intake": [],
    } | changed


def done(slide_id: str, **changed: Any) -> dict[str, Any]:
    row = dict.fromkeys(COLUMNS)
    row |= {"slide_id": slide_id, "state": "done", "attempts": 1, "slide_class": "normal"}
    row |= {"confidence": 0.87, "abnormal_fraction": 0.01, "n_tiles": 9, "n_doubts": 0}
    row |= {"quality_flags": "", "seconds_mask": 1.0, "seconds_tile": 0.5, "seconds_analyse": 8.0}
    return row | {"seconds_report": 0.5} | changed


def failed(slide_id: str, reason: str = "it is bad; scan it again", **changed: Any) -> dict:
    row = dict.fromkeys(COLUMNS) | {"slide_id": slide_id, "state": "failed", "attempts": 1}
    return row | {"stage": "mask", "reason": reason} | changed


def write(tmp_path: Path, *rows: dict[str, Any], **changed: Any) -> Page:
    table = pd.DataFrame(rows, columns=COLUMNS)
    return Page(write_cohort_page(facts(**changed), table, tmp_path / "runs" / "cohort.html"))


def paint(path: Path, size: tuple[int, int] = (512, 300), **options: Any) -> str:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(noise).save(path, **options)
    return str(path)


def test_the_summary_says_it_in_ten_seconds(tmp_path):
    page = write(
        tmp_path,
        done("S-1", slide_class="adenoma", n_doubts=2),
        done("S-2", slide_class="carcinoma"),
        done("S-3", n_doubts=np.nan),
        failed("S-4"),
        failed("S-5", "no tissue"),
        dict.fromkeys(COLUMNS) | {"slide_id": "S-6", "state": "waiting"},
        failures_of_intake=[{"slide_id": "file 1", "step": "mpp", "error": "no mpp; give it"}],
    )
    for said in [
        "Research use only — not for diagnosis",
        "3 of 6 slides done, 2 failed, 1 file not taken in, 1 still to be done.",
        "Slides 6 Done 3 Failed 2 Abnormal 2 With doubts 1",
        "Slides an hour 1,234 Time, 4 workers 8 h 30 min",
        "1 March 2026, 20:00 UTC to 2 March 2026, 04:30 UTC",
        "stopped before its end",
        "Model M-7",
    ]:
        assert said in page.words


def test_what_is_normal_is_the_models_word(tmp_path):
    rows = [done("S-1", slide_class="benign"), done("S-2", slide_class="malignant")]
    assert "Abnormal 1 " in write(tmp_path, *rows, normal_class="benign").words


def test_only_a_gate_that_was_not_passed_is_warned_of(tmp_path):
    assert "gate" not in write(tmp_path, done("S-1")).words
    assert "did not pass its gate" in write(tmp_path, done("S-1"), gate_passed=False).words


def test_failures_come_first_the_most_frequent_first_each_reason_once(tmp_path):
    page = write(
        tmp_path,
        done("S-1"),
        failed("S-2", "no tile of S-2 fits; choose smaller tiles", stage="tile"),
        failed("S-3", "S-3.svs is cut off; copy it again"),
        failed("S-4", "no tile of S-4 fits; choose smaller tiles", stage="tile"),
        failed("S-5", "killed", stage="tile"),
        failed("S-6", None, stage=None),
        failures_of_intake=[{"slide_id": "Q-1", "step": "mpp", "error": "no mpp; give it"}],
    )
    order = page.at(
        "5 failed",
        "Tiles 2 × no tile of SLIDE fits; choose smaller tiles S-2, S-4 1 × killed S-5",
        "Before the first stage 1 × no reason was written S-6",
        "Intake: mpp 1 × no mpp; give it Q-1",
        "Tissue mask 1 × the file is cut off; copy it again S-3",
        "Slides Abnormal and doubtful ones first.",
        "Time of each stage",
    )
    assert order == sorted(order)


def test_a_reason_of_many_slides_unfolds(tmp_path):
    page = write(tmp_path, *(failed(f"S-{i:03d}") for i in range(100)))
    assert page.tags.count("details") == 1
    order = page.at("100 ×", "S-039", "60 more", "S-040", "S-099")
    assert order == sorted(order)


def test_suspicious_slides_come_first(tmp_path):
    page = write(
        tmp_path,
        done("S-calm"),
        done("S-doubtful", n_doubts=1),
        done("S-abnormal", slide_class="adenoma", abnormal_fraction=0.5),
        done("S-both", slide_class="adenoma", abnormal_fraction=0.2, n_doubts=3),
    )
    order = page.at("S-both adenoma", "S-abnormal adenoma", "S-doubtful normal", "S-calm normal")
    assert order == sorted(order)
    assert "S-both adenoma 87% confidence 20% of the tissue abnormal 3 doubts" in page.words


def test_texts_are_never_markup_and_nothing_is_fetched(tmp_path):
    page = write(
        tmp_path,
        done(HOSTILE, slide_class=HOSTILE, quality_flags=f"{HOSTILE}, pen"),
        failed("S-2", f"{HOSTILE}\n& more"),
        model_id=HOSTILE,
        cohort_id=HOSTILE,
        code=HOSTILE,
        failures_of_intake=[{"slide_id": HOSTILE, "step": HOSTILE, "error": HOSTILE}],
    )
    assert not {"script", "link", "iframe", "form"} & set(page.tags)
    assert page.source.count("&lt;script&gt;") > 6
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert not re.search(r"url\(|@import", page.source)


@pytest.mark.parametrize(
    "reason",
    [
        "{folder}/Doe, Jane (2).svs is cut off; copy it again",
        "cannot read {folder}/Jane Doe.svs: no",
        "Doe, Jane.2.svs is no slide",
        "a thumbnail of Jane Doe.ndpi at 0.5 µm/px is too large",
        "tried 3 times, the last time: {folder}/Jane Doe/x: gone",
        "in/Jane Doe/1.dcm is no slide",
        "C:\\in\\Jane Doe.svs is no slide",
        "see (~/Jane Doe.svs)\nand {folder}/Jane/Doe.xml",
        "not in {folder}/S-1/Jane",
    ],
)
def test_a_reason_names_no_file(tmp_path, reason):
    said = reason.format(folder=tmp_path)
    broken = {"slide_id": "S-2", "step": "files", "error": said}
    page = write(tmp_path, failed("S-1", said), failures_of_intake=[broken])
    assert page.words.count("the file") == page.source.count("the file") >= 2
    for name in ("Jane", "Doe", "svs", str(tmp_path), "S-1/"):
        assert name not in page.source


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        ("OpenSlideError: Can't open slide Doe Jane", "OpenSlideError"),
        ("PIL.UnidentifiedImageError: cannot read Doe Jane\n(2019): bad header",
         "PIL.UnidentifiedImageError"),
        ("tried 3 times, the last time: PermissionError: no, Doe Jane",
         "tried 3 times, the last time: PermissionError"),
    ],
)  # fmt: skip
def test_of_an_error_that_is_not_ours_the_kind_is_said(tmp_path, reason, left):
    broken = {"slide_id": "S-2", "step": "files", "error": reason}
    page = write(tmp_path, failed("S-1", reason), failures_of_intake=[broken])
    assert page.source.count(f"{left} (its words are in the ledger)") == 2
    for name in ("Jane", "Doe", "2019"):
        assert name not in page.source


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        ("Permission denied: 'Doe Jane'; ask", "Permission denied: “…”; ask"),
        ('not read: "Doe Jane O\'Hara" (IO)', "not read: “…” (IO)"),
        ("see 'Doe Jane O'Hara' and 'x.' and 'J Doe'", "see “…” and 'x.' and “…”"),
        ("no “Doe Jane”, no ‘J Doe’", "no “…”, no “…”"),
        ("no polygon (KeyError('Doe Jane'))", "no polygon (KeyError(“…”))"),
        ("cannot read '/srv/Jane Doe.svs': no", "cannot read “…”: no"),
    ],
)
def test_what_is_quoted_and_may_be_a_name_is_cut(reason, left):
    assert unnamed(reason, slide_id="S-1") == left


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        ("3 of 9 tiles, first: Doe, J.svs is cut off", "3 of 9 tiles, first: the file is cut off"),
        ("cannot cut /srv/Doe/x at 3 µm/px: no", "cannot cut the file at 3 µm/px: no"),
        ("cannot write /srv/S-1: the disk is full", "cannot write the file: the disk is full"),
    ],
)
def test_what_is_no_name_is_kept(reason, left):
    assert unnamed(reason, slide_id="S-1") == left


@pytest.mark.parametrize(
    "reason",
    [
        "mpp=0.1 µm/px is finer than the slide's 0.25; choose mpp ≥ 0.25",
        "tried 3 times, the last time: its worker was killed, most often for lack of memory",
        "it has 25 / 30 tiles, e.g. none; give .csv or .parquet",
        "SlideError: the slide's mask isn't 'whole'; make it with `histo-nb mask`",
    ],
)
def test_a_reason_without_a_file_is_left_as_it_is(reason):
    assert unnamed(reason, slide_id="S-1") == reason


def test_pictures_are_inside_and_small_and_no_place_on_the_disk_is_named(tmp_path):
    row = {"overview_path": paint(tmp_path / "secret" / "overview.jpg", (512, 256)),
           "result_path": str(tmp_path / "secret"), "report_path": None}  # fmt: skip
    page = write(tmp_path, done("S-1", **row))
    (address,) = page.addresses["src"]
    kind, code = address.split(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(BytesIO(base64.b64decode(code))).size == (PICTURE_PX, PICTURE_PX // 2)
    assert "secret" not in page.source


def test_a_picture_that_is_not_there_is_said(tmp_path):
    whole = Path(paint(tmp_path / "whole.jpg"))
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:3000])
    no = tmp_path / "no.jpg"
    no.write_bytes(b"no picture")
    paths = [str(cut), str(no), str(tmp_path / "gone.jpg"), str(tmp_path), None, np.nan, ""]
    page = write(tmp_path, *(done(f"S-{i}", overview_path=path) for i, path in enumerate(paths)))
    assert page.words.count("no picture") == len(paths)
    assert not page.addresses["src"]


def test_a_report_is_reached_from_the_page(tmp_path):
    report = tmp_path / "results" / "S 1%" / "report.html"
    page = write(tmp_path, done("S-1", report_path=str(report)), done("S-2", report_path="/r.html"))
    (way,) = page.addresses["href"]
    assert not way.startswith("/")
    assert (tmp_path / "runs" / unquote(way)).resolve() == report


def test_only_the_first_slides_have_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(cohort_page, "PICTURES", 2)
    picture = paint(tmp_path / "overview.jpg")
    report = str(tmp_path / "r" / "report.html")
    rows = [done(f"S-{i}", overview_path=picture, report_path=report) for i in range(5)]
    page = write(tmp_path, *rows)
    assert len(page.addresses["src"]) == 2
    assert len(page.addresses["href"]) == 5
    order = page.at("S-1 normal", "3 more, without pictures", "S-2 normal", "S-4 normal")
    assert order == sorted(order)


def test_timings_are_those_of_the_stages(tmp_path):
    rows = [done(f"S-{i:02d}", seconds_analyse=float(i)) for i in range(21)]
    page = write(tmp_path, *rows, failed("S-x"))
    assert "Analysis 3 min 30 s 10 s 19 s 83%" in page.words
    assert "Tissue mask 21 s 1 s 1 s 8%" in page.words
    slowest = page.words.split("The slowest slides")[1]
    assert "S-20 22 s Analysis 91% S-19" in slowest
    assert "S-11" in slowest
    assert "S-10" not in slowest
    assert page.source.count("width: 83.3%") == 1


def test_no_slide_one_slide_and_none_that_worked(tmp_path):
    assert "There was no slide to do." in write(tmp_path, slides_per_hour=None).words
    assert "Slides an hour —" in write(tmp_path, slides_per_hour=None).words
    assert "The slide is done." in write(tmp_path, done("S-1")).words
    assert "All 1,001 slides are done." in write(tmp_path, *[done("S-1")] * 1001).words
    page = write(tmp_path, failed("S-1"), failed("S-2"))
    assert "0 of 2 slides done, 2 failed." in page.words
    assert "Time of each stage" not in page.words
    assert "Abnormal and doubtful" not in page.words


def put_run(tmp_path: Path, *rows: dict[str, Any], **changed: Any) -> Path:
    folder = tmp_path / "runs" / "20260301T200000_cohort"
    folder.mkdir(parents=True)
    pd.DataFrame(rows, columns=COLUMNS).to_parquet(folder / "slides.parquet", index=False)
    (folder / "run.json").write_text(json.dumps(facts(**changed)))
    return folder


def test_a_report_is_made_again_from_what_a_run_left(tmp_path):
    picture = paint(tmp_path / "overview.jpg")
    rows = [done(f"S-{i}", slide_class="adenoma", n_doubts=1, overview_path=picture,
                 report_path=str(tmp_path / "r" / f"{i}.html")) for i in range(3)]  # fmt: skip
    rows += [failed("S-4", "S-4.svs is cut off; copy it again")]
    run = put_run(tmp_path, *rows, gate_passed=False)
    page = Page(write_cohort_report(run, tmp_path / "again.html"))
    paper = write_cohort_report(run, tmp_path / "again.pdf").read_bytes()
    check_inside(paper)
    assert page.addresses["href"]
    assert b"/URI" not in all_bytes(paper)
    assert b"/Subtype /Image" in all_bytes(paper)
    words = pdf_words(paper)
    for said in ("Cohort 20260301T200000_cohort", "3 of 4 slides done, 1 failed.", "S-2", "1 doubt",
                 "the file is cut off; copy it again", "did not pass its gate", "Analysis", "80%",
                 "commit cdcdcdcdcd", "Slides are named by their pseudonyms"):  # fmt: skip
        assert said in page.words
        assert said in words
    for name in (str(tmp_path), "S-4.svs", "overview"):
        assert name.encode() not in all_bytes(paper)


def test_on_paper_fewer_slides_have_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(cohort_page, "PRINTED", 2)
    picture = paint(tmp_path / "overview.jpg")
    run = put_run(tmp_path, *(done(f"S-{i}", overview_path=picture) for i in range(5)))
    assert len(Page(write_cohort_report(run, tmp_path / "r.html")).addresses["src"]) == 5
    words = pdf_words(write_cohort_report(run, tmp_path / "r.pdf").read_bytes())
    assert "3 more, without pictures" in words


def test_any_text_of_a_cohort_keeps_to_its_page(tmp_path):
    texts = [HOSTILE, "A" * 200, "\u202e שלום \U0001f9ec"]
    rows = [done(f"{i} {text}", slide_class=text, quality_flags=f"{text}, pen")
            for i, text in enumerate(texts)]  # fmt: skip
    rows += [failed(f"F-{i} {text}", text) for i, text in enumerate(texts)]
    run = put_run(tmp_path, *rows, model_id="A" * 200, cohort_id=HOSTILE)
    paper = write_cohort_report(run, tmp_path / "r.pdf").read_bytes()
    check_inside(paper)
    assert HOSTILE in pdf_words(paper)


def test_what_is_no_run_of_a_cohort_is_said(tmp_path):
    with pytest.raises(CatalogError, match="holds no run of a cohort"):
        write_cohort_report(tmp_path, tmp_path / "r.pdf")
    run = put_run(tmp_path, done("S-1"))
    with pytest.raises(SpecError, match="html or pdf"):
        write_cohort_report(run, tmp_path / "r.doc")
    (run / "run.json").write_text("[]")
    with pytest.raises(CatalogError, match="holds no run of a cohort"):
        write_cohort_report(run, tmp_path / "r.html")
    assert not list(tmp_path.glob("r.*"))


def test_its_colours_are_those_of_the_design():
    pattern = r"--(?:h-)?([\w-]+): (light-dark\([^)]*\))"
    design = dict(re.findall(pattern, (PACKAGE / "widgets" / "design.css").read_text("utf-8")))
    sources = [path.read_text("utf-8") for path in (PACKAGE / "export").glob("*.j2")]
    style = "".join(source.split("<h1>")[0].split("block body")[0] for source in sources)
    tokens = dict(re.findall(pattern, style))
    assert len(tokens) > 10
    assert tokens.items() <= design.items()
    assert set(re.findall(r"var\(--([\w-]+)", style)) == set(tokens)
    rules = re.sub(pattern, "", style)
    assert not re.findall(r"#[0-9a-fA-F]{3,6}\b|rgba?\(|: (?:white|black)\b", rules)

"""Reports and lists of reviews: what they say, what they never say, as pages, paper and files."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import shapely
from bundles import put_model
from click.testing import CliRunner
from judged import HOSTILE, PATIENT, add_result, draw, judge_region, sign
from papers import Page, all_bytes, check_inside, pdf_words
from shapely.geometry import shape

from histo_nb.errors import CatalogError, SpecError, TableError
from histo_nb.export.judged import read_judged_geojson
from histo_nb.export.report import collect_report, make_report, write_report
from histo_nb.home import Home
from histo_nb.inference.result import find_result, hash_result
from histo_nb.model.seal import write_gate
from histo_nb.reviews import Judgement, judge
from histo_nb.running.cli import main

USE = "Research use only — not for diagnosis"


@pytest.fixture
def judged(home: Home) -> Home:
    """A home with one slide: two regions judged, one by both reviewers, two places drawn."""
    result = add_result(home, doubts=["The stain is unlike any it has learnt."], gate_passed=False)
    judge_region(home, result, 0, note="glands back to back, 3 µm² ≥ 2")
    judge_region(home, result, 1, verdict="disagree", label="adenoma")
    judge_region(home, result, 1, who="Ben", verdict="disagree", label=None, note=HOSTILE)
    draw(home, shapely.box(1000, 1000, 1200, 1200), "adenoma")
    draw(home, shapely.Point(900, 200), HOSTILE[:64], subject="a2", note="long words " * 170)
    judge(home, Judgement(slide_id="S-1", kind="slide", verdict="agree", label="carcinoma",
                          note="as expected"), reviewer="Ada")  # fmt: skip
    return home


SAID = [
    "Carcinoma", "87% confidence", "The stain is unlike any", "did not pass its gate",
    "0.0328 mm²", "96%", "Ada agrees: carcinoma", "Ada disagrees: adenoma", "Ben disagrees (",
    "Ben drew this: adenoma", "by nobody", "0.01 mm²", "a point", "glands back to back, 3 µm² ≥ 2",
    "Ben on place 2", "Ada on the slide", "as expected", "torch fp32, in 1 s", "A rule.",
    "histo_nb", USE, "NOT SIGNED", "S-1",
]  # fmt: skip


def test_page_says_all_and_stands_alone(judged: Home) -> None:
    content = make_report(judged, "S-1")
    page = Page(content)
    words = " ".join(page.words.split())
    assert [s for s in SAID if s.lower() not in words.lower()] == []
    assert HOSTILE in page.words
    assert not {"script", "iframe", "link", "object"} & {*page.tags}
    assert page.tags.count("img") == 1 + 5  # the slide and its places
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert not re.search(r"url\(|@import|https?://", content.decode())


def test_paper_says_the_same_over_several_pages(judged: Home) -> None:
    content = make_report(judged, "S-1", kind="pdf")
    assert content.startswith(b"%PDF-")
    words = pdf_words(content)
    assert [s for s in SAID if s.lower() not in words.lower()] == []
    assert words.count("long words") == 170
    assert "Page 4 of 4" in words
    assert words.count(USE) == 4 + 1  # at the top of each page, and at the end
    check_inside(content)
    assert "<script>window.planted=1</script>" in words


@pytest.mark.parametrize("kind", ["html", "pdf"])
def test_nothing_names_the_patient_or_a_file(judged: Home, kind: str) -> None:
    sign(judged, "carcinoma")
    content = make_report(judged, "S-1", kind=kind)
    words = pdf_words(content) if kind == "pdf" else content.decode()
    for name in (PATIENT, *PATIENT.split(), ".svs", str(judged.root)):
        assert name not in words
    for name in (PATIENT, "Planted", ".svs", str(judged.root)):
        for encoding in ("utf-8", "utf-16-be"):
            assert name.encode(encoding) not in all_bytes(content)


def test_what_an_answer_was_made_from_is_said_by_hashes(home: Home) -> None:
    model_id = put_model(home)
    folder = home.models / model_id
    write_gate(folder, {"passed": True, "lowered": [], "balanced_accuracy": 0.8125,
                        "intervals": {"balanced_accuracy": [0.7, 0.9]}, "n_patients": 12,
                        "n_slides": 1, "n_tiles": 3456})  # fmt: skip
    made = {
        "slide": {"sha256": "1" * 64}, "mask": {"sha256": "2" * 64}, "tiles_sha256": "3" * 64,
        "model": {"weights_sha256": "4" * 64, "gate_sha256": "5" * 64},
        "code": {"version": "9.8.7", "source_sha256": "6" * 64, "commit": "7" * 40, "dirty": True},
        "packages": {"python": "3.99.1", "torch": "9.9"},
    }  # fmt: skip
    add_result(
        home, model_id=model_id, provenance=made, n_failures=2, doubts=["Odd."], seconds=83.0
    )
    result = find_result(home, "S-1")
    page = " ".join(Page(make_report(home, "S-1")).words.split())
    paper = pdf_words(make_report(home, "S-1", kind="pdf"))
    for said in (
        *(str(digit) * 64 for digit in range(1, 6)), "histo_nb 9.8.7, commit 7777777777, changed",
        "sources 666666666666", "python 3.99.1, torch 9.9", hash_result(result),
        "balanced accuracy 0.812 (95 % interval 0.700 – 0.900); 12 patients, 1 slide, 3,456 tiles",
        "2 tiles could not be read", "There is a reason for doubt", "in 1 min 23 s",
        "adenoma, which are abnormal, and normal", "Gate passed",
    ):  # fmt: skip
        assert said in page, said
        assert said.replace(" ", "") in paper.replace(" ", ""), said
    assert "unknown" not in page


def test_an_answer_of_an_earlier_version_says_what_is_unknown(home: Home) -> None:
    add_result(home)
    (find_result(home, "S-1") / "provenance.json").unlink()
    (find_result(home, "S-1") / "timing.json").unlink()
    facts = json.loads((find_result(home, "S-1") / "result.json").read_text())
    (find_result(home, "S-1") / "result.json").write_text(json.dumps(facts | {"seconds": 1.0}))
    report = collect_report(home, "S-1")
    unknown = [name for name, value in report.inputs if value.startswith("unknown")]
    assert len(unknown) == 7
    assert dict(report.model) == {"Model": "M-1: it is no longer in the registry, or damaged"}
    for words in (Page(make_report(home, "S-1")).words,
                  pdf_words(make_report(home, "S-1", kind="pdf"))):  # fmt: skip
        assert words.count("unknown") == 7


def test_signed_report_says_who_when_and_as_what(judged: Home) -> None:
    sign(judged, "adenoma", note="seen with a colleague")
    for words in (Page(make_report(judged, "S-1")).words,
                  pdf_words(make_report(judged, "S-1", kind="pdf"))):  # fmt: skip
        said = " ".join(words.split())
        assert "NOT SIGNED" not in said
        assert "Signed by" in said
        assert re.search(r"Ada .*\d+ \w+ 20\d\d, \d\d:\d\d UTC, as adenoma", said)
        assert "The model says carcinoma, with 87% confidence." in said
        assert "seen with a colleague" in said
    assert collect_report(judged, "S-1").answer == "adenoma"


def test_slide_that_cannot_be_read_has_a_report_without_picture(judged: Home) -> None:
    (judged.slides / f"{PATIENT}.svs").unlink()
    page = Page(make_report(judged, "S-1"))
    assert "img" not in page.tags
    assert "its file cannot be read" in page.words
    assert "cannot be shown" in pdf_words(make_report(judged, "S-1", kind="pdf"))


def test_letters_that_the_type_lacks_are_marked(judged: Home) -> None:
    draw(judged, shapely.box(0, 0, 9, 9), "x", subject="a3", note="有丝 ok \x07 \U0001f9ec")
    assert "▯▯ ok ▯ ▯" in pdf_words(make_report(judged, "S-1", kind="pdf"))


def test_slide_without_regions_or_with_many(home: Home) -> None:
    result = add_result(home)
    regions = result.regions * 40
    add_result(home, "S-2", slide_class="normal", confidence=0.5)
    for kind in ("html", "pdf"):
        assert make_report(home, "S-2", kind=kind)
    report = collect_report(home, "S-1")
    assert (len(report.places), report.n_more) == (3, 0)
    folder = home.results / "S-1" / "M-1"
    content = json.loads((folder / "regions.geojson").read_text())
    content["features"] *= 40
    (folder / "regions.geojson").write_text(json.dumps(content))
    report = collect_report(home, "S-1")
    assert (len(report.places), report.n_more) == (40, len(regions) - 40)
    assert sum(place.near is not None for place in report.places) == 6
    content["features"] = []
    (folder / "regions.geojson").write_text(json.dumps(content))
    assert "nobody drew one" in Page(make_report(home, "S-1")).words
    assert "nobody drew one" in pdf_words(make_report(home, "S-1", kind="pdf"))


def test_file_is_whole_or_absent(judged: Home, tmp_path: Path) -> None:
    assert write_report(judged, "S-1", tmp_path / "r.html").read_bytes().startswith(b"<!DOCTYPE")
    with pytest.raises(SpecError, match="html or pdf"):
        write_report(judged, "S-1", tmp_path / "r.docx")
    with pytest.raises(CatalogError, match="S-9"):
        write_report(judged, "S-9", tmp_path / "x.pdf")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["r.html"]


def test_reports_load_neither_torch_nor_matplotlib(judged: Home) -> None:
    code = f"""if True:
        import sys
        from histo_nb.export.report import make_report
        from histo_nb.home import open_home
        for kind in ("html", "pdf"):
            make_report(open_home({str(judged.root)!r}), "S-1", kind=kind)
        print({{"torch", "fastai", "matplotlib"}} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "set()"


# -------------------------------------------------------------------------------- the commands
def run(home: Home, *arguments: object) -> tuple[int, dict]:
    done = CliRunner().invoke(main, [*map(str, arguments), "--json", "--home", str(home.root)])
    return done.exit_code, json.loads(done.stdout)


def test_command_writes_a_report(judged: Home, tmp_path: Path) -> None:
    assert run(judged, "report", "S-1", tmp_path / "r.pdf") == (
        0, {"path": str(tmp_path / "r.pdf")})  # fmt: skip
    code, answer = run(judged, "report", "S-9", tmp_path / "x.pdf")
    assert (code, answer["kind"]) == (1, "CatalogError")


def test_command_lists_and_exports_reviews_that_read_back(judged: Home, tmp_path: Path) -> None:
    code, answer = run(judged, "reviews")
    assert code == 0
    assert [row["reviewer"] for row in answer["reviews"]].count("Ada") == 3
    code, answer = run(judged, "reviews", "S-1", "--export", tmp_path / "out")
    assert answer["files"] == [str(tmp_path / "out" / "S-1.geojson")]
    found = read_judged_geojson(tmp_path / "out" / "S-1.geojson")
    said = judged.catalog.reviews()
    said = said[said.outline.notna()].reset_index(drop=True)
    for name in ("kind", "subject", "verdict", "label", "reviewer", "reviewed_at"):
        assert found[name].tolist() == said[name].tolist(), name
    assert [shape(json.loads(o)).geom_type for o in found.outline].count("Point") == 1
    content = json.loads((tmp_path / "out" / "S-1.geojson").read_text())
    assert content["features"][0]["properties"]["classification"] == {"name": "carcinoma"}
    assert content["features"][2]["properties"]["description"] == HOSTILE
    assert run(judged, "reviews", "S-9")[0] == 1
    (tmp_path / "bad.geojson").write_text('{"features": [1]}')
    with pytest.raises(TableError, match="holds no reviews"):
        read_judged_geojson(tmp_path / "bad.geojson")

"""What a patient reads: of a signed slide only, in words, without anything of the laboratory."""

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from judged import HOSTILE, PATIENT, add_result, draw, judge_region, sign

from histo_nb.errors import NotebookError
from histo_nb.home import Home
from histo_nb.running.notebook import check_parameters, has_errors, run_notebook
from histo_nb.running.serve import dashboards_folder
from histo_nb.widgets import patient
from histo_nb.widgets.patient import say_words, show_patient

NOTHING_HERE = "There is no signed result here"
PAGE = dashboards_folder() / "patient.ipynb"


def words(home: Home, slide_id: str = "S-1") -> str:
    """What is to be read on the page, without its pictures and its style."""
    text = re.sub(
        r"<style>.*?</style>|data:[^\"]*", "", show_patient(home, slide_id).data, flags=re.S
    )
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


@pytest.mark.parametrize(
    ("label", "title"),
    [("normal", "looks normal"), ("adenoma", "not cancer"),
     ("Carcinoma", "Cancer cells were found"), ("strange thing", "Your result: strange thing")],
)  # fmt: skip
def test_each_class_has_plain_words(home: Home, label: str, title: str) -> None:
    add_result(home)
    sign(home, label)
    said = words(home)
    assert title in said
    assert re.search(r"A doctor has looked at it and signed it on \d+ \w+ 20\d\d\.", said)
    assert "Please talk to your doctor" in said
    assert "Research use only — not for diagnosis" in said
    assert not re.search(r"%|0\.87|96|M-1|S-1|probab|confiden|model|Ada", said, flags=re.I)


def test_normal_is_what_the_result_calls_so() -> None:
    assert say_words("benign", normal_class="benign").title == "The tissue looks normal"
    assert say_words("normal", normal_class="benign").title == "Your result: normal"


def test_nothing_is_shown_before_a_doctor_signed(home: Home) -> None:
    result = add_result(home)
    judge_region(home, result, 0)
    for slide_id in ("S-1", "S-9", "", "../S-1", HOSTILE):
        assert words(home, slide_id).startswith(NOTHING_HERE)
    sign(home, "carcinoma")
    assert "Cancer cells" in words(home)
    sign(home, None)
    assert words(home).startswith(NOTHING_HERE)
    assert "<img" not in show_patient(home, "S-1").data


def test_only_areas_that_a_doctor_gave_the_signed_class_are_marked(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    paint = patient.paint_overview
    monkeypatch.setattr(patient, "paint_overview",
                        lambda slide, outlines, **how: drawn.append(outlines)
                        or paint(slide, outlines, **how))  # fmt: skip
    result = add_result(home)
    judge_region(home, result, 0)
    judge_region(home, result, 1, verdict="disagree", label="adenoma")  # region 2: unjudged
    draw(home, shapely.box(100, 900, 300, 1100), "carcinoma")
    draw(home, shapely.Point(100, 900), "carcinoma", subject="a2")
    sign(home, "carcinoma")
    assert "1 to 2 These areas the doctor marked as carcinoma" in words(home)
    assert [o.area for o in drawn[0]] == [result.regions[0].outline.area, 200 * 200]
    sign(home, None)
    sign(home, "adenoma")
    assert "1 This area the doctor marked as adenoma" in words(home)
    sign(home, None)
    sign(home, "normal")
    assert "The doctor marked no area" in words(home)


def test_words_are_text_and_notes_are_not_shown(home: Home) -> None:
    add_result(home)
    sign(home, HOSTILE[:60], note="between colleagues " + HOSTILE)
    page = show_patient(home, "S-1").data
    assert "&lt;script&gt;window.planted=1" in page
    assert "<script" not in page
    assert "colleagues" not in page
    for name in (PATIENT, *PATIENT.split(), ".svs", str(home.root)):
        assert name not in page


def test_picture_that_cannot_be_read_leaves_the_result(home: Home) -> None:
    add_result(home)
    sign(home, "normal")
    (home.slides / f"{PATIENT}.svs").unlink()
    assert "The picture cannot be shown" in words(home)
    assert "looks normal" in words(home)


def test_picture_is_the_slide(home: Home) -> None:
    add_result(home)
    sign(home, "normal")
    page = show_patient(home, "S-1").data
    (data,) = re.findall(r"base64,([^\"]*)", page)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1)
    assert picture.shape == (900, 1200, 3)
    assert np.abs(picture.mean(axis=(0, 1)) - (200, 160, 215)).max() < 8


def test_notebook_runs_without_and_with_a_slide(home: Home, tmp_path: Path) -> None:
    add_result(home)
    sign(home, "normal")
    for parameters, said in (({}, NOTHING_HERE), ({"slide_id": "S-1"}, "The tissue looks normal")):
        run = run_notebook(PAGE, home, parameters=parameters)
        assert not has_errors(run.notebook)
        assert said in run.notebook.read_text()
    with pytest.raises(NotebookError, match="has no parameter"):
        check_parameters(PAGE, {"slide": "S-1"})

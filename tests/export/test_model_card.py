"""A model's card: what it says of a real model, of one that nobody tested, and of a hostile one."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from analysed import CLASSES, learnt, prepared, put_learnt
from bundles import put_model
from judged import HOSTILE, PATIENT
from papers import Page, all_bytes, check_inside, pdf_words

from histo_nb.errors import BundleError, SpecError
from histo_nb.export.model_card import collect_model_card, make_model_card, write_model_card
from histo_nb.home import Home, open_home
from histo_nb.model.registry import describe_model, promote
from histo_nb.model.seal import GATE, read_gate, write_gate
from histo_nb.training.criteria import GateSpec
from histo_nb.training.gate import score

PHRASES = [
    "Research use only — not for diagnosis", "Meant for", "Not meant for",
    "no patient on two sides",
    "near-duplicates: nobody looked", "Colour alone: mean rgb", "Calibration error",
    "Looks at the test part", "Limits", "It was tested on 1 patient", "64 px at 0.5 µm/px",
    "A slide is abnormal if", "histonet33", "Certificate, SHA-256",
]  # fmt: skip


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, str]]:
    """A home of its own with a prepared model that did not pass, and serves all the same."""
    source, dataset = learnt()
    folder = tmp_path_factory.mktemp("cards") / "home"
    shutil.copytree(source.root, folder, ignore=shutil.ignore_patterns(prepared().name))
    home = open_home(folder, own_catalog=True)
    shutil.copytree(prepared(), home.models / prepared().name)
    model_id = prepared().name
    (home.models / model_id / GATE).unlink()
    score(home, model_id, spec=GateSpec(min_accuracy=0.95))
    promote(home, model_id, reason=f"see /srv/{PATIENT}.svs; it is a test", who="Ada",
            despite_gate=True)  # fmt: skip
    assert put_learnt(home, dataset, seed=5) != model_id
    yield home, model_id


def words_of(home: Home, model_id: str) -> tuple[str, str]:
    page = Page(make_model_card(home, model_id))
    paper = make_model_card(home, model_id, kind="pdf")
    check_inside(paper)
    return " ".join(page.words.split()), pdf_words(paper)


def test_page_and_paper_say_all_that_is_known(tested: tuple[Home, str]) -> None:
    home, model_id = tested
    known = describe_model(home, model_id)
    gate, card = known["gate"], known["card"]
    facts = [
        *PHRASES, model_id, *CLASSES, card["dataset_id"], card["certificate_sha256"],
        card["weights_sha256"], gate["sha256"], known["prepared"]["sha256"],
        f"{gate['balanced_accuracy']:.3f}", f"{gate['ece']:.3f}", "Gate: not passed on",
        f"{max(gate['baselines'].values()):.3f}", "≥ 0.95", "openvino int8", "Ada",
        f"{gate['confusion'][0][0]} {gate['confusion'][0][1]} {gate['confusion'][0][2]}",
        "97 tiles, 3 slides, 3 patients", "1 look by this model", "Page 1 of",
    ]  # fmt: skip
    page, paper = words_of(home, model_id)
    assert [fact for fact in facts[:-1] if str(fact) not in page] == []
    spaceless = paper.replace(" ", "")  # hashes and cells break where a line ends
    assert [fact for fact in facts if str(fact).replace(" ", "") not in spaceless] == []


def test_it_stands_alone(tested: tuple[Home, str]) -> None:
    page = make_model_card(*tested)
    assert not {"script", "iframe", "link", "object", "img"} & {*Page(page).tags}
    assert Page(page).addresses == []
    assert b"http:" not in page
    assert b"https:" not in page


@pytest.mark.parametrize("kind", ["html", "pdf"])
def test_no_file_and_no_patient_is_named(tested: tuple[Home, str], kind: str) -> None:
    home, model_id = tested
    content = make_model_card(home, model_id, kind=kind)
    words = all_bytes(content).decode("latin-1") + (pdf_words(content) if kind == "pdf" else "")
    assert "it is a test" in words
    for name in (PATIENT, "Planted", ".svs", str(home.root), "P-T0", "T0.svs"):
        assert name not in words, name


def test_intervals_are_those_of_the_gate_and_drawn_where_they_lie(tested) -> None:
    home, model_id = tested
    gate = read_gate(home.models / model_id)
    gate["intervals"]["balanced_accuracy"] = [0.25, 0.75]
    write_gate(home.models / model_id, gate | {"n_patients": 30, "looks_of_test_part": 7})
    card = collect_model_card(home, model_id)
    assert (card.scores[0].low, card.scores[0].high) == (0.25, 0.75)
    page = make_model_card(home, model_id).decode()
    assert "0.250 – 0.750" in page
    assert "left: 25.00%; width: 50.00%" in page
    assert not [limit for limit in card.limits if "was tested on" in limit]
    assert "7 by any" in page


@pytest.mark.parametrize(
    ("gate", "said", "good"),
    [
        (None, "none: it never stood before one", False),
        ({"passed": True, "lowered": []}, "passed", True),
        ({"passed": True, "lowered": ["min_accuracy 0.1 for 0.8"]}, "by lowered criteria", False),
        ({"passed": False, "reasons": ["recall of x 0.100 is below 0.3"]}, "recall of x", False),
    ],
)
def test_what_the_gate_said_stands_on_top(home: Home, gate, said: str, good: bool) -> None:
    model_id = put_model(home, gate=None)
    if gate:
        write_gate(home.models / model_id, gate)
    card = collect_model_card(home, model_id)
    assert said in card.verdict
    assert card.passed is good
    assert any("passed no gate" in limit for limit in card.limits) is not good
    page, _ = words_of(home, model_id)
    assert f"Gate: {card.verdict}. It does not serve." in page
    for unknown in ("Unknown: no gate measured it", "no longer here", "was not prepared",
                    "It never served"):  # fmt: skip
        assert unknown in page


def test_another_data_set_of_the_same_name_is_not_taken_for_its_own(tested, home: Home) -> None:
    source, _ = tested
    model_id = put_model(home, dataset_id="D-7", certificate_sha256="a" * 64)
    folder = home.datasets / "D-7"
    shutil.copytree(next(path for path in source.datasets.glob("D-*")), folder)
    assert collect_model_card(home, model_id).data == []
    certificate = json.loads((folder / "certificate.json").read_text())
    (folder / "certificate.json").write_text(json.dumps(certificate | {"sha256": "a" * 64}))
    assert len(collect_model_card(home, model_id).data) == 2


def test_texts_are_never_markup(home: Home) -> None:
    classes = [HOSTILE, "\u202enormal " + "A" * 90]
    model_id = put_model(
        home, classes=classes, normal_class=classes[1], recipe={"name": HOSTILE, HOSTILE: HOSTILE},
        packages={HOSTILE: HOSTILE}, dataset_id="../" + HOSTILE.replace("/", "")[:20],
    )  # fmt: skip
    promote(home, model_id, reason=HOSTILE, who=HOSTILE)
    content = make_model_card(home, model_id)
    assert not {"script", "img"} & {*Page(content).tags}
    page, paper = words_of(home, model_id)
    assert "<script>window.planted=1</script>" in page
    assert "<script>window.planted=1</script>" in paper.replace("> ", ">").replace(" <", "<")


def test_images_of_unknown_scale(home: Home) -> None:
    page, _ = words_of(home, put_model(home, mpp=None, read_path="image"))
    assert "64 px at unknown" in page
    assert "it learnt images of unknown scale" in page


def test_file_is_whole_or_absent(home: Home, tmp_path: Path) -> None:
    model_id = put_model(home)
    assert write_model_card(home, model_id, tmp_path / "m.html").read_bytes()[:9] == b"<!DOCTYPE"
    assert write_model_card(home, model_id, tmp_path / "m.pdf").read_bytes()[:5] == b"%PDF-"
    with pytest.raises(SpecError, match="html or pdf"):
        write_model_card(home, model_id, tmp_path / "m.md")
    with pytest.raises(BundleError, match="M-9"):
        write_model_card(home, "M-9", tmp_path / "x.html")
    weights = home.models / model_id / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BundleError, match="SHA-256 differs"):
        write_model_card(home, model_id, tmp_path / "x.html")
    assert sorted(path.name for path in tmp_path.glob("?.*")) == ["m.html", "m.pdf"]


def test_cards_load_neither_torch_nor_matplotlib(home: Home) -> None:
    code = f"""if True:
        import sys
        from histo_nb.export.model_card import make_model_card
        from histo_nb.home import open_home
        for kind in ("html", "pdf"):
            make_model_card(open_home({str(home.root)!r}), {put_model(home)!r}, kind=kind)
        print({{"torch", "fastai", "matplotlib"}} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "set()"

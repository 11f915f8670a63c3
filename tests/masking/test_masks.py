"""The home's masks: kept when a person corrected them, listed suspicious first, never lost."""

import json
from dataclasses import replace

import numpy as np
import pytest
from glasses import PlaneGlass, bare
from PIL import Image, PngImagePlugin

from histo_nb.errors import CatalogError, SpecError
from histo_nb.masking.masks import (
    describe_mask,
    forget_edit,
    keep_mask,
    list_masks,
    mask_path,
    mask_slides,
    read_mask,
    read_spec,
)
from histo_nb.masking.strokes import Stroke, apply_strokes
from histo_nb.masking.tissue import MaskSpec, TissueMask
from histo_nb.scanning.console import scan_rack


def glass(patient: str, *, tissue: bool = True, stain=(196, 120, 170)) -> PlaneGlass:
    plane = bare(1600, 1200)
    if tissue:
        noise = np.random.default_rng(0).integers(-6, 6, (700, 1000, 3))
        plane[200:900, 300:1300] = np.array(stain) + noise
    return PlaneGlass(plane, patient_id=patient)


@pytest.fixture
def slides(home):
    """A good slide, an empty one."""
    return scan_rack([glass("P1"), glass("P2", tissue=False)], home).slide_id.tolist()


def stroke(*points, width=200.0, adds=True):
    return Stroke.parse({"points": points, "width": width, "adds": adds})


def correct(home, slide_id, who, *, seen_at=None):
    mask = read_mask(mask_path(home, slide_id))
    drawn = apply_strokes(mask, [stroke((100, 100), (300, 100))])
    keep_mask(home, slide_id, drawn, spec=MaskSpec(), who=who, seen_at=seen_at)
    return read_mask(mask_path(home, slide_id))


# -------------------------------------------------------------------------------- corrected
def test_a_corrected_mask_stays_until_it_is_given_up(home, slides):
    good, _ = slides
    mask_slides(home, [good])
    made = read_mask(mask_path(home, good))
    edited = correct(home, good, "ada")
    assert (edited.edited_by, edited.array.sum() > made.array.sum()) == ("ada", True)
    rows, _ = mask_slides(home, [good])
    assert rows.method.tolist() == ["hand"]
    assert (read_mask(mask_path(home, good)).array == edited.array).all()
    mask_slides(home, [good], keep_edited=False)
    assert (read_mask(mask_path(home, good)).array == made.array).all()


def test_nobody_writes_over_what_another_one_corrected_meanwhile(home, slides):
    good, _ = slides
    mask_slides(home, [good])
    first = correct(home, good, "ada")
    for late in (None, "2020-01-01"):
        with pytest.raises(CatalogError, match="corrected meanwhile; open the slide again"):
            correct(home, good, "bob", seen_at=late)
        with pytest.raises(CatalogError, match="meanwhile"):
            forget_edit(home, good, spec=MaskSpec(), who="bob", seen_at=late)
    assert read_mask(mask_path(home, good)).edited_by == "ada"
    second = correct(home, good, "bob", seen_at=first.edited_at)
    forget_edit(home, good, spec=MaskSpec(), who="bob", seen_at=second.edited_at)
    aside = sorted((home.masks / "earlier").iterdir())
    assert [read_mask(path).edited_by for path in aside] == ["ada", "bob"], "both are put aside"
    events = home.catalog.events()
    assert events.what.tolist()[:3] == ["mask no longer edited", "mask edited", "mask edited"]


# ---------------------------------------------------------------------------------- listed
def test_the_suspicious_come_first_and_none_is_missing(home, slides):
    good, empty = slides
    pale = glass("P3", stain=(228, 208, 222))
    faint, unmasked, damaged = scan_rack([pale, glass("P4"), glass("P5")], home).slide_id
    mask_slides(home, [good, empty, faint, damaged])
    mask_path(home, damaged).write_bytes(b"no mask")
    rows = list_masks(home).set_index("slide_id")
    assert rows.index.tolist() == [unmasked, damaged, empty, faint, good]
    assert rows.quality_flags.tolist()[:3] == ["no mask", "mask unreadable", "no tissue"]
    assert rows.quality_flags[faint] == "faint"
    assert rows.tissue_mm2[good] == pytest.approx(700 * 1000 * 0.25e-6, rel=0.03)
    assert np.isnan(rows.tissue_fraction[unmasked])


def test_a_damaged_mask_is_told_and_made_anew_when_asked(home, slides):
    good, _ = slides
    mask_slides(home, [good])
    mask_path(home, good).write_bytes(b"")
    _, failures = mask_slides(home, [good])
    assert "--forget-edits" in failures.error[0]
    rows, failures = mask_slides(home, [good], keep_edited=False)
    assert (len(rows), len(failures)) == (1, 0)


def test_a_mask_of_another_version_is_read_and_said_to_be_unmeasured(home, slides):
    good, _ = slides
    mask_slides(home, [good])
    path = mask_path(home, good)
    with Image.open(path) as image:
        facts, pixels = json.loads(image.info["histo_nb"]), image.copy()
    facts["quality"] = {"sparkle": 1}
    info = PngImagePlugin.PngInfo()
    info.add_text("histo_nb", json.dumps(facts))
    pixels.save(path, pnginfo=info)
    assert read_mask(path).quality is None
    assert describe_mask(home, good)["quality_flags"] == "quality not measured"
    assert list_masks(home, [good]).slide_id.tolist() == [good]
    assert read_spec(path) == MaskSpec()


# ----------------------------------------------------------------------------------- strokes
def test_strokes_add_and_erase_where_they_go_in_their_order():
    mask = TissueMask(np.zeros((100, 120), bool), 16.0, 0.5)
    line = stroke((160, 800), (1760, 800), width=160)
    dot = stroke((960, 800), width=320, adds=False)
    drawn = apply_strokes(mask, [line, dot, stroke((960, 800), width=64)]).array
    assert drawn[50, 20]
    assert not drawn[40, 20], "as wide as the brush"
    assert not drawn[50, 55], "erased"
    assert drawn[50, 60], "added again"
    outside = stroke((-1e9, 5e8), (1e9, 5e8))
    assert not apply_strokes(mask, [outside]).array.any()
    assert not mask.array.any(), "the mask itself is not touched"


@pytest.mark.parametrize(
    "said",
    [
        {},
        None,
        {"points": [], "width": 9, "adds": True},
        {"points": [[0]], "width": 9, "adds": True},
        {"points": [[0, float("nan")]], "width": 9, "adds": True},
        {"points": [[0, 10**400]], "width": 9, "adds": True},
        {"points": [[0, 0]], "width": -1, "adds": True},
        {"points": [[0, 0]], "width": float("inf"), "adds": True},
    ],
)
def test_what_is_no_stroke_is_named(said):
    with pytest.raises(SpecError, match=r"stroke|width"):
        Stroke.parse(said)


@pytest.mark.parametrize("name", ["open_um", "close_um", "min_speck_um2", "min_hole_um2"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e12])
def test_lengths_that_cannot_be_are_named(name, value):
    with pytest.raises(SpecError, match=name):
        replace(MaskSpec(), **{name: value})

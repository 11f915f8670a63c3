"""Spoilt glass: each defect is where it says, the rest of the slide is as it was."""

import numpy as np
import pytest
import shapely

from histo_nb.errors import SpecError
from histo_nb.scanning.virtual.defects import DEFECTS, FlawedGlass, spoil_glass
from histo_nb.scanning.virtual.drawn import DrawnGlass, DrawnSpec, draw_glass
from histo_nb.scanning.virtual.glass import GLASS_RGB, Glass
from histo_nb.scanning.virtual.rack import RackSpec, fill_rack

MPP = 2.0


@pytest.fixture(scope="module")
def glass() -> DrawnGlass:
    return draw_glass("P1", diagnosis="adenoma", seed=3, spec=DrawnSpec(size_um=(4200, 3200)))


def look(glass: Glass) -> np.ndarray:
    size = round(glass.size_um[0] / MPP), round(glass.size_um[1] / MPP)
    return glass.look(0, 0, size=size, mpp=MPP)


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_rectangle_is_the_crop_of_a_larger_one(glass, defect):
    spoilt = spoil_glass(glass, defect)
    whole = look(spoilt)
    x, y, width, height = 301, 217, 411, 333
    part = spoilt.look(x, y, size=(width, height), mpp=MPP)
    assert np.abs(part.astype(int) - whole[y : y + height, x : x + width]).max() <= 1
    again = spoil_glass(glass, defect)
    assert np.array_equal(again.look(x, y, size=(width, height), mpp=MPP), part)


@pytest.mark.parametrize("defect", ["pen", "fold", "bubble", "coverslip", "dust"])
def test_a_defect_changes_a_part_of_the_slide(glass, defect):
    changed = (np.abs(look(spoil_glass(glass, defect)).astype(int) - look(glass)) > 20).any(axis=2)
    assert 0.0002 < changed.mean() < 0.25


def test_seeds_place_defects_elsewhere(glass):
    first, other = (spoil_glass(glass, "bubble", seed=seed) for seed in (1, 2))
    assert first.bumps != other.bumps


def test_a_fold_is_darker_and_faint_stain_paler(glass):
    usual = look(glass).astype(int)
    for defect, sign in (("fold", -1), ("faint", 1)):
        difference = look(spoil_glass(glass, defect)).astype(int) - usual
        changed = np.abs(difference).max(axis=2) > 20
        assert (sign * difference[changed]).mean() > 15


@pytest.mark.parametrize("defect", ["out_of_focus", "fold", "bubble"])
def test_what_lies_off_the_focal_plane_lies_on_tissue(glass, defect):
    tissue = shapely.union_all([a.outline for a in glass.truth()])
    spoilt = spoil_glass(glass, defect)
    assert spoilt.bumps
    assert any(tissue.contains(shapely.Point(b.x_um, b.y_um)) for b in spoilt.bumps)


def test_an_empty_slide_is_bare_and_claims_nothing(glass):
    empty = spoil_glass(glass, "empty")
    assert (look(empty) == GLASS_RGB).all()
    assert empty.truth() == []
    assert empty.barcode != glass.barcode, "a console would not scan it after the other"
    assert empty.barcode == spoil_glass(glass, "empty").barcode


def test_tissue_reaches_over_the_border_and_its_truth_ends_there(glass):
    cropped = spoil_glass(glass, "border")
    view = look(cropped)
    rim = np.concatenate([view[0], view[:, 0]])
    assert (rim.min(axis=-1) < 200).mean() > 0.2
    area = shapely.box(0, 0, *cropped.size_um)
    outlines = [a.outline for a in cropped.truth()]
    assert outlines
    assert all(outline.within(area.buffer(1e-6)) for outline in outlines)
    bare = (view.min(axis=-1) > 225).astype(float)
    for outline in outlines:
        x, y = shapely.get_coordinates(outline.representative_point())[0] / MPP
        around = bare[int(y) - 20 : int(y) + 20, int(x) - 20 : int(x) + 20]
        assert around.mean() < 0.6


def test_a_rack_is_spoilt_from_its_first_slide_on():
    spec = RackSpec(patients_per_class=1, width_um=1500, height_um=1300, defects=("pen", "empty"))
    first, second, third = fill_rack(spec)
    assert isinstance(first, FlawedGlass)
    assert second.truth() == []
    assert isinstance(third, DrawnGlass)
    with pytest.raises(SpecError, match="choose from out_of_focus"):
        RackSpec(defects=("coffee",))

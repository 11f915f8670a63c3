"""Pictures of notebooks that must stand whatever lies in the home."""

import matplotlib as mpl
from glasses import PlaneGlass, bare

from histo_nb.masking.masks import mask_path, mask_slides
from histo_nb.scanning.console import scan_rack
from histo_nb.widgets.figures import show_contact_sheet


def test_the_contact_sheet_shows_slides_without_a_readable_mask(home):
    mpl.use("Agg")
    planes = [bare(800, 600) for _ in range(3)]
    for plane in planes:
        plane[100:500, 200:600] = (196, 120, 170)
    rack = [PlaneGlass(p, patient_id=f"P{i}") for i, p in enumerate(planes)]
    unmasked, damaged, good = scan_rack(rack, home).slide_id
    mask_slides(home, [damaged, good])
    mask_path(home, damaged).write_bytes(b"no mask")
    titles = [ax.get_title().split("\n")[:2] for ax in show_contact_sheet(home).flat[:3]]
    assert titles[:2] == [[unmasked, "no mask"], [damaged, "mask unreadable"]]
    assert titles[2][0] == good

"""Files of real scanners and of other projects: each is accepted with its right facts, or refused
with the right reason."""

import pytest

from histo_nb.scanning.intake import IntakeSpec, receive

ACCEPTED = {  # file: (width, height, levels, µm/px, objective; 0 = not stated)
    "real/CMU-1-Small-Region.svs": (2220, 2967, 1, 0.499, 20),
    "synthetic/osp_small.svs": (16, 16, 1, 0.499, 20),
    "synthetic/panimg_no_dzi.tif": (3072, 3968, 4, 0.972, 0),
}
REFUSED = {  # file: (check, words of the reason)
    "real/TCGA-CR-7395-01A-01-TS1.svs": ("mpp", "states no microns per pixel"),
    "real/kidney-48-5.tif": ("open", "no slide format"),
    "real/small_vectra.qptiff": ("open", "no slide format"),
    "synthetic/grey10kx5k.tif": ("open", "no slide format"),
    "synthetic/multi-channel-z-series.ome.tif": ("open", "no slide format"),
    "synthetic/vitessce_test.ome.tif": ("open", "no slide format"),
    "synthetic/osp_boxes.tiff": ("mpp", "slide_mpp=352.778"),
    "synthetic/panimg_valid_tiff.tif": ("mpp", "slide_mpp=1000"),
    "synthetic/small_HE_levels.tiff": ("mpp", "slide_mpp=352.858"),
    "synthetic/yb10kx5k.zstd.tiff": ("mpp", "slide_mpp=352.858"),
}
GIVEN = {  # refused for their mpp only: taken with one that a person gives
    "real/TCGA-CR-7395-01A-01-TS1.svs": (4443, 3567, 2),
    "synthetic/osp_boxes.tiff": (300, 250, 4),
    "synthetic/panimg_valid_tiff.tif": (205, 205, 2),
    "synthetic/small_HE_levels.tiff": (300, 250, 4),
    "synthetic/yb10kx5k.zstd.tiff": (10000, 5000, 5),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_it_is_accepted_with_its_facts(home, data, name):
    arrival = receive(data / "slides" / name, home)
    row = home.catalog.slide(arrival.slide_id)
    facts = ("width", "height", "n_levels", "slide_mpp", "objective_power")
    said = [row[key] or 0 for key in facts]
    assert said == pytest.approx(list(ACCEPTED[name]), rel=1e-3)
    assert row["mpp_source"] == "file"


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_its_reason(home, data, name):
    arrival = receive(data / "slides" / name, home)
    step, words = REFUSED[name]
    assert (arrival.slide_id, arrival.step) == (None, step)
    assert words in arrival.reason
    assert home.catalog.refusals().quarantine_id.tolist() == [arrival.quarantine_id]


@pytest.mark.parametrize("name", GIVEN)
def test_a_given_mpp_lets_it_in(home, data, name):
    arrival = receive(data / "slides" / name, home, spec=IntakeSpec(slide_mpp=0.4))
    row = home.catalog.slide(arrival.slide_id)
    assert (row["width"], row["height"], row["n_levels"]) == GIVEN[name]
    assert (row["slide_mpp"], row["mpp_source"]) == (0.4, "given")


def test_every_file_is_in_a_table(data):
    there = {
        path.relative_to(data / "slides").as_posix()
        for path in (data / "slides").rglob("*")
        if path.is_file() and path.suffix != ".dcm"
    }
    assert there == {*ACCEPTED, *REFUSED}

"""Pictures of a model: they say their numbers, and stand figures that are undefined."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from histo_nb.widgets.training_figures import (
    PURPOSE,
    show_confusion,
    show_evaluation,
    show_gradcam,
    show_intervals,
    show_reliability,
    show_roc,
)


@pytest.fixture(autouse=True)
def _drawing():
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture
def figures():
    """What `training.evaluate` returns of ten tiles, by hand; one class does not occur."""
    rival = {"balanced_accuracy": 0.5, "intervals": {"balanced_accuracy": [0.4, 0.6]}}
    return {
        "model_id": "M-1",
        "split": "test",
        "classes": ["adenoma", "carcinoma", "normal"],
        "n_tiles": 10,
        "n_slides": 2,
        "n_patients": 2,
        "balanced_accuracy": 0.75,
        "recall": {"adenoma": 0.75, "normal": 0.75},
        "confusion": [[3, 0, 1], [0, 0, 0], [1, 0, 5]],
        "auc": {"adenoma": 0.9, "carcinoma": None, "normal": 0.8},
        "roc": {
            "adenoma": {"fpr": [0, 0, 1], "tpr": [0, 0.8, 1]},
            "carcinoma": None,
            "normal": {"fpr": [0, 0.2, 1], "tpr": [0, 0.8, 1]},
        },
        "ece": 0.123,
        "reliability": [
            {"confidence": 0.5, "accuracy": 0.4, "n": 4},
            {"confidence": 1.0, "accuracy": 0.9, "n": 6},
        ],
        "temperature": 2.0,
        "uncalibrated": {"ece": 0.3, "reliability": [{"confidence": 1, "accuracy": 0.7, "n": 10}]},
        "intervals": {"balanced_accuracy": [0.7, 0.8]},
        "baseline_figures": {"mean_rgb": rival},
    }


def words(ax):
    texts = [text.get_text() for text in (*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels())]
    legend = ax.get_legend()
    return texts + ([text.get_text() for text in legend.get_texts()] if legend else [])


def test_a_confusion_says_counts_and_shares(figures):
    said = words(show_confusion(figures["confusion"], figures["classes"]))
    assert {"75%", "3", "83%", "5", "–"} <= set(said)


def test_a_reliability_diagram_says_the_error_before_and_after(figures):
    ax = show_reliability(figures)
    assert ax.get_title() == "ECE 0.123, before 0.300"
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.4, 0.6])
    places = [bar.get_x() + bar.get_width() / 2 for bar in ax.patches]
    assert places == pytest.approx([7.5 / 15, 14.5 / 15])
    assert show_reliability({**figures, "uncalibrated": None}).get_title() == "ECE 0.123"


def test_a_roc_picture_names_classes_it_cannot_draw(figures):
    said = words(show_roc(figures))
    assert {"adenoma: 0.90", "carcinoma: undefined", "normal: 0.80"} <= set(said)


def test_intervals_are_drawn_where_there_are_any(figures):
    def bars(ax):
        return [line.get_xdata().tolist() for line in ax.lines if len(line.get_xdata()) == 2
                and line.get_linewidth() == 3]  # fmt: skip

    drawn = show_intervals(figures)
    assert bars(drawn) == [[0.7, 0.8], [0.4, 0.6]]
    assert {"M-1", "mean rgb", "0.75", "0.50", " chance"} <= set(words(drawn))
    alone = figures | {"intervals": {"balanced_accuracy": [None, None]}, "baseline_figures": {}}
    assert bars(show_intervals(alone)) == []


def test_the_page_shows_all_four_and_its_purpose(figures):
    axes = show_evaluation(figures)
    figure = axes[0, 0].figure
    figure.canvas.draw()
    assert axes.shape == (2, 2)
    assert "M-1, test part: 10 tile(s)" in figure.get_suptitle()
    assert figure.get_supxlabel() == PURPOSE
    assert all(ax.get_title() for ax in axes.flat)
    assert show_roc(figures).figure.get_supxlabel() == PURPOSE


def test_gradcam_lays_each_map_over_its_whole_tile():
    images = [np.full((40, 60, 3), 200, np.uint8)] * 3
    heat = np.linspace(0, 1, 12).reshape(3, 4)
    axes = show_gradcam(images, [heat] * 3, ["a", "b", "c"], columns=2)
    assert axes.shape == (4, 2)
    assert [ax.get_title() for ax in axes[::2].flat] == ["a", "b", "c", ""]
    tile, overlay = axes[1, 0].images
    assert overlay.get_extent() == [-0.5, 59.5, 39.5, -0.5] == list(tile.get_extent())
    assert (overlay.get_array()[0, 0, 3], overlay.get_array()[-1, -1, 3]) == (0, 255)
    assert len(axes[0, 0].images) == 1
    assert PURPOSE in axes[0, 0].figure.get_supxlabel()
    with pytest.raises(ValueError, match="zip"):
        show_gradcam(images, [heat], ["a"])

"""What a learning curve says; the curve itself is measured in test_notebooks."""

import pandas as pd
import pytest

from histo_nb.training.curve import say_curve


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([0.5, 0.7], "more will help, of b first (recall 0.40)"),
        ([0.7, 0.7], "did not rise; more of the same will hardly help"),
        ([0.7, 0.4], "fell"),
        ([0.7, float("nan")], "hardly help"),
        ([0.7], "no learning curve yet"),
    ],
)
def test_a_curve_is_put_into_words(scores, said):
    curve = pd.DataFrame({"patients": range(1, len(scores) + 1), "balanced_accuracy": scores})
    assert said in say_curve(curve.assign(recall_a=0.9, recall_b=0.4))

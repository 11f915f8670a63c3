import numpy as np
import pytest


@pytest.fixture
def cohort(make_tiles):
    """Twelve patients of three classes, some with two, with uneven numbers of tiles."""
    rng = np.random.default_rng(3)
    groups = []
    for i in range(12):
        groups.append((f"p{i:02d}", "normal", int(rng.integers(5, 25))))
        if i % 3:
            groups.append((f"p{i:02d}", ("adenoma", "carcinoma")[i % 2], int(rng.integers(3, 12))))
    return make_tiles(*groups)

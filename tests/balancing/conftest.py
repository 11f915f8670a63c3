import numpy as np
import pandas as pd
import pytest

from histo_nb.tables import LABELLED_TILES, check_table


@pytest.fixture
def make_tiles():
    """Rows of labelled tiles from (patient, label, n) without any slide file."""

    def make(*groups: tuple[str, str, int], size: int = 64) -> pd.DataFrame:
        rows = []
        for patient, label, n in groups:
            start = sum(row["patient_id"] == patient for row in rows)
            for i in range(start, start + n):
                x, y = 100 + size * (i % 8), 100 + size * (i // 8)
                rows.append(
                    {
                        "tile_id": f"S-{patient}/{x},{y}/{size}",
                        "slide_id": f"S-{patient}",
                        "patient_id": patient,
                        "slide_path": f"/slides/S-{patient}.svs",
                        "slide_mpp": 0.5,
                        "x": x,
                        "y": y,
                        "size_l0": size,
                        "level": 0,
                        "read_size": size,
                        "tile_size": size,
                        "mpp": 0.5,
                        "effective_mpp": 0.5,
                        "read_path": "level0",
                        "tissue": 1.0,
                        "label": label,
                        "label_fraction": 1.0,
                        "label_source": "test",
                        "labelled_by": "test",
                        "labelled_at": "2026-01-01",
                    }
                )
        return check_table(pd.DataFrame(rows), LABELLED_TILES)

    return make


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

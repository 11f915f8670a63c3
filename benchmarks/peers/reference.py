"""The reference: our mask, tiles and exact reading, eager PyTorch in fp32. Not timed.

`python reference.py JOB.json` prints where the tiles are, for the plain loop, and the
probabilities with which all others are compared; of the tiles in the job where it names some.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from histo_nb.balancing.pixels import read_tile
from histo_nb.balancing.transforms import evaluation_transform
from histo_nb.image import open_source
from histo_nb.masking.tissue import MaskSpec, mask_slide
from histo_nb.model.bundle import open_bundle
from histo_nb.model.card import slide_tiling
from histo_nb.slide import Slide
from histo_nb.tiling.grid import TileSpec, tile_slide

job = json.loads(Path(sys.argv[1]).read_text())
bundle = open_bundle(Path(job["bundle"]))
card = bundle.card
exact = slide_tiling(card) | {"read_path": "level0"}
with Slide(job["slide"]) as slide:
    mask = mask_slide(slide, spec=MaskSpec(), measure=False)
    tiles = tile_slide(slide, mask, spec=TileSpec(**exact), slide_id="S", patient_id=None)
    size = int(tiles.size_l0.iloc[0])
    width, height = slide.size
rows = tiles.to_dict("records")
if "x" in job:  # tiles of another's grid
    rows = [
        rows[0] | {"x": x, "y": y}
        for x, y in zip(job["x"], job["y"], strict=True)
        if 0 <= x <= width - size and 0 <= y <= height - size
    ]
transform = evaluation_transform(
    image_size=card.image_size, statistics=card.statistics, normalize=card.normalize
)
found = []
with open_source(rows[0] | {"slide_path": job["slide"]}) as source, torch.inference_mode():
    for start in range(0, len(rows), 8):
        pixels = np.stack([read_tile(source, row) for row in rows[start : start + 8]])
        batch = transform(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        found.append((bundle.network(batch) / card.temperature).softmax(1))
print(json.dumps({"x": [int(row["x"]) for row in rows], "y": [int(row["y"]) for row in rows],
                  "prob": torch.cat(found).tolist(), "size_l0": size}))  # fmt: skip

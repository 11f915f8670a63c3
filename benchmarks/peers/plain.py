"""The loop that people write: OpenSlide level 0, PIL resize, eager PyTorch fp32, batches of 8.

`python plain.py JOB.json`. It is given the tiles of our mask, so it has no tissue to find.
"""

import json
import sys
import time
from pathlib import Path

started = time.perf_counter()
import numpy as np  # noqa: E402
import openslide  # noqa: E402
import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from histo_nb.model.bundle import open_bundle  # noqa: E402

imported = time.perf_counter()
job = json.loads(Path(sys.argv[1]).read_text())
size, image_size = job["size_l0"], job["image_size"]
bundle = open_bundle(Path(job["bundle"]))
statistics = bundle.card.statistics
mean = torch.tensor(statistics["mean"])[:, None, None]
std = torch.tensor(statistics[bundle.card.normalize])[:, None, None]
slide = openslide.OpenSlide(job["slide"])
places = list(zip(job["x"], job["y"], strict=True))
found = []
with torch.no_grad():
    for start in range(0, len(places), 8):
        batch = []
        for place in places[start : start + 8]:
            tile = slide.read_region(place, 0, (size, size)).convert("RGB")
            pixels = np.array(tile.resize((image_size, image_size)))
            batch.append((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std)
        logits = bundle.network(torch.stack(batch)) / bundle.card.temperature
        found.append(logits.softmax(1))
probabilities = torch.cat(found)
print(json.dumps({"wall_s": time.perf_counter() - imported, "import_s": imported - started,
                  "x": job["x"], "y": job["y"], "prob": probabilities.tolist()}))  # fmt: skip

"""LazySlide 0.13: find_tissues at the level it calls the fastest, tile_tissues, its feature loop.

`python lazyslide.py JOB.json`, in LazySlide's own environment. `coarse` in the job asks for tiles
of the network's size at a coarse µm/px, which LazySlide reads from a level of the pyramid.
"""

import json
import sys
import time
from pathlib import Path

sys.path.pop(0)  # this folder, in which this file has the package's name
started = time.perf_counter()
import lazyslide as zs  # noqa: E402
import torch  # noqa: E402
from torchvision.transforms import v2  # noqa: E402
from wsidata import open_wsi  # noqa: E402

imported = time.perf_counter()
job = json.loads(Path(sys.argv[1]).read_text())
shrink = job["tile_size"] / job["image_size"] if job.get("coarse") else 1.0
transform = v2.Compose([
    v2.ToImage(),
    v2.Resize((job["image_size"], job["image_size"]), antialias=True),
    v2.ToDtype(torch.float32, scale=True),
])  # fmt: skip
network = torch.jit.load(job["torchscript"])
wsi = open_wsi(job["slide"], store=None)
zs.pp.find_tissues(wsi, level=-1)
zs.pp.tile_tissues(wsi, round(job["tile_size"] / shrink), mpp=job["mpp"] * shrink,
                   background_fraction=0.5)  # fmt: skip
if "tiles" not in wsi.shapes:
    raise SystemExit("no tile is found that is half tissue")
logits = zs.tl.feature_extraction(
    wsi,
    network,
    model_name="network",
    transform=transform,
    device="cpu",
    batch_size=job["batch"],
    num_workers=job["workers"],
    pbar=False,
    return_features=True,
)
probabilities = torch.from_numpy(logits).softmax(1)
took = time.perf_counter() - imported
bounds = wsi["tiles"].bounds
print(json.dumps({"wall_s": took, "import_s": imported - started,
                  "x": bounds.minx.round().astype(int).tolist(),
                  "y": bounds.miny.round().astype(int).tolist(),
                  "prob": probabilities.tolist()}))  # fmt: skip

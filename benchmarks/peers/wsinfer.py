"""WSInfer 0.6.1 through its Python API (its command line asks the network for models).

`python wsinfer.py JOB.json`, in WSInfer's own environment.
"""

import json
import sys
import time
from pathlib import Path

sys.path.pop(0)  # this folder, in which this file has the package's name
started = time.perf_counter()
import pandas as pd  # noqa: E402
from wsinfer.modellib.models import LocalModelTorchScript  # noqa: E402
from wsinfer.modellib.run_inference import run_inference  # noqa: E402
from wsinfer.patchlib import segment_and_patch_directory_of_slides  # noqa: E402
from wsinfer_zoo.client import ModelConfiguration  # noqa: E402

imported = time.perf_counter()
job = json.loads(Path(sys.argv[1]).read_text())
scratch = Path(job["scratch"])
slides, results = scratch / "slides", scratch / "results"
slides.mkdir()
results.mkdir()
(slides / Path(job["slide"]).name).symlink_to(job["slide"])
config = {
    "spec_version": "1.0",
    "architecture": "histonet33",
    "num_classes": len(job["classes"]),
    "class_names": job["classes"],
    "patch_size_pixels": job["tile_size"],
    "spacing_um_px": job["mpp"],
    "transform": [  # mean and std are inside the TorchScript model
        {"name": "Resize", "arguments": {"size": job["image_size"]}},
        {"name": "ToTensor"},
    ],
}
model = LocalModelTorchScript(
    config=ModelConfiguration.from_dict(config), model_path=job["torchscript"]
)
segment_and_patch_directory_of_slides(slides, results, job["tile_size"], job["mpp"])
run_inference(slides, results, model, batch_size=job["batch"], num_workers=job["workers"],
              speedup=job.get("speedup", False))  # fmt: skip
table = pd.read_csv(next((results / "model-outputs-csv").glob("*.csv")))
took = time.perf_counter() - imported
probabilities = table[[f"prob_{name}" for name in job["classes"]]].to_numpy().tolist()
print(json.dumps({"wall_s": took, "import_s": imported - started, "x": table.minx.tolist(),
                  "y": table.miny.tolist(), "prob": probabilities}))  # fmt: skip

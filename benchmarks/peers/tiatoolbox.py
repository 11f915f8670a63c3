"""TIAToolbox 2.1.3: its patch predictor with its own tissue mask.

`python tiatoolbox.py JOB.json`, in TIAToolbox's own environment. `coarse` in the job asks for
tiles of the network's size at a coarse µm/px, which TIAToolbox reads from a level of the pyramid.
"""

import json
import sys
import time
from pathlib import Path

sys.path.pop(0)  # this folder, in which this file has the package's name
started = time.perf_counter()
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import zarr  # noqa: E402
from tiatoolbox.models import IOPatchPredictorConfig, PatchPredictor  # noqa: E402
from tiatoolbox.models.models_abc import ModelABC  # noqa: E402

imported = time.perf_counter()
job = json.loads(Path(sys.argv[1]).read_text())
SIZE = job["image_size"]


class Scripted(ModelABC):
    """The TorchScript network in TIAToolbox's clothes."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.jit.load(job["torchscript"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)

    @staticmethod
    def preproc(image: np.ndarray) -> np.ndarray:
        if image.shape[0] != SIZE:
            image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return image.transpose(2, 0, 1).astype(np.float32) / 255

    @staticmethod
    def infer_batch(model: torch.nn.Module, images: torch.Tensor, *, device: str) -> np.ndarray:
        with torch.inference_mode():
            return model(images.to(device)).softmax(1).cpu().numpy()

    @staticmethod
    def postproc(image: np.ndarray) -> np.ndarray:
        return image


shrink = job["tile_size"] / SIZE if job.get("coarse") else 1.0
size, mpp = round(job["tile_size"] / shrink), job["mpp"] * shrink
config = IOPatchPredictorConfig(
    input_resolutions=[{"units": "mpp", "resolution": mpp}],
    patch_input_shape=[size, size],
    stride_shape=[size, size],
)
predictor = PatchPredictor(
    model=Scripted(), batch_size=job["batch"], num_workers=job["workers"], device="cpu"
)
written = predictor.run(
    [Path(job["slide"])],
    patch_mode=False,
    ioconfig=config,
    save_dir=Path(job["scratch"]) / "out",
    output_type="zarr",
    return_probabilities=True,
)
table = zarr.open(str(next(iter(written.values()))), mode="r")
probabilities, places = table["probabilities"][:], table["coordinates"][:]
took = time.perf_counter() - imported
scale = mpp / job["slide_mpp"]
print(json.dumps({"wall_s": took, "import_s": imported - started,
                  "x": (places[:, 0] * scale).round().astype(int).tolist(),
                  "y": (places[:, 1] * scale).round().astype(int).tolist(),
                  "prob": probabilities.tolist()}))  # fmt: skip

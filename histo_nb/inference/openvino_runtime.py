"""Classifies with OpenVINO on the CPU. Loads no torch."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from histo_nb.errors import BundleError
from histo_nb.inference.runtime import Answers, in_batches
from histo_nb.model.card import Card
from histo_nb.model.openvino_files import HINTS, openvino
from histo_nb.model.prepared import PREPARE
from histo_nb.stored import N_THREADS

Key = TypeVar("Key")


class OpenVinoRuntime:
    """A network of `openvino_files.with_normalization`, one batch a core at a time."""

    def __init__(
        self, network: Any, card: Card, *, precision: str, n_threads: int | None = None
    ) -> None:
        n_threads = n_threads or N_THREADS
        self.card, self.name = card, f"openvino {precision}"
        shape = network.input(0).shape
        size = card.image_size
        if list(shape)[1:] != [size, size, 3] or network.output(0).shape[1] != len(card.classes):
            raise BundleError(
                f"the OpenVINO network of {card.model_id} takes {list(shape)} pixels and gives "
                f"{network.output(0).shape[1]} classes, its card says otherwise; {PREPARE} again"
            )
        self._batch = int(shape[0])
        # One thread a batch: what a tile gets does not depend on how many threads there are.
        compiled = (
            openvino()
            .Core()
            .compile_model(
                network,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": HINTS[precision],
                    "INFERENCE_NUM_THREADS": n_threads,
                    "NUM_STREAMS": n_threads,
                    "ENABLE_CPU_PINNING": False,  # reading needs the same cores
                },
            )
        )
        self._requests = [compiled.create_infer_request() for _ in range(n_threads + 1)]

    def run(self, images: Iterable[tuple[Key, np.ndarray]]) -> Generator[tuple[Key, Answers]]:
        """Yield what the network says of single (I, I, 3) uint8 images, in order."""
        free = deque(self._requests)
        busy: deque[tuple[list[Key], Any]] = deque()
        try:
            for keys, batch in in_batches(images, self._batch):
                if not free:
                    keys_done, request = busy.popleft()
                    yield from _collect(keys_done, request)
                    free.append(request)
                request = free.popleft()
                request.start_async({0: batch})
                busy.append((keys, request))
            while busy:
                yield from _collect(*busy.popleft())
        finally:
            for _, request in busy:  # broken off
                request.wait()


def _collect(keys: list[Key], request: Any) -> Iterator[tuple[Key, Answers]]:
    request.wait()
    logits, features = (request.get_output_tensor(i).data.copy() for i in range(2))
    for i, key in enumerate(keys):
        yield key, Answers(logits[i : i + 1], features[i : i + 1])

"""Tiles of a data set as batches for fastai: pixels are read ahead, transforms stay in order."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch.utils.data import Dataset as TorchDataset

from histo_nb.balancing.dataset import Dataset

N_READERS = 2  # threads that read ahead in each process
MAX_WORKERS = 8  # processes, where a GPU must be fed


class TileDataset(TorchDataset[tuple[torch.Tensor, int]]):
    """Tiles of a data set as (transformed image, class number)."""

    def __init__(self, dataset: Dataset, numbers: np.ndarray, transform: torch.nn.Module) -> None:
        codes = {label: i for i, label in enumerate(dataset.classes)}
        self._labels = dataset.rows.label.map(codes).to_numpy()
        self._pixels, self._numbers, self._transform = dataset.pixels, numbers, transform

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        return self.finish(item, self.read(item))

    def read(self, item: int) -> np.ndarray:
        """Return the pixels (S, S, 3) uint8 of one item; any thread may."""
        return np.array(self._pixels[int(self._numbers[item])])

    def finish(self, item: int, pixels: np.ndarray) -> tuple[torch.Tensor, int]:
        """Return one item's image and class; random, so only one thread, in order."""
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        return self._transform(image), int(self._labels[self._numbers[item]])


class TileLoader(DataLoader):  # type: ignore[misc]
    """fastai's loader, with the pixels of the next batch read while the network works."""

    def create_batches(self, samps: Iterable[int]) -> Iterator[Any]:
        """Yield batches of the samples, in their order."""
        with ThreadPoolExecutor(N_READERS) as pool:
            yield from map(self.do_batch, self.chunkify(self._finished(samps, pool)))

    def _finished(
        self, samps: Iterable[int], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[torch.Tensor, int]]:
        waiting: deque[tuple[int, Future[np.ndarray]]] = deque()
        for item in samps:
            waiting.append((item, pool.submit(self.dataset.read, item)))
            if len(waiting) > 2 * self.bs:
                first, pixels = waiting.popleft()
                yield self.dataset.finish(first, pixels.result())
        while waiting:
            first, pixels = waiting.popleft()
            yield self.dataset.finish(first, pixels.result())


def make_loaders(
    train: TileDataset, selecting: TileDataset, *, batch_size: int, device: torch.device
) -> DataLoaders:
    """Return fastai's pair of loaders: shuffled for training, in order for selecting."""
    n_workers = min(MAX_WORKERS, os.cpu_count() or 1) if device.type == "cuda" else 0
    shared: dict[str, Any] = {"num_workers": n_workers, "device": device}
    return DataLoaders(
        TileLoader(train, bs=min(batch_size, len(train)), shuffle=True, drop_last=True, **shared),
        TileLoader(selecting, bs=batch_size, **shared),
        device=device,
    )

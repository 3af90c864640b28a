"""PyTorch's data sets straight from an archive or a folder of `.calo` files. Needs the extra "learn".

```python
from torch.utils.data import DataLoader
from calotype.dataset import Dataset

dataset = Dataset("flowers.caloset")
for pixels, label in DataLoader(dataset, batch_size=32, shuffle=True, num_workers=2):
    ...
```
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils import data as torch_data

import calotype
from calotype import threads
from calotype.archive import Archive
from calotype.bundle import ModelFile
from calotype.codec import whole_latents
from calotype.errors import InputError
from calotype.pixels import Samples

SUFFIX = ".calo"


class _Folder:
    """A folder of `.calo` files, read as an archive is."""

    def __init__(self, path: Path, model: ModelFile | None) -> None:
        self._path, self._model = path, model
        self.names = sorted(file.relative_to(path).as_posix() for file in path.rglob(f"*{SUFFIX}"))

    def image(self, name: str) -> Image.Image:
        return calotype.decode((self._path / name).read_bytes(), model=self._model)

    def array(self, name: str) -> Samples:
        return calotype.decode_array((self._path / name).read_bytes(), model=self._model)

    def latents(self, name: str) -> NDArray[np.float32]:
        return whole_latents((self._path / name).read_bytes(), model=self._model)

    def close(self) -> None:
        """Nothing stays open."""


def _opened(path: Path, model: ModelFile | None) -> Archive | _Folder:
    return _Folder(path, model) if path.is_dir() else Archive(path, model)


class Dataset(torch_data.Dataset[tuple[Any, int]]):
    """Images, or their latents, with labels: a map-style data set.

    An item is a pair as torchvision's `ImageFolder` gives them: the image, and the number of its class. Each process
    that reads opens the file for itself when it reads first; in a worker of a `DataLoader` networks run in one thread.

    Args:
        path: A `.caloset`, or a folder of `.calo` files, searched to any depth.
        latents: Give latents instead of images, float32. Of a picture that is y_hat (m, h/16, w/16), the sides padded
            to multiples of 64, in steps of the quantiser: a step is finer at a higher level, so train on files of one
            quality. Of an image in a textbook model's chunk it is y (d,) in bins, the same unit at all levels.
        transform: Makes of a PIL image, or of the tensor of latents, what an item holds. Without it an image is a
            tensor (c, h, w) of the samples' type, uint8 or uint16.
        model: A model to use, installed or not.

    Attributes:
        names: Of all images, in order.
        classes: The folders that the names stand in, sorted; an empty one for names without.
        labels: For each image the place of its folder in `classes`.

    Raises:
        FormatError: If the archive is not sound.
        InputError: If there are no images.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        latents: bool = False,
        transform: Callable[[Any], Any] | None = None,
        model: ModelFile | None = None,
    ) -> None:
        self._path, self._latents, self._transform, self._model = Path(path), latents, transform, model
        self._readers: dict[int, Archive | _Folder] = {}
        reader = _opened(self._path, model)
        self.names = reader.names
        reader.close()
        if not self.names:
            raise InputError(f"{path}: holds no images")
        folders = [str(PurePosixPath(name).parent) for name in self.names]
        folders = ["" if folder == "." else folder for folder in folders]
        self.classes = sorted(set(folders))
        numbers = {folder: number for number, folder in enumerate(self.classes)}
        self.labels = [numbers[folder] for folder in folders]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        name, reader = self.names[index], self._reader()
        if self._latents:
            item: Any = torch.from_numpy(np.ascontiguousarray(reader.latents(name)))
        elif self._transform is None:
            item = _as_tensor(reader.array(name))
        else:
            item = reader.image(name)
        if self._transform is not None:
            item = self._transform(item)
        return item, self.labels[index]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}

    def _reader(self) -> Archive | _Folder:
        """That of this process. What a fork has inherited is neither used nor closed: SQLite allows neither."""
        process = os.getpid()
        if process not in self._readers:
            if torch_data.get_worker_info() is not None:
                threads.limit(1)
            self._readers[process] = _opened(self._path, self._model)
        return self._readers[process]


def _as_tensor(samples: Samples) -> Tensor:
    return torch.from_numpy(samples[None] if samples.ndim == 2 else samples.transpose(2, 0, 1).copy())

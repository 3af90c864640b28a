"""Images a second out of an archive, beside folders of PNG and JPEG files: `python tools/dataset_speed.py FOLDER`.

The pictures of FOLDER are written as PNG, as JPEG of quality 90, and packed by `calotype pack` with loss (by the model
`--model`, if one is given), then read through PyTorch's DataLoader, once to warm up and once to count. Seconds are of
the processor, all threads together, so that other programs do not enter: images a second of one core.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time

import numpy as np
import torch
from PIL import Image
from torch.utils import data as torch_data

from calotype import library, threads
from calotype.dataset import Dataset


class Files(torch_data.Dataset[torch.Tensor]):
    """A folder of pictures that Pillow reads, as uint8 tensors (c, h, w)."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self._paths[index]) as image:
            samples = np.array(image)
        return torch.from_numpy(samples[None] if samples.ndim == 2 else samples.transpose(2, 0, 1).copy())


def images_a_second(dataset: torch_data.Dataset[object]) -> float:
    """Of one core, shuffled, in the second epoch."""
    loader = torch_data.DataLoader(dataset, batch_size=None, shuffle=True)
    count = sum(1 for _ in loader)
    start = process_time()
    for _ in loader:
        pass
    return count / (process_time() - start)


def folder_of(images: dict[str, Image.Image], folder: Path, suffix: str, **options: object) -> Path:
    """The pictures as files."""
    folder.mkdir()
    for name, image in images.items():
        image.save(folder / f"{name}.{suffix}", **options)
    return folder


def archive_of(folder: Path, out: Path, *options: str) -> Path:
    """The pictures as an archive."""
    command = [sys.executable, "-m", "calotype", "pack", str(folder), str(out), "--quiet", *options]
    subprocess.run(command, check=True)
    return out


def main() -> None:
    """Read the command line, write, read, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="pictures")
    parser.add_argument("--model", help="name or path; `photo` if not given")
    parser.add_argument("--quality", default="60", help="of calotype (%(default)s)")
    args = parser.parse_args()
    threads.limit(1)
    torch.set_num_threads(1)
    model = None if args.model is None else library.find_any(args.model)
    images = {path.stem: Image.open(path) for path in sorted(args.folder.iterdir())}
    images = {name: image.convert("L" if image.mode == "L" else "RGB") for name, image in images.items()}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        png = folder_of(images, out / "png", "png")
        jpeg = folder_of(images, out / "jpeg", "jpg", quality=90)
        packed = archive_of(png, out / "x.caloset", "-q", args.quality, *(["-m", args.model] if args.model else []))
        rows: dict[str, tuple[Path, Callable[[], torch_data.Dataset[object]]]] = {
            "PNG files": (png, lambda: Files(png)),
            "JPEG files, quality 90": (jpeg, lambda: Files(jpeg)),
            "calotype archive": (packed, lambda: Dataset(packed, model=model)),
            "calotype archive, latents": (packed, lambda: Dataset(packed, model=model, latents=True)),
        }
        print(f"| {len(images)} images | bytes an image | images a second |\n| --- | --: | --: |")
        for name, (path, make) in rows.items():
            size = path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.iterdir())
            print(f"| {name} | {size / len(images):,.0f} | {images_a_second(make()):,.0f} |", flush=True)


if __name__ == "__main__":
    main()

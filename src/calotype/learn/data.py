"""Training pictures and the crops that are drawn from them.

Every draw depends on the seed and its own number alone, so that a resumed run sees what it would have seen, several
processes share what one would have drawn, and no state needs to be saved.
"""

from __future__ import annotations

import glob
import math
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from calotype.errors import InputError
from calotype.learn.augment import MOST_SHRUNK, shrunk_to, with_grain
from calotype.learn.config import VISUAL, Recipe
from calotype.learn.samples import FAILURES, Form, read, size_px
from calotype.manifest import LEVELS
from calotype.pixels import Samples
from calotype.threads import cores

NO_PICTURES = {".tsv", ".txt", ".json", ".jsonl", ".md", ".csv"}
MEMORY_SHARE = 0.5
CGROUP = Path("/sys/fs/cgroup")
MOST_DRAWS = 200
RECOLOURED = 0.5
"""Share of the crops whose channels get a random order where a head `visual` is trained: else it runs away on colours
that pictures seldom have (docs/training.md)."""
NONE_DECODES = f"none of {MOST_DRAWS} pictures drawn to learn from could be decoded: they are damaged, or gone by now"


def find_pictures(sources: Iterable[str | Path]) -> list[Path]:
    """Files named by folders (all that lie in them, however deep), globs and paths; each once, sorted.

    Raises:
        InputError: If a source names no file.
    """
    found: set[Path] = set()
    for source in sources:
        path = Path(source)
        if path.is_dir():
            files = [p for p in path.rglob("*") if p.is_file() and p.suffix.lower() not in NO_PICTURES]
        else:
            matches = glob.glob(str(source), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute patterns)
            files = [path] if path.is_file() else [Path(p) for p in matches]
        if not files:
            raise InputError(f"{source}: no such file, and no folder or pattern with files")
        found.update(files)
    return sorted(found)


def memory_bytes(device: torch.device) -> float:
    """Free memory where pictures would be held."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # under torchrun, each holds them
    try:
        free_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # not on Windows
        free_bytes = 4 << 30
    return min(free_bytes, _left_in_container_bytes()) / processes


def _left_in_container_bytes() -> float:
    """What the limit of a container leaves, which the system's free memory does not tell (Linux, cgroup v2)."""
    try:
        limit_bytes, used_bytes = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        kept = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return max(0, limit_bytes - used_bytes + int(kept["inactive_file"]))  # of files, given up when it is needed
    except (OSError, ValueError, KeyError):  # no container, or one without a limit
        return math.inf


def padded_to(picture: Tensor, height: int, width: int) -> Tensor:
    """A picture (h, w, c) with its last rows and columns repeated until it has this size, as an encoder pads it."""
    if picture.shape[0] >= height and picture.shape[1] >= width:
        return picture
    sides = zip(picture.shape, (height, width), strict=False)
    rows, columns = (torch.arange(max(side, least)).clamp_max(side - 1) for side, least in sides)
    return picture[rows][:, columns]


def _sizes_px(paths: Sequence[Path]) -> list[tuple[int, int] | str]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(size_px, paths))


def usable(paths: Sequence[Path], least_px: int) -> list[Path]:
    """Files that are pictures, no side of which is shorter, as far as can be told without decoding them."""
    sizes = zip(paths, _sizes_px(paths), strict=True)
    return [path for path, size in sizes if isinstance(size, tuple) and min(size) >= least_px]


class Pictures(Sequence[Tensor]):
    """Pictures (h, w, c) of one form: decoded once and held if they fit into half of the free memory, else when drawn.

    Args:
        paths: Files. Those that are no pictures are skipped, and named in `skipped` with the reason.
        least_px: Pictures of which a side is shorter are skipped, too.
        device: Where pictures are held.
        most_bytes: What may be held; half of the free memory if not given.
        form: Channels and depth; files that have others are skipped or, if that loses nothing of note, converted.

    Raises:
        InputError: If nothing is left.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        least_px: int,
        device: torch.device | str = "cpu",
        most_bytes: int | None = None,
        form: Form = Form(),  # noqa: B008 (it is frozen)
    ) -> None:
        self.form = form
        self.device = torch.device(device)
        self.skipped: dict[Path, str] = {}
        self.paths: list[Path] = []
        sizes: list[tuple[int, int]] = []
        for path, size in zip(paths, _sizes_px(paths), strict=True):
            if isinstance(size, tuple) and min(size) >= least_px:
                self.paths.append(path)
                sizes.append(size)
            else:
                self.skipped[path] = size if isinstance(size, str) else f"a side is under {least_px} pixels"
        self.area_px = np.array([height * width for height, width in sizes], np.float64)
        self.held = self._hold(memory_bytes(self.device) * MEMORY_SHARE if most_bytes is None else most_bytes)
        if not self.paths:
            raise InputError(f"{len(paths)} files, but no picture of at least {least_px} pixels a side")

    @classmethod
    def of(cls, pictures: Sequence[Samples], device: torch.device | str) -> Pictures:
        """Pictures (h, w, c) of one form that are in memory already."""
        self = cls.__new__(cls)
        self.device, self.skipped, self.paths = torch.device(device), {}, [Path(str(i)) for i in range(len(pictures))]
        self.form = Form(pictures[0].shape[2], 8 * pictures[0].itemsize)
        self.held = [torch.from_numpy(np.array(picture)).to(self.device) for picture in pictures]
        self.area_px = np.array([picture[..., 0].size for picture in pictures], np.float64)
        return self

    def _hold(self, most_bytes: float) -> list[Tensor] | None:
        if self.form.channels * self.form.depth / 8 * self.area_px.sum() > most_bytes:
            return None
        with ThreadPoolExecutor() as pool:
            pictures = list(pool.map(self._try_held, self.paths))
        whole = [i for i, picture in enumerate(pictures) if picture is not None]
        self.paths, self.area_px = [self.paths[i] for i in whole], self.area_px[whole]
        return [picture for picture in pictures if picture is not None]

    def _try(self, path: Path) -> Tensor | None:
        try:
            return read(path, self.form)
        except FAILURES as error:
            self.skipped[path] = str(error)
            return None

    def _try_held(self, path: Path) -> Tensor | None:
        picture = self._try(path)
        return None if picture is None else picture.to(self.device)

    def leave_device(self) -> None:
        """Hold pictures in the memory of the processor, from where workers may take them."""
        if self.held is not None:
            self.held = [picture.cpu() for picture in self.held]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.held[index] if self.held is not None else read(self.paths[index], self.form)

    def sample(self, count: int, seed: int) -> Iterator[Tensor]:
        """At most `count` pictures, each once, chosen by the seed; those that cannot be decoded are passed over."""
        order = np.random.default_rng(seed).permutation(len(self)).tolist()
        drawn = (self.held[i] if self.held is not None else self._try(self.paths[i]) for i in order)
        return islice((picture for picture in drawn if picture is not None), count)


def _leave_interrupts(_: int) -> None:
    """Ctrl-C reaches workers, too, but it is the trainer that saves and ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Crops(Dataset[tuple[Tensor, int, Tensor]]):
    """Crops drawn at random, mirrored at random, each with a level; pictures are drawn in proportion to their area.

    What is smaller than a crop is padded by its last rows and columns, and with each comes how much of it is picture.

    Number n is crop n mod batch of step n // batch. The levels of a step are one from each of `batch` strata. At or
    above `fine_level`, half of the crops come from the `fine` pictures: lossless ones, without a codec's traces.

    Raises:
        InputError: On drawing, if picture after picture cannot be decoded.
    """

    def __init__(self, pictures: Pictures, fine: Pictures | None, recipe: Recipe) -> None:
        self.pools = [pictures, fine]
        self.shares = [None if pool is None else pool.area_px / pool.area_px.sum() for pool in self.pools]
        self.recipe, self.peak = recipe, pictures.form.peak
        self.salt = 0
        if not self.all_held:
            for pool in filter(None, self.pools):
                pool.leave_device()

    @property
    def all_held(self) -> bool:
        """Whether no picture needs to be read when it is drawn, which workers do."""
        return all(pool is None or pool.held is not None for pool in self.pools)

    def __getitem__(self, n: int) -> tuple[Tensor, int, Tensor]:
        random = np.random.default_rng([self.recipe.seed, self.salt, n])
        level = int((n % self.recipe.batch + random.random()) * LEVELS / self.recipe.batch)
        fine = self.pools[1] is not None and level >= self.recipe.fine_level and random.random() < 0.5
        pool, share = self.pools[fine], self.shares[fine]
        assert pool is not None
        assert share is not None
        size = self.recipe.crop_px
        for _ in range(MOST_DRAWS):
            try:
                part = self._part(pool[int(random.choice(len(pool), p=share))], random)
                return padded_to(part, size, size), level, torch.tensor(part.shape[:2])
            except FAILURES:  # noqa: PERF203 (only found out now, where pictures are read when drawn)
                continue
        raise InputError(NONE_DECODES)

    def _part(self, picture: Tensor, random: np.random.Generator) -> Tensor:
        """A part of a picture (h, w, c), as large as a crop if the picture is."""
        size, wide = self.recipe.crop_px, self._wide_px(picture, random)
        top, left = (int(random.integers(0, max(0, side - wide) + 1)) for side in picture.shape[:2])
        part = picture[top : top + wide, left : left + wide].flip([axis for axis in (0, 1) if random.random() < 0.5])
        if wide > size:
            part = shrunk_to(part, size, self.peak)
        if self.recipe.grain and random.random() < self.recipe.grain:
            part = with_grain(part, self.peak, random)
        recoloured = self.recipe.objective == VISUAL and random.random() < RECOLOURED
        return part[:, :, random.permutation(part.shape[2]).tolist()] if recoloured else part

    def _wide_px(self, picture: Tensor, random: np.random.Generator) -> int:
        """Side of the square that becomes a crop."""
        size = self.recipe.crop_px
        if not self.recipe.shrunk or random.random() >= self.recipe.shrunk:
            return size
        return max(size, min(int(size * random.uniform(1, MOST_SHRUNK)), *picture.shape[:2]))

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """The crops of a step, their levels and sizes, as `batches` gives them."""
        return next(self.batches(step, step + 1, workers=0))

    def first(self, count: int) -> Tensor:
        """So many crops x, or a few more: those of the first steps, in the memory of the processor."""
        return torch.cat([self.batch(step)[0] for step in range(-(-count // self.recipe.batch))]).cpu()

    def batches(
        self, start: int, stop: int, rank: int = 0, world: int = 1, workers: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """For each step x (b, c, crop, crop) in [-0.5, 0.5] and levels (b,); b is this process's part of the batch.

        Height and width of what is picture (b, 2) come third, if any of them has padding.
        """
        count = self.recipe.batch
        numbers = (range(step * count + rank, (step + 1) * count, world) for step in range(start, stop))
        if workers is None:
            workers = 0 if self.all_held else max(1, cores() // world)
        loader: DataLoader[tuple[Tensor, int, Tensor]] = DataLoader(
            self,
            batch_sampler=numbers,  # pyright: ignore[reportArgumentType]
            num_workers=workers,
            worker_init_fn=_leave_interrupts,
        )
        pictures = self.pools[0]
        assert pictures is not None
        try:
            for crops, level, sizes_px in loader:
                x = crops.to(pictures.device).permute(0, 3, 1, 2).contiguous().float() / self.peak - 0.5
                padded = bool((sizes_px < self.recipe.crop_px).any())
                yield x, level.to(pictures.device), sizes_px.to(pictures.device) if padded else None
        except InputError as error:  # a worker's says where it was raised, too
            raise InputError(NONE_DECODES) from error

"""Model files: read, check, write (SPEC.md, section 5)."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calotype.coding import MAX_RADIUS, PRECISION_BITS, Table, Tables
from calotype.container import MODEL_ID_BYTES
from calotype.errors import InvalidModel, ModelNotFound, OptionError

SUFFIX = ".calomodel"
FORMAT = 1
LEVELS = 256
MAX_TABLES = 256
MAX_MEMBERS = 64
MAX_BUNDLE_BYTES = 64 << 20
_MEMBER = re.compile(r"[a-z0-9_.-]+")
_ARRAYS = ("tables.u32", "radii.u16", "z_offset.i16", "z_table.u8", "level_bias.i16")
ANALYSIS = "g_a.onnx"
_GRAPH = re.compile(r"[a-z0-9_]+\.onnx")


@dataclass(frozen=True)
class Head:
    """A way to turn latents into a picture, and what a writer makes them with for it.

    Attributes:
        name: What `--head` calls it.
        graph: The synthesis.
        analysis: The analysis whose latents suit it.
    """

    name: str
    graph: str
    analysis: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        curve: Levels, and the PSNR of each on photographs.
        lambdas: The weight of the distortion at the lowest and the highest level.
        card: All of it.
    """

    name: str
    version: str
    status: str
    channels: int
    y_channels: int
    z_channels: int
    prior_channels: int
    steps: int
    heads: tuple[Head, ...]
    preview: str
    decoding: tuple[str, ...]
    curve: tuple[tuple[int, float], ...]
    lambdas: tuple[float, float]
    card: dict[str, Any]

    @property
    def step_graphs(self) -> list[str]:
        """Names of the graphs of the prior's steps."""
        return [f"step_{t}.onnx" for t in range(self.steps)]

    def head_named(self, name: str) -> int:
        """The index of a head.

        Raises:
            OptionError: If the model has none of that name.
        """
        names = [head.name for head in self.heads]
        if name not in names:
            raise OptionError(f"head {name!r}: the model {self.name} has {', '.join(names)}")
        return names.index(name)

    def lambda_of(self, level: int) -> float:
        """The weight of the distortion that a level was trained with: log-spaced."""
        low, high = self.lambdas
        return low * (high / low) ** (level / (LEVELS - 1))


@dataclass(frozen=True, eq=False)
class Bundle:
    """A model file in memory.

    Attributes:
        path: Where it was read from.
        manifest: Its manifest.
        members: Its files by name.
    """

    path: Path
    manifest: Manifest
    members: dict[str, bytes]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """The model's version."""
        return self.manifest.version

    @property
    def status(self) -> str:
        """`preview`: may be dropped with the next release; `stable`: decodes for ever."""
        return self.manifest.status

    @property
    def size_bytes(self) -> int:
        """Bytes of all members."""
        return sum(map(len, self.members.values()))

    @cached_property
    def id(self) -> bytes:
        """The 8 bytes by which files name this model: a hash of all that decoding needs, and of nothing else."""
        lines = (f"{n} {hashlib.sha256(self.members[n]).hexdigest()}\n" for n in sorted(self.manifest.decoding))
        return hashlib.sha256("".join(lines).encode()).digest()[:MODEL_ID_BYTES]

    def _array(self, name: str, dtype: str, columns: int | None = None) -> NDArray[Any]:
        """A member as (256, columns), or as it is without columns."""
        raw, itemsize = self.members[name], np.dtype(dtype).itemsize
        wanted = f"{LEVELS} x {columns}" if columns else "any number of"
        if len(raw) % itemsize or (columns and len(raw) != LEVELS * columns * itemsize):
            raise InvalidModel(f"{self.path}: {name} has {len(raw)} bytes, not {wanted} values of {itemsize} bytes")
        flat = np.frombuffer(raw, dtype)
        return flat.reshape(LEVELS, columns) if columns else flat

    @cached_property
    def tables(self) -> Tables:
        """The family of tables."""
        radii = self._array("radii.u16", "<u2").astype(int)
        flat = self._array("tables.u32", "<u4")
        sizes = 2 * radii + 2
        if not 1 <= len(radii) <= MAX_TABLES or radii.min() < 1 or radii.max() > MAX_RADIUS or sizes.sum() != len(flat):
            raise InvalidModel(f"{self.path}: radii.u16 and tables.u32 do not fit together")
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        if any(q.min() < 1 or int(q.sum(dtype=np.uint64)) != 1 << PRECISION_BITS for q in parts):
            raise InvalidModel(f"{self.path}: a table in tables.u32 does not sum to 2^{PRECISION_BITS} or holds a 0")
        return Tables(tuple(Table(int(r), q) for r, q in zip(radii, parts, strict=True)))

    @cached_property
    def z_offset(self) -> NDArray[np.int16]:
        """Offset of z's symbols, (256, k)."""
        return self._array("z_offset.i16", "<i2", self.manifest.z_channels)

    @cached_property
    def z_table(self) -> NDArray[np.uint8]:
        """Table of z's symbols, (256, k)."""
        table = self._array("z_table.u8", "|u1", self.manifest.z_channels)
        if table.max() >= len(self.tables.tables):
            raise InvalidModel(f"{self.path}: z_table.u8 names table {table.max()} of {len(self.tables.tables)}")
        return table

    def check_arrays(self) -> None:
        """Read all arrays, so that what is wrong with them shows."""
        _ = self.tables, self.z_offset, self.z_table, self.level_bias

    @cached_property
    def level_bias(self) -> NDArray[np.int16]:
        """What the prior is told of the level, (256, p), in 1/32."""
        return self._array("level_bias.i16", "<i2", self.manifest.prior_channels)


def _whole(card: dict[str, Any], key: str) -> int:
    if type(card[key]) is not int:
        raise TypeError(f"{key} is {card[key]!r}, not a whole number")
    return card[key]


def _parse_manifest(path: Path, raw: bytes) -> Manifest:
    try:
        card = json.loads(raw)
        if card["format"] != FORMAT:
            raise InvalidModel(f"{path}: bundle format {card['format']}; this version knows {FORMAT}: update calotype")
        trained = card.get("architecture", {})
        return Manifest(
            name=str(card["name"]),
            version=str(card["version"]),
            status=str(card["status"]),
            channels=_whole(card, "channels"),
            y_channels=_whole(card, "y_channels"),
            z_channels=_whole(card, "z_channels"),
            prior_channels=_whole(card, "prior_channels"),
            steps=_whole(card, "steps"),
            heads=tuple(Head(str(h["name"]), str(h["graph"]), str(h.get("analysis", ANALYSIS))) for h in card["heads"]),
            preview=str(card["preview"]),
            decoding=tuple(map(str, card["decoding"])),
            curve=tuple((_whole(p, "level"), float(p["psnr_db"])) for p in card.get("curve", [])),
            lambdas=(float(trained.get("lambda_min", 0.0005)), float(trained.get("lambda_max", 0.5))),
            card=card,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InvalidModel(f"{path}: manifest.json is not a manifest: {error!r}") from error


def _check(bundle: Bundle) -> Bundle:
    m = bundle.manifest
    limits = {"channels": 16, "y_channels": 1024, "z_channels": 512, "prior_channels": 1024}
    for field, limit in limits.items():
        if not 1 <= getattr(m, field) <= limit:
            raise InvalidModel(f"{bundle.path}: {field} is {getattr(m, field)}, not within 1..{limit}")
    if (
        m.steps not in (2, 4)
        or m.y_channels % m.steps
        or m.status not in ("preview", "stable")
        or not 1 <= len(m.heads) <= LEVELS
    ):
        raise InvalidModel(f"{bundle.path}: steps, y_channels, status or heads hold what this version does not know")
    exact, free = {"h_s.onnx", *m.step_graphs}, {m.preview, *(head.graph for head in m.heads)}
    analyses = {ANALYSIS, *(head.analysis for head in m.heads)}
    if free & {*exact, *analyses, "h_a.onnx"} or analyses & exact or not all(map(_GRAPH.fullmatch, free | analyses)):
        raise InvalidModel(f"{bundle.path}: {sorted(free | analyses)} are not names for heads, analyses and preview")
    needed = {*_ARRAYS, *exact, *free}
    if set(m.decoding) != needed or not needed <= set(bundle.members):
        raise InvalidModel(f"{bundle.path}: decoding must list just {sorted(needed)}, all of them members")
    return bundle


def read(path: Path) -> Bundle:
    """Open a model file.

    Raises:
        ModelNotFound: If there is no such file.
        InvalidModel: If it breaks a rule for bundles.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [e.filename for e in entries]
            if len(entries) > MAX_MEMBERS or len(set(names)) < len(names) or not all(map(_MEMBER.fullmatch, names)):
                raise InvalidModel(
                    f"{path}: more than {MAX_MEMBERS} members, or names that are not plain or stand twice"
                )
            if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 9 for e in entries):
                raise InvalidModel(f"{path}: a member is compressed, encrypted or of undeclared size")
            if sum(e.file_size for e in entries) > min(MAX_BUNDLE_BYTES, path.stat().st_size):
                raise InvalidModel(f"{path}: the members are larger than the file or than {MAX_BUNDLE_BYTES} bytes")
            members = {e.filename: archive.read(e) for e in entries}
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path}: no such model file") from error
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise InvalidModel(f"{path}: not a model file: {error}") from error
    if "manifest.json" not in members:
        raise InvalidModel(f"{path}: no manifest.json inside")
    return _check(Bundle(path, _parse_manifest(path, members["manifest.json"]), members))


def write(path: Path, members: dict[str, bytes]) -> None:
    """Write a model file, byte for byte the same for the same members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name), members[name])
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(buffer.getvalue())
    unfinished.replace(path)

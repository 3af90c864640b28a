"""Model files: read, check, write (SPEC.md, section 5)."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calotype.coding import MAX_RADIUS, PRECISION_BITS, Table, Tables
from calotype.errors import InvalidModel, ModelNotFound
from calotype.header import MODEL_ID_BYTES
from calotype.hyper import SIZES, Z_LIMIT, Context, HyperPrior
from calotype.lazy import cached_property
from calotype.manifest import CONTEXT, LEVELS, Manifest
from calotype.whole import write_whole

SUFFIX = ".calomodel"
FORMAT = 1
PHOTO = "photo"
MAX_TABLES = 256
QUIET = 1 << 15
"""Added to the radius of a table that is quiet."""
MAX_MEMBERS = 64
MAX_BUNDLE_BYTES = 64 << 20
_MEMBER = re.compile(r"[a-z0-9_.-]+")
_TEXTS = ("name", "version", "status")
STATUSES = ("preview", "stable")


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model file of any kind, in memory.

    Attributes:
        path: Where it was read from.
        members: Its files by name.
        card: Its manifest, as it is written.
    """

    path: Path
    members: dict[str, bytes]
    card: dict[str, Any]

    @property
    def kind(self) -> str:
        """What it is a model for: `photo`, or `bits-back`."""
        return str(self.card.get("kind", PHOTO))

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.card["name"])

    @property
    def version(self) -> str:
        """The model's version."""
        return str(self.card["version"])

    @property
    def status(self) -> str:
        """`preview`: may be dropped with the next release; `stable`: decodes for ever."""
        return str(self.card["status"])

    @property
    def size_bytes(self) -> int:
        """Bytes of all members."""
        return sum(map(len, self.members.values()))

    @cached_property
    def id(self) -> bytes:
        """The 8 bytes by which files name this model: a hash of all that decoding needs, and of nothing else."""
        lines = (f"{n} {hashlib.sha256(self.members[n]).hexdigest()}\n" for n in sorted(self.card["decoding"]))
        return hashlib.sha256("".join(lines).encode()).digest()[:MODEL_ID_BYTES]

    def serialise(self) -> bytes:
        """The model file, byte for byte the same for the same members."""
        return serialise(self.members)


@dataclass(frozen=True, eq=False)
class Bundle(ModelFile):
    """A photo codec's model.

    Attributes:
        manifest: What its card says, checked.
    """

    manifest: Manifest

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
        return tables_in(self)

    @cached_property
    def z_offset(self) -> NDArray[np.int16]:
        """Offset of z's symbols, (256, k)."""
        offset = self._array("z_offset.i16", "<i2", self.manifest.z_channels)
        if max(offset.max(), -int(offset.min())) > Z_LIMIT:
            raise InvalidModel(f"{self.path}: z_offset.i16 goes beyond {Z_LIMIT}")
        return offset

    @cached_property
    def z_table(self) -> NDArray[np.uint8]:
        """Table of z's symbols, (256, k)."""
        table = self._array("z_table.u8", "|u1", self.manifest.z_channels)
        if table.max() >= len(self.tables.tables):
            raise InvalidModel(f"{self.path}: z_table.u8 names table {table.max()} of {len(self.tables.tables)}")
        return table

    @cached_property
    def z_context(self) -> Context | None:
        """What is made of z's neighbours, by models that look at them."""
        if not set(CONTEXT) & set(self.manifest.decoding):
            return None
        weight, table = (self.members[name] for name in CONTEXT)
        channels, tables = self.manifest.z_channels, len(self.tables.tables)
        if len(weight) != 2 * channels or len(table) != tables * SIZES:
            raise InvalidModel(
                f"{self.path}: {' and '.join(CONTEXT)} have {len(weight)} and {len(table)} bytes, "
                f"not 2 x {channels} and {tables} x {SIZES}"
            )
        if max(table) >= tables:
            raise InvalidModel(f"{self.path}: {CONTEXT[1]} names table {max(table)} of {tables}")
        return Context(
            np.frombuffer(weight, np.int8).reshape(2, channels), np.frombuffer(table, np.uint8).reshape(tables, SIZES)
        )

    def hyper_prior(self, level: int) -> HyperPrior:
        """The distribution of z at a level."""
        return HyperPrior(self.z_offset[level], self.z_table[level], self.z_context)

    def check_arrays(self) -> None:
        """Read all arrays, so that what is wrong with them shows."""
        _ = self.tables, self.z_offset, self.z_table, self.z_context, self.level_bias

    @cached_property
    def level_bias(self) -> NDArray[np.int16]:
        """What the prior is told of the level, (256, p), in 1/32."""
        return self._array("level_bias.i16", "<i2", self.manifest.prior_channels)


def tables_in(file: ModelFile) -> Tables:
    """The tables of a model file that has `tables.u32` and `radii.u16`.

    Raises:
        InvalidModel: If they break a rule.
    """
    raw, sizes_raw = file.members["tables.u32"], file.members["radii.u16"]
    if len(raw) % 4 or len(sizes_raw) % 2:
        raise InvalidModel(f"{file.path}: tables.u32 or radii.u16 ends within a value")
    flat, given = np.frombuffer(raw, "<u4"), np.frombuffer(sizes_raw, "<u2").astype(int)
    quiet, radii = (given & QUIET) > 0, given & ~QUIET
    sizes = 2 * radii + 2
    if not 1 <= len(radii) <= MAX_TABLES or radii.min() < 1 or radii.max() > MAX_RADIUS or sizes.sum() != len(flat):
        raise InvalidModel(f"{file.path}: radii.u16 and tables.u32 do not fit together")
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    if any(q.min() < 1 or int(q.sum(dtype=np.uint64)) != 1 << PRECISION_BITS for q in parts):
        raise InvalidModel(f"{file.path}: a table in tables.u32 does not sum to 2^{PRECISION_BITS} or holds a 0")
    return Tables(tuple(Table(int(r), f, bool(q)) for r, f, q in zip(radii, parts, quiet, strict=True)))


def _parse_card(path: Path, raw: bytes, members: dict[str, bytes]) -> dict[str, Any]:
    try:
        card = json.loads(raw)
        if card["format"] != FORMAT:
            raise InvalidModel(f"{path}: bundle format {card['format']}; this version knows {FORMAT}: update calotype")
        if card["status"] not in STATUSES or not all(isinstance(card[key], str) for key in _TEXTS):
            raise ValueError(f"{', '.join(_TEXTS)} are not what they must be")
        if not card["decoding"] or not all(type(n) is str and n in members for n in card["decoding"]):
            raise ValueError("decoding lists what is no member")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidModel(f"{path}: manifest.json is not a manifest: {error!r}") from error
    return card


def read_file(path: Path, data: bytes | None = None) -> ModelFile:
    """Open a model file of any kind.

    Args:
        path: Where it is, or what to call it.
        data: The file, if it is in memory.

    Raises:
        ModelNotFound: If there is no such file.
        InvalidModel: If it breaks a rule for bundles.
    """
    size = len(data) if data is not None else path.stat().st_size if path.is_file() else 0
    try:
        with zipfile.ZipFile(path if data is None else io.BytesIO(data)) as archive:
            entries = archive.infolist()
            names = [e.filename for e in entries]
            if len(entries) > MAX_MEMBERS or len(set(names)) < len(names) or not all(map(_MEMBER.fullmatch, names)):
                raise InvalidModel(
                    f"{path}: more than {MAX_MEMBERS} members, or names that are not plain or stand twice"
                )
            if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 9 for e in entries):
                raise InvalidModel(f"{path}: a member is compressed, encrypted or of undeclared size")
            if sum(e.file_size for e in entries) > min(MAX_BUNDLE_BYTES, size):
                raise InvalidModel(f"{path}: the members are larger than the file or than {MAX_BUNDLE_BYTES} bytes")
            members = {e.filename: archive.read(e) for e in entries}
    except FileNotFoundError as error:
        raise ModelNotFound(f"{path}: no such model file") from error
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise InvalidModel(f"{path}: not a model file: {error}") from error
    if "manifest.json" not in members:
        raise InvalidModel(f"{path}: no manifest.json inside")
    return ModelFile(path, members, _parse_card(path, members["manifest.json"], members))


def photo(file: ModelFile) -> Bundle:
    """A model file as a photo codec's.

    Raises:
        InvalidModel: If it is another kind of model, or breaks a rule for this one.
    """
    if isinstance(file, Bundle):
        return file
    if file.kind != PHOTO:
        raise InvalidModel(f"{file.path}: a model of kind {file.kind!r}, not one that codes pictures of any size")
    try:
        manifest = Manifest.parse(file.card)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InvalidModel(f"{file.path}: manifest.json is not a manifest: {error!r}") from error
    fault = manifest.fault()
    if fault:
        raise InvalidModel(f"{file.path}: {fault}")
    return Bundle(file.path, file.members, file.card, manifest)


def read(path: Path) -> Bundle:
    """Open a photo codec's model file.

    Raises:
        ModelNotFound: If there is no such file.
        InvalidModel: If it breaks a rule for bundles.
    """
    return photo(read_file(path))


def serialise(members: dict[str, bytes]) -> bytes:
    """A model file, byte for byte the same for the same members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name), members[name])
    return buffer.getvalue()


def write(path: Path, members: dict[str, bytes]) -> None:
    """Write a model file, whole or not at all."""
    write_whole(path, serialise(members))

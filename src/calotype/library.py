"""Installed models: find them by name, by path or by the id that a file names."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from calotype import bundle
from calotype.bitsback import model as bitsback
from calotype.bitsback.model import LatentBundle
from calotype.bundle import PHOTO, SUFFIX, Bundle, ModelFile
from calotype.errors import InvalidModel, ModelError, ModelNotFound
from calotype.textbook import model as textbook
from calotype.textbook.model import TextbookBundle

DEFAULT_MODEL = "photo"
AnyBundle = Bundle | LatentBundle | TextbookBundle


def user_folder() -> Path:
    """Where the models of this user lie: `$CALOTYPE_MODELS`, else the platform's data folder."""
    if chosen := os.environ.get("CALOTYPE_MODELS"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library/Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return base / "calotype" / "models"


def shipped_folder() -> Path:
    """Where the models of this package lie."""
    return Path(__file__).with_name("models")


def _as_its_kind(file: ModelFile) -> AnyBundle:
    if file.kind == PHOTO:
        return bundle.photo(file)
    if file.kind == bitsback.KIND:
        return bitsback.bundle_of(file)
    if file.kind == textbook.KIND:
        return textbook.bundle_of(file)
    raise InvalidModel(f"{file.path}: models of kind {file.kind!r} are unknown to this version: update calotype")


def vetted(file: ModelFile) -> AnyBundle:
    """A model file that did not ship, as what its kind is, all of it checked.

    Raises:
        InvalidModel: If it breaks a rule for bundles.
    """
    from calotype import proof  # brings in onnx, which shipped models do without

    model = _as_its_kind(file)
    if isinstance(model, Bundle):
        proof.vet(model)
    elif isinstance(model, TextbookBundle):
        proof.vet_float(model, model.inputs)
    else:
        proof.vet_exact(model, model.inputs)
    return model


@cache
def _open(path: Path, _changed_ns: int) -> AnyBundle:
    file = bundle.read_file(path)
    return _as_its_kind(file) if path.parent == shipped_folder() else vetted(file)


def open_path(path: Path) -> AnyBundle:
    """A model file, read once as long as it does not change. One that did not ship is vetted first."""
    if not path.is_file():
        raise ModelNotFound(f"{path}: no such model file")
    path = path.resolve()
    return _open(path, path.stat().st_mtime_ns)


def installed() -> Iterator[AnyBundle]:
    """The models in the package, then those in the user's folder."""
    for folder in (shipped_folder(), user_folder()):
        for _, model in _in_folder(folder):
            yield model


def _in_folder(folder: Path) -> Iterator[tuple[Path, AnyBundle]]:
    """The models in a folder, each with where it, or the link to it, lies."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            yield path, open_path(path)
        except (ModelError, OSError) as error:  # noqa: PERF203
            warnings.warn(f"a model is left out: {error}", stacklevel=3)


def find_any(model: ModelFile | str | Path | None) -> ModelFile:
    """A model of any kind by name, by id (16 hex digits), by path, or the default one.

    A model that came with the package goes before one of the user's with its name.

    Raises:
        ModelNotFound: If there is none, or several have the name.
        InvalidModel: If it breaks a rule for bundles.
    """
    if isinstance(model, ModelFile):
        return model
    name = str(model or DEFAULT_MODEL)
    if isinstance(model, Path) or name.endswith(SUFFIX):
        return open_path(Path(name))
    own = list[ModelFile]()
    for found in installed():
        if found.id.hex() == name or (found.name == name and found.path.parent == shipped_folder()):
            return found
        if found.name == name:
            own.append(found)
    if len(own) > 1:
        ids = " or ".join(model.id.hex() for model in own)
        raise ModelNotFound(f"{len(own)} models are named {name!r}: give the id of one, {ids}")
    if own:
        return own[0]
    known = ", ".join(b.name for b in installed()) or "none"
    raise ModelNotFound(f"no model named {name!r}; installed: {known}. A file is given by its path, NAME{SUFFIX}")


def find(model: ModelFile | str | Path | None) -> Bundle:
    """A photo codec's model by name, by path, or the default one.

    Raises:
        ModelNotFound: If there is none.
        InvalidModel: If it breaks a rule for bundles, or is a model of another kind.
    """
    return bundle.photo(find_any(model))


def find_id(model_id: bytes, extra: ModelFile | None = None) -> ModelFile:
    """The model with this id.

    Raises:
        ModelNotFound: If it is not installed.
    """
    candidates = [extra] if extra is not None else installed()
    for candidate in candidates:
        if candidate.id == model_id:
            return candidate
    where = (
        f"is not {extra.path}"
        if extra is not None
        else f"is not installed: calotype models install NAME{SUFFIX} installs its file"
    )
    raise ModelNotFound(f"the file needs model {model_id.hex()}, which {where}")


def install(path: Path) -> Path:
    """Copy a model file into the user's folder, once it is vetted; returns where it lies.

    Raises:
        ModelNotFound: If there is no such file.
        InvalidModel: If it breaks a rule for bundles.
    """
    model = open_path(path)
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", model.name)
    folder = user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{plain}-{model.id.hex()}{SUFFIX}"
    bundle.write(target, model.members)
    return target


def remove(model: str) -> Path:
    """Delete a model from the user's folder, by name or id; returns where it lay.

    Raises:
        ModelNotFound: If there is none, or it came with the package.
    """
    own = [path for path, found in _in_folder(user_folder()) if model in (found.name, found.id.hex())]
    if not own:
        found = any(model in (m.name, m.id.hex()) for m in installed())
        raise ModelNotFound(f"{model!r} came with calotype and stays" if found else f"no model {model!r} is installed")
    if len(own) > 1:
        raise ModelNotFound(f"{len(own)} models are named {model!r}: give the id of one, as calotype models lists them")
    own[0].unlink()
    return own[0]

"""Installed models: find them by name, by path or by the id that a file names."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path

from calotype.bundle import SUFFIX, Bundle, read
from calotype.errors import InvalidModel, ModelNotFound

DEFAULT_MODEL = "photo"


def user_folder() -> Path:
    """Where the models of this user lie: `$CALOTYPE_MODELS`, else the platform's data folder."""
    if chosen := os.environ.get("CALOTYPE_MODELS"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library/Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local/share"))
    return base / "calotype" / "models"


def shipped_folder() -> Path:
    """Where the models of this package lie."""
    return Path(str(resources.files("calotype"))) / "models"


@cache
def _open(path: Path, _changed_ns: int) -> Bundle:
    bundle = read(path)
    if path.parent != shipped_folder():
        from calotype.proof import vet  # brings in onnx, which shipped models do without

        vet(bundle)
    return bundle


def open_path(path: Path) -> Bundle:
    """A model file, read once as long as it does not change. One that did not ship is vetted first."""
    if not path.is_file():
        raise ModelNotFound(f"{path}: no such model file")
    path = path.resolve()
    return _open(path, path.stat().st_mtime_ns)


def installed() -> Iterator[Bundle]:
    """The models in the package, then those in the user's folder."""
    for folder in (shipped_folder(), user_folder()):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                yield open_path(path)
            except InvalidModel as error:  # noqa: PERF203
                warnings.warn(f"a model is left out: {error}", stacklevel=2)


def find(model: Bundle | str | Path | None) -> Bundle:
    """A model by name, by path, or the default one.

    Raises:
        ModelNotFound: If there is none.
        InvalidModel: If it breaks a rule for bundles.
    """
    if isinstance(model, Bundle):
        return model
    name = str(model or DEFAULT_MODEL)
    if isinstance(model, Path) or name.endswith(SUFFIX):
        return open_path(Path(name))
    for bundle in installed():
        if bundle.name == name:
            return bundle
    known = ", ".join(b.name for b in installed()) or "none"
    raise ModelNotFound(f"no model named {name!r}; installed: {known}. A file is given by its path, NAME{SUFFIX}")


def find_id(model_id: bytes, extra: Bundle | None = None) -> Bundle:
    """The model with this id.

    Raises:
        ModelNotFound: If it is not installed.
    """
    candidates = [extra] if extra is not None else installed()
    for bundle in candidates:
        if bundle.id == model_id:
            return bundle
    where = f"is not {extra.path}" if extra is not None else f"is not installed; put its file into {user_folder()}"
    raise ModelNotFound(f"the file needs model {model_id.hex()}, which {where}")

"""Pillow plugin: `Image.open("x.calo")` and `image.save("x.calo", quality=60)` after `calotype.pillow.register()`."""

from __future__ import annotations

from typing import IO, Any

from PIL import Image, ImageFile

from calotype import codec, container, pixels
from calotype.decoder import SCALES
from calotype.errors import CalotypeError
from calotype.header import MAGIC, Header

FORMAT = "CALO"
SUFFIX = ".calo"
MIME = "image/x-calotype"
_SAVE_OPTIONS = ("quality", "bpp", "size", "psnr", "lossless", "effort", "head", "model", "strip")
_METADATA = ("exif", "icc_profile", "xmp")


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def _mode(header: Header) -> str:
    if header.depth == 16 and header.channels == 1 and not header.alpha:
        return "I;16"
    return {(1, False): "L", (1, True): "LA", (3, False): "RGB", (3, True): "RGBA"}[header.channels, header.alpha]


class CalotypeImageFile(ImageFile.ImageFile):
    """A `.calo` file: header and metadata on opening, pixels at load."""

    format = FORMAT
    format_description = "calotype, a learned image codec"

    def _open(self) -> None:
        assert self.fp is not None
        try:
            self._data = self.fp.read()
            whole = container.unpack(self._data)
            self._mode = _mode(whole.header)
        except KeyError as error:
            raise SyntaxError("Pillow holds 1 or 3 channels only; use calotype.decode_array") from error
        except CalotypeError as error:
            raise SyntaxError(str(error)) from error
        self._size = whole.header.width, whole.header.height
        self.info.update(pixels.metadata_info(whole.metadata))
        self.tile = []
        self._preview: int | None = None

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> Any:  # noqa: ARG002
        """Have `load` decode a preview, 1/64 to 1/2 of the size, as small as may be but no smaller than `size`.

        `Image.thumbnail` calls it. As Pillow asks, it returns mode and extent, or None if nothing changes.
        """
        scales = [n for n in SCALES if size and self.width // n >= size[0] and self.height // n >= size[1]]
        if not scales or not self._data or self._preview is not None:
            return None
        scale = self._preview = max(scales)
        extent = (0, 0, self.width / scale, self.height / scale)
        self._size = -(-self.width // scale), -(-self.height // scale)
        return self.mode, extent

    def load(self) -> Any:
        """Decode the pixels, once.

        Raises:
            OSError: If the file cannot be decoded; its cause is the `CalotypeError`.
        """
        if self._data:
            try:
                self.im = codec.decode(self._data, preview=self._preview, max_pixels=None).im
            except CalotypeError as error:
                raise OSError(str(error)) from error
            self._data = b""
            if self.fp is not None and self._exclusive_fp:
                self.fp.close()
            self.fp = None
        return Image.Image.load(self)


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:  # noqa: ARG001
    """Options: those of `calotype.encode`, and exif, icc_profile, xmp. A bad value raises ValueError."""
    given: dict[str, Any] = dict(getattr(image, "encoderinfo", {}))
    options = {name: given[name] for name in _SAVE_OPTIONS if given.get(name) is not None}
    metadata = {name: given[name] for name in _METADATA if name in given}
    if metadata:
        image = image.copy()
        image.info |= {k: v.tobytes() if isinstance(v, Image.Exif) else v for k, v in metadata.items()}
    try:
        file.write(codec.encode(image, **options))
    except CalotypeError as error:
        raise ValueError(str(error)) from error


def register() -> None:
    """Teach Pillow the format; calling it twice does no harm."""
    Image.register_open(FORMAT, CalotypeImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, SUFFIX)
    Image.register_mime(FORMAT, MIME)

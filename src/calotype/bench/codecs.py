"""The codecs that are compared, and the search for a quality that spends a given number of bytes.

Pillow's encoders run at their defaults and, as rows of their own, at their slowest. JPEG, WebP and AVIF store chroma at
half resolution (4:2:0) unless told otherwise, and libavif tunes AVIF for the eye; both cost PSNR in RGB, some 0.5 dB
at low rates and more at high ones. So JPEG and AVIF also run with whole chroma (4:4:4), and AVIF then tuned for PSNR.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, features

import calotype
from calotype import library
from calotype.bench import classic
from calotype.codec import DEFAULT_EFFORT, level_of, runtime_of
from calotype.encoder import PictureCoder
from calotype.errors import OptionError
from calotype.pixels import from_image

Encode = Callable[[Image.Image, float], bytes]
"""A picture and a quality 0-100 to a whole file."""


def save(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002 (Pillow's word)
    """A picture as a file of Pillow's format, with Pillow's defaults for what is not given."""
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decode(data: bytes) -> Image.Image:
    """Any file that Pillow reads, as RGB."""
    with Image.open(BytesIO(data)) as image:
        return image.convert("RGB")


def _pillow(library: str) -> str:
    return f"Pillow {version('Pillow')}, {library} {features.version(library)}"


@dataclass(frozen=True)
class Codec:
    """A codec with its settings.

    Attributes:
        name: What tables call it.
        suffix: How its files end.
        encode: A picture and a quality to a file.
        version: Of the library that encodes, asked for when it is needed.
        decode: A file to a picture.
        settings: The settings in words; measurements are kept under them, so they change when the options do.
        qualities: The sweep of a benchmark; only 100 where every picture comes back exactly.
        slow: Whether it takes seconds a picture, and so runs only when asked for.
        step: The quality's finest step.
    """

    name: str
    suffix: str
    encode: Encode
    version: Callable[[], str]
    decode: Callable[[bytes], Image.Image] = decode
    settings: str = "Pillow's defaults"
    qualities: tuple[float, ...] = (100,)
    slow: bool = False
    step: float = 1

    @property
    def lossless(self) -> bool:
        """Whether it gives back every picture exactly."""
        return self.qualities == (100,)


def _lossy(format: str, **options: object) -> Encode:  # noqa: A002
    def encode(image: Image.Image, quality: float) -> bytes:
        whole = format in {"JPEG", "AVIF"}
        return save(image, format, quality=round(quality) if whole else quality, **options)

    return encode


def _lossless(format: str, **options: object) -> Encode:  # noqa: A002
    return lambda image, _: save(image, format, **options)


def _jpeg_2000(image: Image.Image, quality: float) -> bytes:
    target_db = 20 + 0.3 * quality
    return save(image, "JPEG2000", irreversible=True, mct=1, quality_mode="dB", quality_layers=[target_db])


def _jpeg_xl(image: Image.Image, quality: float, effort: int = 7) -> bytes:
    import pillow_jxl  # noqa: F401  # pyright: ignore[reportUnusedImport] (it registers the format)

    return save(image, "JXL", quality=quality, effort=effort)


def _decode_jpeg_xl(data: bytes) -> Image.Image:
    import pillow_jxl  # noqa: F401  # pyright: ignore[reportUnusedImport]

    return decode(data)


def _jpeg_xl_version() -> str:
    return f"pillow-jxl-plugin {version('pillow-jxl-plugin')}"


def _calotype(**options: Any) -> Encode:
    return lambda image, quality: calotype.encode(image, quality=quality, **options)


def _own_version(*patterns: str) -> str:
    """With a digest of the files, for code and model may change while the version does not."""
    package = Path(calotype.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in package.glob(pattern)):
        digest.update(path.read_bytes())
    return f"calotype {calotype.__version__}, build {digest.hexdigest()[:12]}"


def _calotype_version() -> str:
    return f"{_own_version('*.py', 'models/*.calomodel')}, onnxruntime {version('onnxruntime')}"


def _calotype_learn_version() -> str:
    own = _own_version("*.py", "models/*.calomodel", "learn/*.py")
    return f"{own}, onnxruntime {version('onnxruntime')}, torch {version('torch')}"


def _classic_version() -> str:
    return _own_version("bench/classic.py", "coding.py")


_jpeg = partial(Codec, version=partial(_pillow, "libjpeg_turbo"), qualities=(5, 10, 20, 30, 45, 60, 75, 85, 92, 96))
_webp = partial(Codec, version=partial(_pillow, "webp"), qualities=(1, 12, 25, 40, 55, 70, 80, 88, 94, 98), step=0.01)
_avif = partial(Codec, version=partial(_pillow, "avif"), qualities=(5, 15, 25, 35, 45, 55, 65, 75, 85, 93))
_jxl = partial(
    Codec, decode=_decode_jpeg_xl, version=_jpeg_xl_version, qualities=(5, 20, 35, 50, 62, 72, 80, 87, 92, 96)
)
_ours = partial(
    Codec, version=_calotype_version, decode=calotype.decode, qualities=(0, 9, 18, 27, 36, 45, 55, 64, 73, 82, 91, 100)
)
_classic = partial(Codec, version=_classic_version)

_SMALL_JPEG = {"optimize": True, "progressive": True}
_AVIF_FOR_PSNR = {"subsampling": "4:4:4", "codec": "aom", "advanced": {"tune": "psnr"}}

SLOWEST_EFFORT = 7
_AT_SLOWEST = f" (effort {SLOWEST_EFFORT})"

CALOTYPE = _ours("calotype", ".calo", _calotype(effort=2), settings="effort 2, the default")
CALOTYPE_QUICK = _ours("calotype (effort 1)", ".e1.calo", _calotype(effort=1), settings="effort 1")
CALOTYPE_SLOW = _ours("calotype (effort 4)", ".e4.calo", _calotype(effort=4), settings="effort 4")
CALOTYPE_SLOWEST = _ours(
    f"calotype{_AT_SLOWEST}",
    ".e7.calo",
    _calotype(effort=SLOWEST_EFFORT),
    settings=f"effort {SLOWEST_EFFORT}; needs the extra learn",
    slow=True,
    version=_calotype_learn_version,
)
CALOTYPE_VISUAL = _ours("calotype (visual)", ".v.calo", _calotype(head="visual"), settings="effort 2, head visual")
JPEG = _jpeg("JPEG", ".jpg", _lossy("JPEG"))
JPEG_OPTIMISED = _jpeg(
    "JPEG (optimised)", ".opt.jpg", _lossy("JPEG", **_SMALL_JPEG),
    settings="optimised Huffman tables, progressive, 4:2:0",
)  # fmt: skip
JPEG_444 = _jpeg(
    "JPEG (4:4:4)", ".444.jpg", _lossy("JPEG", subsampling="4:4:4", **_SMALL_JPEG),
    settings="optimised Huffman tables, progressive, 4:4:4",
)  # fmt: skip
WEBP = _webp("WebP", ".webp", _lossy("WEBP"), settings="Pillow's defaults: 4:2:0, method 4")
WEBP_SLOWEST = _webp("WebP (slowest)", ".m6.webp", _lossy("WEBP", method=6), settings="4:2:0, method 6")
AVIF = _avif("AVIF", ".avif", _lossy("AVIF"), settings="Pillow's defaults: 4:2:0, speed 6")
AVIF_PSNR = _avif(
    "AVIF (PSNR)", ".psnr.avif", _lossy("AVIF", **_AVIF_FOR_PSNR), settings="4:4:4, tuned for PSNR, speed 6"
)
AVIF_SLOWEST = _avif("AVIF (slowest)", ".s0.avif", _lossy("AVIF", speed=0), settings="4:2:0, speed 0", slow=True)
AVIF_PSNR_SLOWEST = _avif(
    "AVIF (PSNR, slowest)", ".psnr.s0.avif", _lossy("AVIF", speed=0, **_AVIF_FOR_PSNR),
    settings="4:4:4, tuned for PSNR, speed 0", slow=True,
)  # fmt: skip
JPEG_XL = _jxl("JPEG XL", ".jxl", _jpeg_xl, settings="effort 7")
JPEG_XL_SLOWEST = _jxl("JPEG XL (slowest)", ".e10.jxl", partial(_jpeg_xl, effort=10), settings="effort 10", slow=True)
JPEG_2000 = Codec(
    "JPEG 2000", ".jp2", _jpeg_2000, partial(_pillow, "jpg_2000"),
    settings="irreversible, colour transform, one layer of 20 + 0.3 quality dB",
    qualities=(8, 18, 28, 38, 48, 58, 66, 74, 82),
)  # fmt: skip
PNG = Codec("PNG", ".png", _lossless("PNG", optimize=True), partial(_pillow, "zlib"), settings="optimised")
WEBP_LOSSLESS = Codec("WebP lossless", ".ll.webp", _lossless("WEBP", lossless=True), partial(_pillow, "webp"))
KLT = _classic(
    "block KLT", ".klt", classic.klt_encode, decode=classic.klt_decode,
    settings="8x8x3 blocks, one quantiser step, rANS", qualities=(5, 17, 29, 41, 53, 65, 77, 89),
)  # fmt: skip
HUFFMAN = _classic(
    "Huffman",
    ".huff",
    classic.huffman_encode,
    decode=classic.huffman_decode,
    settings="raw samples; zlib, Huffman only",
)
DEFLATE = _classic(
    "deflate", ".zz", classic.deflate_encode, decode=classic.deflate_decode, settings="raw samples; zlib, level 9"
)

FAMILIES: dict[str, tuple[Codec, ...]] = {
    "calotype": (CALOTYPE, CALOTYPE_QUICK, CALOTYPE_SLOW, CALOTYPE_SLOWEST, CALOTYPE_VISUAL),
    "jpeg": (JPEG, JPEG_OPTIMISED, JPEG_444),
    "webp": (WEBP, WEBP_SLOWEST),
    "avif": (AVIF, AVIF_PSNR, AVIF_SLOWEST, AVIF_PSNR_SLOWEST),
    "jxl": (JPEG_XL, JPEG_XL_SLOWEST),
    "jp2": (JPEG_2000,),
    "png": (PNG,),
    "webp-lossless": (WEBP_LOSSLESS,),
    "klt": (KLT,),
    "huffman": (HUFFMAN,),
    "deflate": (DEFLATE,),
}
"""What `--codecs` names, and the codecs that it stands for."""

CODECS: dict[str, Codec] = {codec.name: codec for family in FAMILIES.values() for codec in family}


def model_codecs(model: str, *, slowest: bool) -> list[Codec]:
    """A model of one's own as codecs: at the default effort and, if asked for, at that which refines."""
    return [codec_named(model), *([codec_named(model + _AT_SLOWEST)] if slowest else [])]


@lru_cache
def codec_named(name: str) -> Codec:
    """A codec of CODECS, or one's own: a model by its name or file. That one never falls back on lossless coding.

    Raises:
        ModelError: If there is neither, or the model is not for pictures of any size.
        OptionError: If the model is neither for grey nor for colour.
    """
    if name in CODECS:
        return CODECS[name]
    effort = SLOWEST_EFFORT if name.endswith(_AT_SLOWEST) else DEFAULT_EFFORT
    model = library.find(name.removesuffix(_AT_SLOWEST))
    if model.manifest.channels not in (1, 3):
        raise OptionError(f"--model {name} codes {model.manifest.channels} channels; what it is compared with, 1 or 3")

    def encode(image: Image.Image, quality: float) -> bytes:
        return PictureCoder.of(from_image(image), runtime_of(model), effort).at_level(level_of(quality))

    def decode_as_rgb(data: bytes) -> Image.Image:
        return calotype.decode(data, model=model).convert("RGB")

    def version() -> str:
        own = _calotype_version() if effort == DEFAULT_EFFORT else _calotype_learn_version()
        return f"{own}, model {model.id.hex()}"

    settings = f"effort {effort}, never stored losslessly"
    return _ours(name, f".e{effort}.calo", encode, version=version, decode=decode_as_rgb, settings=settings)


PEERS = (AVIF, AVIF_PSNR, WEBP_SLOWEST, JPEG_OPTIMISED)
"""The codecs of the demo; WebP's files from quality 0 to 1 alone grow by a third, hence its finer steps."""


def quality_at_size(codec: Codec, image: Image.Image, size_bytes: int) -> float:
    """The best quality 0-100 whose file is not larger than `size_bytes`; 0 where even that one is larger.

    A binary search: it takes a codec's files to grow with the quality, which holds for these but for a few neighbouring
    qualities that differ by some bytes.
    """
    low, high = 0, round(100 / codec.step)
    while low < high:
        middle = (low + high + 1) // 2
        if len(codec.encode(image, middle * codec.step)) <= size_bytes:
            low = middle
        else:
            high = middle - 1
    return low * codec.step

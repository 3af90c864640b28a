"""Makes the golden files anew: `python tests/golden/make.py`. Only when the shipped model gets a new id.

Encoders use float networks and are not portable, so what is pinned is decoding: file -> hash of the latents.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import calotype
from calotype.prior import Latents

FOLDER = Path(__file__).parent


def digest(tiles: list[Latents]) -> str:
    """SHA-256 over z and y8 of all tiles."""
    content = hashlib.sha256()
    for tile in tiles:
        content.update(tile.z.astype("<i2").tobytes() + tile.y8.astype("<i4").tobytes())
    return content.hexdigest()


def pictures() -> dict[str, tuple[Image.Image, float]]:
    """What is encoded, and how well."""
    astronaut, coffee = (Image.fromarray(getattr(data, name)()) for name in ("astronaut", "coffee"))
    noise = np.random.default_rng(0).integers(0, 256, (129, 129, 3), dtype=np.uint8)  # smaller ones would be lossless
    return {
        "astronaut-q20": (astronaut, 20),
        "coffee-q60": (coffee.crop((100, 50, 413, 251)), 60),
        "coffee-wide-q40": (coffee.resize((1100, 100)), 40),
        "noise-q100": (Image.fromarray(noise), 100),
    }


def main() -> None:
    """Write every golden file and the hashes."""
    hashes = {}
    for name, (image, quality) in pictures().items():
        encoded = calotype.encode(image, quality=quality)
        (FOLDER / f"{name}.calo").write_bytes(encoded)
        hashes[name] = digest(calotype.latents(encoded))
    (FOLDER / "latents.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    main()

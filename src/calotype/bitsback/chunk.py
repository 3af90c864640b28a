"""Images <-> rANS words without loss, by bits-back coding with a latent variable model (SPEC.md, section 8).

BB-ANS (Townsend, Bird, Barber 2019), with the layers of a hierarchical model as in HiLLoC (Townsend et al. 2020). To
encode an image, its latents are *popped* off the words under the posterior, then the image is pushed under the
likelihood and the latents under the prior. The decoder undoes that step by step and so gives back the bits that chose
the latents. What an image costs is minus the model's evidence lower bound.
"""

from __future__ import annotations

import zlib

import numpy as np

from calotype.bitsback.model import Images, Model
from calotype.coding import IntArray, Stack
from calotype.errors import DamagedFile, InexactRuntime

CHECKSUM_BYTES = 4


def encode(model: Model, images: Images) -> bytes:
    """Encode images (n, h, w, c) as one chunk: their CRC-32 and the words.

    The last image comes first. There are no words yet to pop its latents from, so they are the posterior's mode, and no
    bits come back: that is what a chunk costs over its ELBO, some ten to a hundred bytes.
    """
    stack = Stack()
    layers = range(len(model.form.latents))
    for ordinal in reversed(range(len(images))):
        x = model.to_x(images[ordinal])
        zs: list[IntArray] = []
        for _ in layers:
            posterior = model.posterior(x, zs)
            zs.append(posterior.mode if ordinal == len(images) - 1 else posterior.pop(stack))
        stack.push(x.ravel().astype(np.int32), model.likelihood(zs), model.bundle.pixels)
        for layer in reversed(layers):
            model.prior(zs[:layer]).push(zs[layer], stack)
    return zlib.crc32(images.tobytes()).to_bytes(CHECKSUM_BYTES, "little") + stack.words()


def decode(model: Model, data: bytes | memoryview, count: int) -> Images:
    """Decode the `count` images (n, h, w, c) of a chunk.

    Raises:
        DamagedFile: If the chunk breaks a rule that holds without the networks.
        InexactRuntime: If other images come out than were encoded.
    """
    if len(data) < CHECKSUM_BYTES:
        raise DamagedFile(f"a chunk of {len(data)} bytes has no checksum")
    stack = Stack(data[CHECKSUM_BYTES:])
    images = np.empty((count, *model.form.image), np.uint8)
    for ordinal in range(count):
        images[ordinal] = _pop_image(model, stack, is_last=ordinal == count - 1)
    try:
        stack.finish()
    except DamagedFile as error:
        raise _inexact() from error
    if zlib.crc32(images.tobytes()) != int.from_bytes(data[:CHECKSUM_BYTES], "little"):
        raise _inexact()
    return images


def _pop_image(model: Model, stack: Stack, *, is_last: bool) -> Images:
    layers = range(len(model.form.latents))
    zs: list[IntArray] = []
    for _ in layers:
        zs.append(model.prior(zs).pop(stack))
    image = model.to_image(stack.pop(model.likelihood(zs), model.bundle.pixels))
    if not is_last:
        x = model.to_x(image)
        for layer in reversed(layers):
            model.posterior(x, zs[:layer]).push(zs[layer], stack)
    return image


def _inexact() -> InexactRuntime:
    return InexactRuntime(
        "the chunk is whole, but other images came out than were encoded: this machine's runtime is not exact, or the "
        "model is another. Run onnxruntime's CPU provider in float32, and report this"
    )

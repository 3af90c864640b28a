"""What makes a step of training fast gives what the slow way gives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calotype.learn import muon, products, transforms
from calotype.learn.config import Architecture, Recipe
from calotype.learn.dyadic import DyadicConv, set_exact, stream, to_grid
from calotype.learn.look import visual_error
from calotype.learn.model import Codec
from calotype.learn.parts import assembled, of_step
from calotype.learn.prior import StepPrior, bits, mass, sigma_of
from calotype.learn.train import Objective, mse, optimisers
from calotype.learn.transforms import shuffle, to_pixels, unshuffle
from calotype.steps import spans_of, step_of


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("steps", [2, 4])
def test_parts_of_steps_are_all_of_y(steps: int) -> None:
    y, spans = torch.randn(3, 16, 6, 4), spans_of(steps, 16)
    parts = [of_step(y, now) for now in spans]
    assert torch.equal(assembled(parts, spans), y)
    for known in range(1, steps):
        seen = torch.from_numpy(step_of(steps, 16, 6, 4)) < known
        assert torch.equal(assembled(parts[:known], spans), torch.where(seen, y, 0))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("steps", [2, 4])
def test_a_step_finds_for_what_it_codes_what_it_finds_for_all(steps: int, exact: bool) -> None:
    arch = Architecture(y_channels=16, prior_width=24, context_steps=steps)
    prior = StepPrior(arch, 1, sees_y=True).eval()
    set_exact(prior, exact=exact)
    features, y = stream(torch.randn(2, 24, 4, 6)), torch.randn(2, 16, 4, 6).mul(40).round() / 8
    for now in spans_of(steps, 16):
        for whole, part in zip(prior(features, y), prior.coded(features, y, now), strict=True):
            torch.testing.assert_close(of_step(whole, now), part, rtol=0, atol=0 if exact else 1)


@pytest.mark.parametrize("block", [2, 8])
def test_shuffles_are_torchs_in_another_layout(block: int) -> None:
    x = torch.randn(2, 3, 16, 32)
    small = F.pixel_unshuffle(x, block)
    assert torch.equal(unshuffle(x, block), small)
    assert unshuffle(x, block).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(to_pixels(unshuffle(x, block), block), x)
    assert to_pixels(unshuffle(x, block), block).is_contiguous()
    assert torch.equal(shuffle(small, block), x)


def test_rounding_passes_the_gradient_between_its_limits() -> None:
    v = torch.tensor([-9.0, -2.25, -0.3, 0.26, 1.99, 7.0], requires_grad=True)
    rounded = to_grid(v, 1, -4, 4)
    rounded.backward(torch.arange(1.0, 7.0))
    assert rounded.tolist() == [-2, -2, -0.5, 0.5, 2, 2]
    assert v.grad is not None
    assert v.grad.tolist() == [0, 2, 3, 4, 5, 0]


def test_derivatives_of_the_rate_are_those_of_its_formula() -> None:
    v = (8 * torch.randn(4000)).double().requires_grad_()
    index = (126 * torch.rand(4000)).double().requires_grad_()
    slow = -torch.log2(mass(v, sigma_of(index)))
    probable = slow < 25  # beyond, a difference of two numbers near 0 is all that is left of the formula
    wanted = torch.autograd.grad(slow[probable].sum(), (v, index))
    found = torch.autograd.grad(bits(v, sigma_of(index))[probable].sum(), (v, index))
    torch.testing.assert_close(bits(v, sigma_of(index))[probable], slow[probable])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("linear", [products.linear, products.coarse_linear])
def test_products_have_the_gradients_of_a_linear_layer(linear: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    x, weight, bias = (torch.randn(*s, requires_grad=True) for s in ((5, 6, 64), (32, 64), (32,)))
    loss = torch.randn(5, 6, 32)
    slow = torch.autograd.grad(F.linear(x, weight, bias), (x, weight, bias), loss)
    fast = torch.autograd.grad(linear(x, weight, bias), (x, weight, bias), loss)
    for a, b in zip(fast, slow, strict=True):
        assert (a - b).norm() < 0.01 * b.norm()
    assert torch.get_float32_matmul_precision() == "highest"


def test_training_sees_what_the_decoder_computes_of_activations() -> None:
    """Factors of 8 bits are exact in bfloat16, too."""
    layer = DyadicConv(96, 64, 5, 255)
    x = torch.randint(0, 256, (2, 96, 4, 4)) * 2.0**-5
    assert torch.equal(layer.train()(x), layer.eval()(x))


@pytest.mark.parametrize("fast", [torch.float32, torch.bfloat16])
def test_training_computes_in_what_its_processor_multiplies_fastest(
    fast: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (muon, transforms):
        monkeypatch.setattr(module, "fast_type", lambda _: fast)  # pyright: ignore[reportUnknownLambdaType]
    block, x = transforms.Block(32), torch.randn(2, 32, 8, 8)
    exact, trained = block.eval()(x), block.train()(x)
    assert torch.equal(trained, exact) == (fast is torch.float32)
    assert (trained - exact).norm() < 0.01 * exact.norm()
    singular = torch.linalg.svdvals(muon.orthogonalise(torch.randn(3, 16, 24)))
    assert 0.5 < singular.min() < singular.max() < 1.5


def test_a_processor_without_products_of_16_bits_is_not_asked_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    products.fast_type.cache_clear()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert products.fast_type("cpu") is torch.float32
    for compute, fast in ((True, torch.bfloat16), (False, torch.float32)):  # False: it emulates them, as a T4 does
        products.fast_type.cache_clear()
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, c=compute: c or including_emulation
        )
        assert products.fast_type("cuda") is fast
    products.fast_type.cache_clear()


@pytest.mark.parametrize("error", [mse, visual_error])
def test_a_training_step_stays_on_its_device(
    error: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device: as a GPU does, it refuses sums with the CPU's tensors, and it has no value to wait for."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # pyright: ignore[reportUnknownLambdaType]
    arch = Architecture(y_channels=32, z_channels=16, width=32, blocks=2, prior_width=32, context_blocks=1)
    codec, device = Codec(arch).to("meta").train(), torch.device("meta")
    x, level = torch.zeros(2, 3, 256, 256, device=device), torch.zeros(2, dtype=torch.int64, device=device)
    for size_px in (None, torch.full((2, 2), 200, device=device)):
        Objective(codec, error)(x, level, size_px)[0].backward()
    nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
    for optimiser in optimisers(codec, Recipe()):
        optimiser.step()
    assert all(p.grad is not None and p.grad.device == device for p in codec.parameters())

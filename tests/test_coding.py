from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from constriction import stream
from hypothesis import given, settings
from hypothesis import strategies as st

import calotype
from calotype import rans
from calotype.bundle import Bundle
from calotype.coding import Decoder, Encoder, Tables
from calotype.errors import DamagedFile


class SlowDecoder:
    """rANS as SPEC.md writes it, one symbol at a time."""

    def __init__(self, tables: Tables, words: bytes) -> None:
        self.tables, self.words, self.state = tables, np.frombuffer(words, "<u4").tolist(), 0
        self._refill()
        self.skips = tables.any_quiet and self.symbol(np.full(2, 1 << 23)) == 1

    def _refill(self) -> None:
        while self.state < 1 << 32 and self.words:
            self.state = self.state << 32 | self.words.pop()

    def symbol(self, frequencies: np.ndarray) -> int:
        starts = np.concatenate([[0], np.cumsum(frequencies.astype(np.int64))])
        r = self.state % (1 << 24)
        i = int(np.searchsorted(starts, r, side="right")) - 1
        self.state = (self.state >> 24) * int(frequencies[i]) + r - int(starts[i])
        self._refill()
        return i

    def pop(self, index: np.ndarray) -> np.ndarray:
        out = np.zeros(len(index), int)
        for t in sorted(set(index.tolist())):
            table, escapes = self.tables.tables[t], []
            if table.quiet and self.skips:
                continue
            for place in np.flatnonzero(index == t):
                out[place] = self.symbol(table.frequencies) - table.radius
                if out[place] > table.radius:
                    escapes.append(place)
            for place in escapes:
                out[place] = self.symbol(np.full(65536, 256)) - 32768
        return out


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 8), max_size=40), max_size=5), st.integers(0, 2**32 - 1))
def test_the_stack_in_python_makes_the_words_of_constriction(parts: list[list[int]], seed: int) -> None:
    frequencies = np.floor(np.random.default_rng(seed).dirichlet(np.full(9, 0.3)) * ((1 << 24) - 9))
    frequencies[0] += (1 << 24) - 9 - frequencies.sum()
    noise = np.random.default_rng(seed).integers(1, 1 << 32, 1 + seed % 3, np.uint32)
    modules = ((stream.stack.AnsCoder, stream.model), (rans.AnsCoder, rans))
    words, popped = list[list[int]](), list[list[list[int]]]()
    for coder_class, models in modules:
        some, even = models.Categorical(frequencies, perfect=False), models.Uniform(1 << 16)
        coder = coder_class()
        for part in parts:
            coder.encode_reverse(np.array(part, np.int32), some)
            coder.encode_reverse(np.array(part, np.int32) * 7001, even)
        words.append(coder.get_compressed().tolist())
        assert coder.clone().get_compressed().tolist() == words[-1]
        again = coder_class(np.array(words[-1], np.uint32))
        popped.append([again.decode(model, len(part)).tolist() for part in parts[::-1] for model in (even, some)])
        assert again.is_empty()
        drawing = coder_class(noise)
        popped[-1] += [drawing.decode(some, 50).tolist(), drawing.get_compressed().tolist()]
    assert words[0] == words[1]
    assert popped[0] == popped[1]


def test_files_are_the_same_without_constriction() -> None:
    golden = Path(__file__).parent / "golden"
    code = """
import sys
sys.modules["constriction"] = None
import calotype
from PIL import Image
data = open(sys.argv[1], "rb").read()
image = calotype.decode(data)
sys.stdout.buffer.write(calotype.encode(image.crop((0, 0, 128, 64)), quality=90))
"""
    path = str(golden / "astronaut-q20.calo")
    got = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True).stdout
    image = calotype.decode(Path(path).read_bytes())
    assert got == calotype.encode(image.crop((0, 0, 128, 64)), quality=90)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(-32767, 32767) | st.integers(-9, 9), st.integers(0, 63)), max_size=200))
def test_slow_decoder_agrees(photo_model: Bundle, pairs: list[tuple[int, int]]) -> None:
    symbols, index = (np.array([p[i] for p in pairs], d) for i, d in ((0, np.int32), (1, np.uint8)))
    encoder = Encoder(photo_model.tables)
    encoder.push(symbols, index)
    slow = SlowDecoder(photo_model.tables, encoder.words())
    assert slow.pop(index).tolist() == symbols.tolist()
    assert slow.state == 0
    assert not slow.words
    fast = Decoder(photo_model.tables, encoder.words())
    assert fast.pop(index).tolist() == symbols.tolist()
    fast.finish()


def with_quiet(tables: Tables, quiet: set[int]) -> Tables:
    return Tables(tuple(replace(table, quiet=t in quiet) for t, table in enumerate(tables.tables)))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 5)), max_size=60), st.sets(st.integers(0, 5)), st.booleans()
)
def test_quiet_tables(photo_model: Bundle, pairs: list[tuple[int, int]], quiet: set[int], skips: bool) -> None:
    tables = with_quiet(photo_model.tables, quiet)
    symbols, index = (np.array([p[i] for p in pairs], d) for i, d in ((0, np.int32), (1, np.uint8)))
    if skips:
        symbols[np.isin(index, list(quiet))] = 0
    assert tables.quietened(symbols, index)[1] >= skips
    encoder = Encoder(tables, skips=skips)
    encoder.push(symbols, index)
    for decoder in (Decoder(tables, encoder.words()), slow := SlowDecoder(tables, encoder.words())):
        assert decoder.pop(index).tolist() == symbols.tolist()
    assert (slow.state, slow.words) == (0, [])


def test_zeros_under_quiet_tables_take_no_words(photo_model: Bundle) -> None:
    tables, index = with_quiet(photo_model.tables, {0, 1}), np.array([0, 1] * 10**6, np.uint8)
    encoder = Encoder(tables, skips=True)
    encoder.push(np.zeros(len(index), np.int32), index)
    assert len(encoder.words()) == 4
    decoder = Decoder(tables, encoder.words())
    assert not decoder.pop(index).any()
    decoder.finish()


def test_what_is_quietened(photo_model: Bundle) -> None:
    tables, index = with_quiet(photo_model.tables, {0}), np.array([0, 0, 0, 0, 1], np.uint8)
    given = np.array([0, 2, -1, 3, 1], np.int32)
    symbols, quiet = tables.quietened(given, index)
    assert (symbols.tolist(), quiet) == ([0, 0, 0, 3, 1], False)
    symbols, quiet = tables.quietened(given[[0, 1, 4]], index[[0, 1, 4]])
    assert (symbols.tolist(), quiet) == ([0, 0, 1], True)
    assert given.tolist() == [0, 2, -1, 3, 1]


def test_reaches_the_entropy(photo_model: Bundle, rng: np.random.Generator) -> None:
    last = len(photo_model.tables.tables) - 1
    index = np.minimum(last, rng.geometric(5 / last, 100_000) - 1).astype(np.uint8)
    sigma = 0.11 * (256 / 0.11) ** (index / last)
    symbols = np.rint(rng.normal(0, sigma)).astype(np.int32)
    encoder = Encoder(photo_model.tables)
    encoder.push(symbols, index)
    ideal_bits = photo_model.tables.cost_bits(symbols, index).sum(dtype=float)
    gaussian_bits = np.log2(sigma * np.sqrt(2 * np.pi * np.e))[sigma > 2].sum()
    assert 8 * len(encoder.words()) == pytest.approx(ideal_bits, rel=5e-4)
    assert photo_model.tables.cost_bits(symbols, index)[sigma > 2].sum(dtype=float) == pytest.approx(
        gaussian_bits, rel=0.01
    )


def test_pushes_pop_in_reverse(photo_model: Bundle) -> None:
    encoder = Encoder(photo_model.tables)
    first, second = np.array([1, -2, 3000], np.int32), np.array([7], np.int32)
    encoder.push(second, np.array([40], np.uint8))
    encoder.push(first, np.array([30, 2, 2], np.uint8))
    decoder = Decoder(photo_model.tables, encoder.words())
    assert decoder.pop(np.array([30, 2, 2], np.uint8)).tolist() == [1, -2, 3000]
    with pytest.raises(DamagedFile, match="state"):
        decoder.finish()
    assert decoder.pop(np.array([40], np.uint8)).tolist() == [7]
    decoder.finish()


@pytest.mark.parametrize("words", [b"abc", b"abcd\0\0\0\0"])
def test_bad_words(photo_model: Bundle, words: bytes) -> None:
    with pytest.raises(DamagedFile):
        Decoder(photo_model.tables, words)

"""constriction's stack of symbols in plain Python, for machines that it has no wheel for: the same words, slower.

J. Duda, "Asymmetric numeral systems" (2013); a state of 64 bits, words of 32, frequencies that sum to 2^24.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 24
WORD_BITS = 32
_BELOW_ONE = (1 << PRECISION_BITS) - 1
_WORD = (1 << WORD_BITS) - 1
_SPARE_BITS = 2 * WORD_BITS - PRECISION_BITS


class Categorical:
    """Symbols of given frequencies, each less 1, which sum to 2^24 less their number."""

    def __init__(self, frequencies: NDArray[np.float64], *, perfect: bool) -> None:  # noqa: ARG002
        self.starts: Sequence[int] = [0, *accumulate(int(q) + 1 for q in frequencies)]


class Uniform:
    """Symbols 0 to n - 1, equally frequent; n is a power of two."""

    def __init__(self, n: int) -> None:
        self.starts: Sequence[int] = range(0, (1 << PRECISION_BITS) + 1, (1 << PRECISION_BITS) // n)


class AnsCoder:
    """A stack of symbols, as words."""

    def __init__(self, words: NDArray[np.uint32] | None = None) -> None:
        self._words: list[int] = [] if words is None else words.tolist()
        self._state = 0
        while self._state <= _WORD and self._words:
            self._state = self._state << WORD_BITS | self._words.pop()

    def decode(self, model: Categorical | Uniform, n: int) -> NDArray[np.int32]:
        """Pop symbols (n,)."""
        starts, words, state = model.starts, self._words, self._state
        symbols = list[int]()
        for _ in range(n):
            place = state & _BELOW_ONE
            symbol = bisect_right(starts, place) - 1
            low = starts[symbol]
            state = (state >> PRECISION_BITS) * (starts[symbol + 1] - low) + place - low
            if state <= _WORD and words:
                state = state << WORD_BITS | words.pop()
            symbols.append(symbol)
        self._state = state
        return np.array(symbols, np.int32)

    def encode_reverse(self, symbols: NDArray[np.int32], model: Categorical | Uniform) -> None:
        """Push symbols (n,), the last one first."""
        starts, words, state = model.starts, self._words, self._state
        for symbol in reversed(symbols.tolist()):
            low = starts[symbol]
            frequency = starts[symbol + 1] - low
            if state >> _SPARE_BITS >= frequency:
                words.append(state & _WORD)
                state >>= WORD_BITS
            state = (state // frequency << PRECISION_BITS) + state % frequency + low
        self._state = state

    def get_compressed(self) -> NDArray[np.uint32]:
        """All words; the last is not 0."""
        state = [part for part in (self._state & _WORD, self._state >> WORD_BITS) if self._state]
        return np.array(self._words + (state if not state or state[-1] else state[:-1]), np.uint32)

    def clone(self) -> AnsCoder:
        """A copy."""
        return AnsCoder(self.get_compressed())

    def is_empty(self) -> bool:
        """Whether the stack is as it began."""
        return not self._state and not self._words

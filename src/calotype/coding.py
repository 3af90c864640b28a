"""Symbols and integer tables <-> rANS words (SPEC.md, section 4). The only place that knows constriction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calotype.errors import DamagedFile
from calotype.lazy import cached_property
from calotype.rans import PRECISION_BITS

if TYPE_CHECKING:
    from calotype.rans import AnsCoder, Categorical, Uniform
else:
    try:
        from constriction import stream

        AnsCoder, Categorical, Uniform = stream.stack.AnsCoder, stream.model.Categorical, stream.model.Uniform
    except ModuleNotFoundError:  # as on Linux on ARM, for which there is no wheel
        from calotype.rans import AnsCoder, Categorical, Uniform

SYMBOL_LIMIT = 32767
ESCAPE_VALUES = 1 << 16
MAX_RADIUS = 4095
MOST_QUIETENED = 2

IntArray = NDArray[np.int32]
Indices = NDArray[np.uint8] | NDArray[np.uint16]
Group = tuple[int, int, int]
"""A table, and where the symbols under it start and stop."""
_ESCAPE = Uniform(ESCAPE_VALUES)
_SKIPS = Uniform(2)


@dataclass(frozen=True)
class Table:
    """Frequencies of the symbols -radius..radius and, last, of the escape; they sum to 2^24.

    Attributes:
        quiet: Whether its symbols are almost surely 0, so that words may skip it.
    """

    radius: int
    frequencies: NDArray[np.uint32]
    quiet: bool = False

    @cached_property
    def model(self) -> Categorical:
        """The same frequencies for the coder."""
        return _exact_model(self.frequencies)

    @cached_property
    def cost_bits(self) -> NDArray[np.float32]:
        """What each symbol costs, and last an escape with its value."""
        cost = PRECISION_BITS - np.log2(self.frequencies.astype(np.float64))
        cost[-1] += np.log2(ESCAPE_VALUES)
        return cost.astype(np.float32)


@dataclass(frozen=True)
class Tables:
    """The family of tables of a model, indexed by integers."""

    tables: tuple[Table, ...]

    @cached_property
    def radii(self) -> IntArray:
        """The radius of each table."""
        return np.array([t.radius for t in self.tables], np.int32)

    @cached_property
    def quiet(self) -> NDArray[np.bool_]:
        """Whether each table is quiet."""
        return np.array([t.quiet for t in self.tables])

    @cached_property
    def any_quiet(self) -> bool:
        """Whether words begin with a symbol that says whether they skip quiet tables."""
        return bool(self.quiet.any())

    def quietened(self, symbols: IntArray, index: NDArray[np.uint8]) -> tuple[IntArray, bool]:
        """Symbols of which those near 0 under quiet tables are made 0, so few that the error hardly counts.

        Returns:
            The symbols, and whether all under quiet tables are 0 now.
        """
        places = np.flatnonzero(symbols != 0)
        places = places[self.quiet.take(index[places])]
        near = np.abs(symbols[places]) <= MOST_QUIETENED
        symbols = symbols.copy() if places.size else symbols
        symbols[places[near]] = 0
        return symbols, bool(near.all())

    def groups(self, index: NDArray[np.uint8], *, skips: bool) -> tuple[NDArray[np.intp], list[Group]]:
        """The stable order by table, and the groups in it, without those of quiet tables if words skip them."""
        order, groups = _groups(index)
        return order, [group for group in groups if not (skips and self.tables[group[0]].quiet)]

    @cached_property
    def _cost_starts(self) -> IntArray:
        sizes = [len(t.cost_bits) for t in self.tables]
        return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)

    @cached_property
    def _costs(self) -> NDArray[np.float32]:
        return np.concatenate([t.cost_bits for t in self.tables])

    def cost_bits(self, symbols: IntArray, index: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What each symbol costs in its table, in bits."""
        radius = self.radii.take(index)
        place = np.where(np.abs(symbols) <= radius, symbols + radius, 2 * radius + 1)
        return self._costs.take(self._cost_starts.take(index) + place)


@dataclass(frozen=True, eq=False)
class Family:
    """Tables of the symbols 0..n-1, without an escape, indexed by integers.

    Attributes:
        frequencies: (tables, n), each at least 1, each row summing to 2^24.
    """

    frequencies: NDArray[np.uint32]
    _models: dict[int, Categorical] = field(default_factory=dict[int, Categorical], repr=False)

    def model(self, t: int) -> Categorical:
        """Table t for the coder; made once."""
        if t not in self._models:
            self._models[t] = _exact_model(self.frequencies[t])
        return self._models[t]


def _exact_model(frequencies: NDArray[np.uint32]) -> Categorical:
    """The same frequencies for constriction, which keeps q as it is if given q - 1 and the q sum to 2^24."""
    return Categorical((frequencies - 1).astype(np.float64), perfect=False)


def _groups(index: Indices) -> tuple[NDArray[np.intp], list[Group]]:
    """The stable order by table, and the groups in it."""
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index, minlength=1)
    stops = np.cumsum(counts)
    return order, [(int(t), int(stops[t] - counts[t]), int(stops[t])) for t in np.flatnonzero(counts)]


class Encoder:
    """A stack of words: what is pushed first is popped last.

    Args:
        tables: The family of tables.
        skips: Whether quiet tables are skipped, under which all symbols are 0.
    """

    def __init__(self, tables: Tables, *, skips: bool = False) -> None:
        self.tables, self._skips = tables, skips and tables.any_quiet
        self._coder = AnsCoder()

    def push(self, symbols: IntArray, index: NDArray[np.uint8]) -> None:
        """Push symbols (n,) within +-32767 under tables index (n,)."""
        order, groups = self.tables.groups(index, skips=self._skips)
        ordered = symbols[order]
        for t, start, stop in reversed(groups):
            table, part = self.tables.tables[t], ordered[start:stop]
            places = part + np.int32(table.radius)
            escaped = places.view(np.uint32) > 2 * table.radius  # as unsigned, for those below 0 are beyond it, too
            if escaped.any():
                self._coder.encode_reverse(part[escaped] + (SYMBOL_LIMIT + 1), _ESCAPE)
                places[escaped] = 2 * table.radius + 1
            self._coder.encode_reverse(places, table.model)

    def words(self) -> bytes:
        """All words, little-endian."""
        coder = self._coder.clone()
        if self.tables.any_quiet:
            coder.encode_reverse(np.array([self._skips], np.int32), _SKIPS)
        return _bytes_of(coder)


class Decoder:
    """Pops what an Encoder pushed, last first.

    Attributes:
        skips: Whether quiet tables are skipped.
    """

    def __init__(self, tables: Tables, words: bytes | memoryview) -> None:
        self.tables = tables
        self._coder = _coder_of(words)
        self.skips = tables.any_quiet and bool(self._coder.decode(_SKIPS, 1)[0])

    def pop(self, index: NDArray[np.uint8]) -> IntArray:
        """Pop the symbols (n,) that were pushed under tables index (n,)."""
        order, groups = self.tables.groups(index, skips=self.skips)
        ordered = np.zeros(len(index), np.int32)
        for t, start, stop in groups:
            ordered[start:stop] = self._pop(self.tables.tables[t], stop - start)
        symbols = np.empty_like(ordered)
        symbols[order] = ordered
        return symbols

    def _pop(self, table: Table, count: int) -> IntArray:
        part = self._coder.decode(table.model, count) - table.radius
        if part.max() > table.radius:
            escaped = part > table.radius
            values = self._coder.decode(_ESCAPE, int(escaped.sum())) - (SYMBOL_LIMIT + 1)
            if (np.abs(values) <= table.radius).any() or values.min() < -SYMBOL_LIMIT:
                raise DamagedFile("an escape stands for a symbol that needs none")
            part[escaped] = values
        return part

    def finish(self) -> None:
        """Check that the coder ends where it began."""
        _check_empty(self._coder)


class Stack:
    """Words from which symbols are popped and onto which they are pushed, in any order: the coder of bits back.

    Popping from words that do not hold the symbols draws them, as random as the words are; pushing them again under the
    same tables gives the words back.
    """

    def __init__(self, words: bytes | memoryview = b"") -> None:
        self._coder = _coder_of(words)

    def push(self, symbols: IntArray, index: Indices, family: Family) -> None:
        """Push symbols (n,) under tables index (n,) of a family."""
        order, groups = _groups(index)
        ordered = symbols[order]
        for t, start, stop in reversed(groups):
            self._coder.encode_reverse(ordered[start:stop], family.model(t))

    def pop(self, index: Indices, family: Family) -> IntArray:
        """Pop symbols (n,) under tables index (n,) of a family."""
        order, groups = _groups(index)
        symbols = np.empty(len(index), np.int32)
        for t, start, stop in groups:
            symbols[order[start:stop]] = self._coder.decode(family.model(t), stop - start)
        return symbols

    def words(self) -> bytes:
        """All words, little-endian."""
        return _bytes_of(self._coder)

    def finish(self) -> None:
        """Check that nothing is left.

        Raises:
            DamagedFile: If something is.
        """
        _check_empty(self._coder)


def _coder_of(words: bytes | memoryview) -> AnsCoder:
    if len(words) % 4:
        raise DamagedFile(f"{len(words)} bytes of words are not a multiple of 4")
    array = np.frombuffer(words, "<u4").astype(np.uint32)
    if array.size and array[-1] == 0:
        raise DamagedFile("the last word is 0")
    return AnsCoder(array)


def _bytes_of(coder: AnsCoder) -> bytes:
    return coder.get_compressed().astype("<u4").tobytes()


def _check_empty(coder: AnsCoder) -> None:
    if not coder.is_empty():
        raise DamagedFile("the rANS state does not end where it began")

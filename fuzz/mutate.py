"""No silent corruption: `python fuzz/mutate.py 100000` changes sound files, model files and archives at random.

Each change must end in an error of calotype's tree, or in just what the unchanged bytes give. Anything else ends the
run.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from mutations import PLAIN, mutate
from targets import CORPUS, run

if TYPE_CHECKING:
    from collections.abc import Callable

SUBJECTS = [
    *(("container", name) for name in ("learned.calo", "alpha.calo", "tiles.calo", "lossless.calo", "deep.calo")),
    ("bundle", "tiny.calomodel"),
    ("archive", "all.caloset"),
]


def outcome(target: str, original: bytes, expected: object, kind: Callable[..., bytes], rng: random.Random) -> str:
    """What became of one mutation: `refused`, or `the same`.

    Raises:
        AssertionError: If another result came out.
    """
    changed = mutate(original, rng, (kind,))
    result = run(target, changed)
    assert result is None or result == expected, f"{target}: {kind.__name__} gave another result, silently"
    return "refused" if result is None else "the same"


def tally(count: int, seed: int) -> Counter[tuple[str, str, str]]:
    """Outcomes of so many mutations, or of those until Ctrl-C, by target, kind and outcome."""
    rng, counts = random.Random(seed), Counter[tuple[str, str, str]]()
    originals = [(target, (CORPUS / name).read_bytes()) for target, name in SUBJECTS]
    expected = [run(target, data) for target, data in originals]
    assert all(expected)
    with suppress(KeyboardInterrupt):
        for number in range(count):
            subject = number % len(SUBJECTS)
            target, data = originals[subject]
            kind = PLAIN[number // len(SUBJECTS) % len(PLAIN)]
            counts[target, kind.__name__, outcome(target, data, expected[subject], kind, rng)] += 1
    return counts


def main() -> None:
    """Print a table."""
    counts = tally(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print("| target | change | refused | the same result |\n|---|---|---|---|")
    for target, kind in sorted({key[:2] for key in counts}):
        print(f"| {target} | {kind} | {counts[target, kind, 'refused']} | {counts[target, kind, 'the same']} |")
    print(f"\n{counts.total()} mutations, 0 other results")


if __name__ == "__main__":
    main()

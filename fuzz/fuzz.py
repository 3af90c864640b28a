"""Fuzzes one target: `python fuzz/fuzz.py container --minutes 60`.

With atheris (of the extra `dev`) coverage of calotype's own code guides it; with `--blind` it only changes what is in
the corpus. An input that ends in anything but a result or an error of calotype's tree is written to `fuzz/found/`
and ends the run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import time
from pathlib import Path

from psutil import Process

FOUND = Path(__file__).parent / "found"


def _seeds(name: str, corpus: Path) -> list[bytes]:
    suffix = {"container": "calo", "pillow": "calo", "bundle": "calomodel", "archive": "caloset"}[name]
    return [path.read_bytes() for path in sorted(corpus.glob(f"*.{suffix}"))]


def _checked(name: str, data: bytes) -> None:
    import targets

    try:
        targets.run(name, data)
    except BaseException:
        FOUND.mkdir(exist_ok=True)
        path = FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        print(f"\n{path} is what did this:", file=sys.stderr)
        raise


def _guided(name: str, seconds: float, kept: Path) -> None:
    """libFuzzer, guided by the coverage of calotype's code."""
    import atheris

    with atheris.instrument_imports(include=["calotype"]):
        import mutations
        import targets

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return atheris.Mutate(data, most)
        return mutations.signed(name, data, rng)[:most]

    kept.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(_seeds(name, targets.CORPUS)):
        (kept / f"seed-{i}").write_bytes(seed)
    options = [
        f"-max_total_time={round(seconds)}",
        "-max_len=200000",
        "-rss_limit_mb=4096",
        "-timeout=600",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], str(kept), *options], lambda data: _checked(name, data), custom_mutator=mutator)
    atheris.Fuzz()


def _blind(name: str, seconds: float, seed: int) -> None:
    """Mutations of the corpus, without coverage; what memory they leave behind is calotype's, not a fuzzer's."""
    import mutations
    import targets

    process = Process()
    rng, seeds = random.Random(seed), _seeds(name, targets.CORPUS)

    def executions(seconds: float) -> int:
        count, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            _checked(name, mutations.signed(name, rng.choice(seeds), rng))
            count += 1
        return count

    settling = executions(seconds / 10)
    settled_bytes = process.memory_info().rss
    count = executions(seconds * 9 / 10)
    grown = (process.memory_info().rss - settled_bytes) / max(1, count)
    print(f"{name}: {settling + count} executions, no coverage; {grown:.0f} bytes an input after the first tenth")


def main() -> None:
    """Read the options and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target", choices=["container", "bundle", "archive", "pillow"])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--blind", action="store_true", help="without atheris")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path("fuzz/kept"), help="where what atheris keeps lies")
    given = parser.parse_args()
    if given.blind:
        _blind(given.target, 60 * given.minutes, given.seed)
    else:
        _guided(given.target, 60 * given.minutes, given.kept / given.target)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

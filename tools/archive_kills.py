"""Does an archive hold what was reported, whenever packing is killed? `python tools/archive_kills.py DATA [OPTION...]`.

Runs `calotype pack DATA x.caloset OPTION...` to its end once, then kills it (SIGKILL) 20 times, each time at another
moment. After each kill the archive must open and decode, in a process whose folder of models is empty, and hold all
that was reported. So the options name a model that is shipped, or have --embed-model.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KILLS = 20
STORED = " stored  "
DECODE = """
import sys
from calotype.archive import Archive
with Archive(sys.argv[1]) as archive:
    print(sum(archive.image(entry) is not None for entry in archive.entries))
"""
EMPTY_MODELS = os.environ | {"CALOTYPE_MODELS": os.devnull}


def reported(lines: list[str]) -> int:
    """Images that lines of `calotype pack` report as stored."""
    labels = [line.split(STORED)[0] for line in lines if STORED in line and line.endswith("\n")]
    spans = [
        label.removeprefix("images ").split("-") if label.startswith("images ") else ("0", "0") for label in labels
    ]
    return sum(int(last) - int(first) + 1 for first, last in spans)


def pack(data: str, options: list[str], out: Path, kill_after_s: float | None) -> tuple[int, float]:
    """Pack, and kill it so long after the first report; images reported, and seconds from the first report on."""
    command = [sys.executable, "-m", "calotype", "pack", data, str(out), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline()]
        while lines[-1] and STORED not in lines[-1]:
            lines.append(process.stderr.readline())
        if not lines[-1]:
            raise SystemExit(f"nothing was packed: {''.join(lines)}")
        start = time.monotonic()
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            process.kill()
        lines += process.stderr.readlines()
    return reported(lines), time.monotonic() - start


def decoded(path: Path) -> int:
    """Images that another process, without models, gets out of an archive; it recovers the archive if need be."""
    found = subprocess.run([sys.executable, "-c", DECODE, path], env=EMPTY_MODELS, check=True, stdout=subprocess.PIPE)
    return int(found.stdout)


def main() -> None:
    """Read the command line, pack and kill, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="what `calotype pack` takes")
    args, options = parser.parse_known_args()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        said, whole_s = pack(args.data, options, folder / "whole.caloset", None)
        images = decoded(folder / "whole.caloset")
        print(f"whole: {said} images reported in {whole_s:.1f} s, {images} decoded without any model installed")
        worst = 0
        for number in range(KILLS):
            path = folder / f"{number}.caloset"
            said, _ = pack(args.data, options, path, draw.uniform(0, whole_s))
            found = decoded(path)
            print(f"kill {number + 1}: {said} images reported, {found} decoded", flush=True)
            worst = min(worst, found - said)
    print("all that was reported is there" if worst == 0 else f"{-worst} IMAGES WERE LOST")
    sys.exit(worst != 0)


if __name__ == "__main__":
    main()

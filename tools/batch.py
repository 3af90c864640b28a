"""A batch of many files of which some are bad, killed on its way: `python tools/batch.py --files 5000`.

Makes tiny pictures, one in a hundred of them bad (empty, cut short, no picture, not readable, gone by the time it is
read), encodes the folder, kills the process with SIGKILL again and again, and goes on with --resume until it ends.
Fails unless every output was whole after every kill, each bad file is reported with its name and the exit status tells.
Needs POSIX.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

import calotype

BAD_EVERY = 100
SIZE_PX = (24, 16)
UNREADABLE = Path("/proc/self/mem")
"""What is a file, even for root, and cannot be read."""
PROGRAM = "import sys; sys.argv[0] = 'calotype'; from calotype.cli import main; main()"


def picture(number: int) -> bytes:
    """A tiny PNG."""
    buffer = io.BytesIO()
    samples = np.random.default_rng(number).integers(0, 256, (*SIZE_PX[::-1], 3), dtype=np.uint8)
    Image.fromarray(samples).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def spoil(path: Path, way: int) -> None:
    """Make a picture bad."""
    data = path.read_bytes()
    path.unlink()
    if way % 4 == 3 and UNREADABLE.exists():
        path.symlink_to(UNREADABLE)
    else:
        path.write_bytes([b"", data[: len(data) // 2], b"no picture", data[:20]][way % 4])


def fill(folder: Path, count: int) -> tuple[list[Path], list[Path]]:
    """Make the files of a batch, in folders of a thousand; all of them, and the bad ones."""
    paths = [folder / f"{number // 1000}" / f"{number:05d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    bad = paths[BAD_EVERY // 2 :: BAD_EVERY]
    for way, path in enumerate(bad):
        spoil(path, way)
    return paths, bad


def encode(folder: Path, out: Path, kill_after: int | None, vanishing: Path | None) -> tuple[int, str]:
    """Encode a folder, resuming; kill it after so many lines, or let a file vanish after the first. Status, stderr."""
    command = [sys.executable, "-c", PROGRAM, "encode", "-r", str(folder), "-o", str(out), "--lossless", "--resume"]
    environment = os.environ | {"PYTHONPATH": str(Path(calotype.__file__).parents[1])}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if vanishing is not None:
            vanishing.unlink(missing_ok=True)
        if len(lines) == kill_after:
            process.kill()
    process.stderr.close()
    return process.wait(), "".join(lines)


def check(good: bool, what: str) -> None:
    """End the tool if something is not as it should be."""
    if not good:
        sys.exit(f"batch.py: {what}")


def check_whole(out: Path) -> int:
    """Decode every output; how many there are."""
    outputs = sorted(out.rglob("*.calo"))
    for path in outputs:
        check(calotype.decode(path.read_bytes()).size == SIZE_PX, f"{path} is not whole")
    return len(outputs)


def run(folder: Path, count: int, kills: int) -> None:
    """The whole of it in a folder."""
    paths, bad = fill(folder / "in", count)
    out, start = folder / "out", perf_counter()
    for _ in range(kills):
        status, _ = encode(folder / "in", out, count // (kills + 1), None)
        check(status == -9, f"not killed but ended with {status}")
        print(f"killed; {check_whole(out)} outputs, all whole")
    status, said = encode(folder / "in", out, None, paths[-1])
    bad = [*bad, paths[-1]]
    check(status == 1, f"status {status} in spite of bad files")
    for path in bad:
        check(said.count(f"calotype: error: {path}: ") == 1, f"{path} is not reported")
    check(said.count("calotype: error: ") == len(bad), "more is reported than the bad files")
    check(check_whole(out) == count - len(bad), "files are missing")
    print(f"{said.splitlines()[-1]}  in {perf_counter() - start:.0f} s")
    status, said = encode(folder / "in", out, None, None)
    check(status == 1 and " -> " not in said, "what was done is done again")
    print(said.splitlines()[-1])


def main() -> None:
    """Read the command line, run in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000, help="in the batch (%(default)s)")
    parser.add_argument("--kills", type=int, default=3, help="before it may end (%(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), args.files, args.kills)


if __name__ == "__main__":
    main()

"""Threads and processes: one model for all, the same bytes from all, and forks that neither hang nor crash.

Each test runs a program in a process of its own, in which nothing has run before and nothing else runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import calotype

COMMON = """
import hashlib, multiprocessing, sys, threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
import numpy as np
import calotype

OPTIONS = [{"quality": 60}, {"quality": 20, "effort": 1}, {"psnr": 30}, {"lossless": True}, {"size": 900}]

def picture(number):
    rng = np.random.default_rng(number)
    ramps = np.add.outer(np.linspace(0, 120, 70 + number), np.linspace(0, 100, 150 + 3 * number))
    noise = rng.normal(0, 8, (*ramps.shape, 3 + number % 2))
    return np.clip(ramps[..., None] + noise, 0, 255).astype(np.uint8)

def both(number):
    data = calotype.encode(picture(number), **OPTIONS[number % len(OPTIONS)])
    pixels = calotype.decode_array(data)
    return hashlib.sha256(data).hexdigest(), hashlib.sha256(pixels.tobytes()).hexdigest()
"""

THREADS = """
with ThreadPoolExecutor(8) as pool:  # the first run of all, so that the threads also race to open the model
    together = list(pool.map(both, [0, 1, 2, 3, 4] * 3))
assert together == [both(number) for number in range(5)] * 3
"""

PROCESSES = """
if __name__ == "__main__":
    alone = [both(number) for number in range(5)]
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(2, context) as pool:
        assert list(pool.map(both, range(5))) == alone
"""

FORKS_AT_WORK = """
alone = both(0)
stop = threading.Event()

def work():
    while not stop.is_set():
        both(1)

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
context = multiprocessing.get_context("fork")
try:
    for _ in range(4):  # whatever the threads are in the middle of
        with ProcessPoolExecutor(1, context) as pool:
            assert pool.submit(both, 0).result(timeout=60) == alone
finally:
    stop.set()
for thread in threads:
    thread.join()
"""

ARCHIVES = """
from pathlib import Path
from calotype.archive import Archive, ArchiveWriter

path = Path(sys.argv[1]) / "x.caloset"
files = {str(number): calotype.encode(picture(number % 7), lossless=number % 2 == 0, effort=1) for number in range(40)}
with ArchiveWriter(path) as writer, ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda name: writer.add_picture(name, files[name]), files))
with Archive(path) as archive, ThreadPoolExecutor(8) as pool:
    assert sorted(archive.names) == sorted(files)
    for name, image in zip(files, pool.map(archive.image, files)):
        assert image.tobytes() == calotype.decode(files[name]).tobytes()
"""

LAZY_FORK = """
import os
from calotype.lazy import cached_property

class Slow:
    @cached_property
    def value(self):
        computing.set()
        may_end.wait()
        return 1

computing, may_end = threading.Event(), threading.Event()
thread = threading.Thread(target=lambda: Slow().value)
thread.start()
computing.wait()
may_end.set() if (child := os.fork()) else None
if not child:
    may_end = threading.Event()
    may_end.set()
    os._exit(0 if Slow().value == 1 else 1)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

has_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def _run(code: str, folder: Path, *arguments: str) -> None:
    script = folder / "program.py"
    script.write_text(COMMON + code)
    env = os.environ | {"PYTHONPATH": str(Path(calotype.__file__).parents[1])}
    done = subprocess.run([sys.executable, str(script), *arguments], env=env, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()


def test_threads_share_a_model(tmp_path: Path) -> None:
    _run(THREADS, tmp_path)


def test_threads_share_an_archive(tmp_path: Path) -> None:
    _run(ARCHIVES, tmp_path, str(tmp_path))


@pytest.mark.parametrize("start", [pytest.param("fork", marks=has_fork), "spawn"])
def test_processes(tmp_path: Path, start: str) -> None:
    _run(PROCESSES, tmp_path, start)


@has_fork
def test_forks_while_threads_are_at_work(tmp_path: Path) -> None:
    _run(FORKS_AT_WORK, tmp_path)


@has_fork
def test_a_fork_while_a_property_is_computed(tmp_path: Path) -> None:
    _run(LAZY_FORK, tmp_path)

"""Tasks side by side."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

MOST_TASKS = 4
"""So many tasks at a time, for each may hold some 100 MB. On twice as many cores and more, each works on several."""

_most: int | None = None
_task = threading.local()


def limit(most: int) -> None:
    """Let this process work on so many threads at most; for worker processes, which share the cores among them."""
    global _most
    _most = most


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return count if _most is None else min(count, _most)


def share() -> int:
    """The cores for one network that runs now: all of them, or what falls to the task that runs it."""
    count = cores()
    return min(count, getattr(_task, "share", count))


def _begin(count: int) -> None:
    _task.share = count


def workers(count: int) -> ThreadPoolExecutor:
    """So many threads, among which the cores are shared."""
    return ThreadPoolExecutor(count, initializer=_begin, initargs=(max(1, share() // count),))


class _Here(Executor):
    """Does each task as it is submitted, in the caller's own thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = Future[Any]()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def pool(tasks: int) -> Generator[Executor]:
    """Threads for so many tasks, which end with the block; what has not begun by then is dropped."""
    threads = min(tasks, share(), MOST_TASKS)
    executor = workers(threads) if threads > 1 else _Here()
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)

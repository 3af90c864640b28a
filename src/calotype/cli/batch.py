"""Many files, one after the other or side by side: a line each, a total, and an exit status."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import typer

from calotype.cli.console import complain, is_watched, say, shown, stderr, watched
from calotype.cli.files import Job, Plan
from calotype.errors import OptionError
from calotype.threads import workers


@dataclass(frozen=True)
class Made:
    """What a job made.

    Attributes:
        file_bytes: Size of the file.
        pixels: Size of the picture.
        seconds: How long the codec took.
        notes: What else there is to say.
    """

    file_bytes: int
    pixels: int
    seconds: float
    notes: tuple[str, ...] = ()


Outcome = Made | BaseException | None
"""What a job made, why it failed, or None if it was done before."""
Work = Callable[[Job], Made | None]


def run(
    plan: Plan,
    work: Callable[[Job], Made],
    *,
    threads: int,
    quiet: bool,
    is_done: Callable[[Job], bool] | None = None,
) -> None:
    """Do the work of every job and report it on stderr. A job that fails does not stop the others.

    Args:
        plan: The jobs.
        work: Does one.
        threads: How many at a time.
        quiet: Whether to report errors only.
        is_done: Whether a job was done before and is left out; none is if not given.

    Raises:
        typer.Exit: With status 1 if any job failed, or a folder could not be read.
    """
    start = perf_counter()
    done: list[Made] = []
    failed = done_before = 0
    for error in plan.unread:
        complain(str(error.filename), error)
    for job, outcome in _progress(plan.jobs, _outcomes(plan.jobs, _unless(is_done, work), threads), quiet):
        if isinstance(outcome, BaseException):
            complain(shown(job.source), outcome)
            failed += 1
        elif outcome is None:
            done_before += 1
        else:
            done.append(outcome)
            if not quiet:
                say(f"{shown(job.source)} -> {shown(job.target, 'stdout')}  {_facts(outcome)}")
    failed += len(plan.unread)
    if not quiet and (len(plan.jobs) != 1 or plan.skipped or plan.unread or done_before):
        counts = {"done before": done_before, "failed": failed, "other files skipped": plan.skipped}
        say(_total(done, counts, perf_counter() - start))
    if failed:
        raise typer.Exit(1)


def _unless(is_done: Callable[[Job], bool] | None, work: Work) -> Work:
    """The work, but None for a job that was done before."""
    if is_done is None:
        return work
    return lambda job: None if is_done(job) else work(job)


def _outcomes(jobs: list[Job], work: Work, threads: int) -> Iterator[tuple[Job, Outcome]]:
    """Each job with what it made or why it failed, in order."""
    claimed: dict[Path, Job] = {}
    rivals = [None if job.target is None else claimed.setdefault(job.target.absolute(), job) for job in jobs]

    def attempt(job: Job, first: Job | None) -> Outcome:
        if first is not None and first is not job:
            rival = f"{shown(job.target)} is the output of {shown(first.source)} already"
            return FileExistsError(f"{rival}: do this one by itself, with a name after -o")
        try:
            return work(job)
        except (BrokenPipeError, OptionError):  # these would come again with every file
            raise
        except Exception as error:  # not even a mistake in the program ends a batch
            return error

    threads = min(threads, len(jobs))
    if threads <= 1:
        yield from zip(jobs, map(attempt, jobs, rivals), strict=True)
        return
    pool = workers(threads)
    try:
        yield from zip(jobs, pool.map(attempt, jobs, rivals), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _progress(jobs: list[Job], outcomes: Iterator[tuple[Job, Outcome]], quiet: bool) -> Iterator[tuple[Job, Outcome]]:
    """The same outcomes, with a bar (of one: a spinner) while they come if a person watches."""
    if len(jobs) == 1 and is_watched() and not quiet:
        with stderr().status(shown(jobs[0].source)):
            yield from outcomes
    else:
        yield from watched(outcomes, len(jobs), quiet=quiet)


def _facts(made: Made) -> str:
    rate = f"{made.file_bytes:,} bytes  {8 * made.file_bytes / made.pixels:.3f} bpp"
    speed = made.pixels / 1e6 / max(made.seconds, 1e-9)
    return "  ".join([rate, f"{speed:.{1 if speed >= 1 else 2}f} MP/s", *made.notes])


def _total(done: list[Made], counts: dict[str, int], seconds: float) -> str:
    total = f"{len(done)} file{'s' * (len(done) != 1)}"
    if done:
        total += f"  {_facts(Made(sum(m.file_bytes for m in done), sum(m.pixels for m in done), seconds))}"
    return "  ".join([total, *(f"{count} {name}" for name, count in counts.items() if count)])

"""Work spread over child processes that never outlive their parent, and what this machine has for it.

Tasks and results are pickled; the function must be importable. A task that raises ends the whole piece of work
with that error; Ctrl-C and a killed parent end the children.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mww_ha.errors import ToolError

Result = TypeVar("Result")


def count_processes(wanted: int = 0) -> int:
    """``wanted``, or as many as this process may use cores."""
    if wanted > 0:
        return wanted
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int | None:
    """Memory and swap in bytes that programs can still get; None where the system does not tell."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    rows = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    if "MemAvailable" not in rows:
        return None
    return (int(rows["MemAvailable"]) + int(rows.get("SwapFree", 0))) * 1024


def follow_parent() -> None:
    """Ends this child process when its parent is gone, however the parent died; leaves Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


_failure: Exception | None = None
"""What went wrong in this worker before its first task: a pool would only say that a process is gone."""


def _start(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    global _failure  # noqa: PLW0603  one per worker process, set once
    follow_parent()
    try:
        if prepare is not None:
            prepare(*arguments)
    except Exception as error:  # noqa: BLE001  the first task raises it in the parent
        _failure = error


def _work(function: Callable[..., Result], task: tuple[Any, ...]) -> Result:
    if _failure is not None:
        raise _failure
    return function(*task)


def run_tasks(
    function: Callable[..., Result],
    tasks: Iterable[tuple[Any, ...]],
    *,
    processes: int,
    prepare: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """``function(*task)`` for every task, results in order of completion; one process runs them right here.

    ``prepare(*arguments)`` runs once in every process before its first task. Raises what it or a task raises, and
    ToolError when a process is killed (out of memory).
    """
    tasks = list(tasks)
    if processes <= 1 or len(tasks) <= 1:
        if prepare is not None:
            prepare(*arguments)
        for task in tasks:
            yield function(*task)
        return
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(tasks)), mp_context=context, initializer=_start, initargs=(prepare, arguments)
    )
    try:
        waiting = [pool.submit(_work, function, task) for task in tasks]
        for future in concurrent.futures.as_completed(waiting):
            yield future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise ToolError(
            "a worker process was killed",
            hint="most likely out of memory: close other programs, or use fewer processes",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

"""A command on a leash: it ends when whoever holds the leash lets go or dies, and leaves no process behind.

Run as a script, without mww_ha: ``python -I -S leash.py GRACE_S LOCK -- COMMAND ...``. The holder keeps the other end
of standard input; when that closes (on purpose, or because a killed holder has no open files), the command's process
group gets SIGINT, and SIGKILL after ``GRACE_S`` seconds. Whatever the command started in sessions of its own is killed
after it. The exit code is the command's, 128 + N for one that was ended by signal N.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def run(command: list[str], grace_s: float, lock: int = -1) -> int:
    """Runs ``command`` until it ends or standard input does. Returns its exit code, 128 + N for signal N.

    ``lock`` is a handle that the holder passed: held for as long as this process lives, and not handed on.
    """
    linux = sys.platform == "linux"
    control = ctypes.CDLL(None, use_errno=True).prctl if linux else None
    if control is not None:
        control(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what loses its parent becomes a child of ours

    ignored = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def follow() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)
        if control is not None:
            control(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # for the case that this very process is killed

    if lock >= 0:
        os.set_inheritable(lock, False)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, ignored)  # or one that comes before they are ignored ends the leash
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=follow,  # noqa: PLW1509  this process has one thread: nothing is locked between fork and exec
    )
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)  # after the start: what is ignored is inherited
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)
    watched, deadline = [0, wake_read], float("inf")
    while child.poll() is None:
        left = deadline - time.monotonic()
        if left <= 0:
            _signal_group(child.pid, signal.SIGKILL)
            deadline = float("inf")
            continue
        ready, _, _ = select.select(watched, [], [], min(left, 5.0))
        if wake_read in ready:
            os.read(wake_read, 4096)
        if 0 in ready and not os.read(0, 4096):
            watched.remove(0)
            deadline = time.monotonic() + grace_s
            _signal_group(child.pid, signal.SIGINT)
    _signal_group(child.pid, signal.SIGKILL)
    _end_orphans()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _end_orphans() -> None:
    """Kills what the command left behind. Only Linux hands such processes to us."""
    for _ in range(200):  # killing one may hand us its children
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        orphans = _children()
        if not orphans:
            return
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(orphan, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # "pid (name) state ppid ...": a name may hold blanks and brackets
            if int(status.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(status.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(run(sys.argv[4:], float(sys.argv[1]), int(sys.argv[2])))

"""The queue: stages and commands as child processes, one heavy one at a time.

Each job is ``python -m mww_ha ... --json`` on a leash (leash.py), watched by a thread that reads what it says, writes
it to the job's log and notes how it ended. The queue is kept in State: what is queued stays queued over a restart;
what ran when the service died is marked interrupted and can be asked for again: the stages go on where they stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import mww_ha
from mww_ha.errors import InputError, MwwError, StorageError
from mww_ha.schema import Progress
from mww_ha.store import Project
from mww_ha.web.joblog import JobLog, Reader
from mww_ha.web.orders import KINDS, Order
from mww_ha.web.state import FINISHED, Row, State
from mww_ha.web.wire import plain, read

_LOG = logging.getLogger(__name__)

HEAVY_AT_ONCE = 1
LIGHT_AT_ONCE = 2
LONGEST_QUEUE = 50
FINISHED_KEPT = 200
GRACE_S = 20.0
PROGRESS_EVERY_S = 0.25
_LONGEST_LINE_BYTES = 1 << 20
_LEASH = Path(__file__).with_name("leash.py")

AGAIN = "queue it again: it goes on where it stopped"


class JobNotFoundError(InputError):
    """No job has that id, or it is too long ago."""


class QueueFullError(MwwError):
    """More is waiting than anybody will wait for."""


class JobStateError(MwwError):
    """What was asked for does not go with the state the job is in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One piece of work that was asked for."""

    id: str
    number: int  # place in the queue; never used again
    kind: str
    order: dict[str, Any]  # what was asked for
    heavy: bool
    state: str  # queued | running | done | failed | cancelled | interrupted
    stopping: bool  # it runs and was told to end
    queued_at: str  # ISO 8601, UTC
    started_at: str
    finished_at: str
    exit_code: int | None
    error: str  # class of the error
    message: str
    hint: str
    result: Any
    asked_by: str
    retry_of: str
    progress: Progress | None


@dataclass(slots=True)
class _Running:
    """What a running job's thread shares with the rest, behind the lock of Jobs."""

    order: Order
    hold: IO[bytes] | None = None  # the leash; closed: let go
    why: str = ""  # cancelled | interrupted: it was told to end
    progress: Progress | None = None


def mww_ha_command(order: Order, project: Project) -> list[str]:
    """The command line of a job."""
    common = ["--json", f"--project={project.root.resolve()}"]
    # -P: what lies in the project's folder is the user's, not a module of ours.
    return [sys.executable, "-P", "-m", "mww_ha", *common, *order.arguments(project)]


class Jobs:
    """The queue of one service. All methods may block: call them from threads.

    ``notify(job, logged)`` hears of every change, from any thread: ``logged`` says that the job's log has more.
    ``command`` makes the command line of an order; it may raise what ``add`` then raises.
    """

    def __init__(
        self,
        state: State,
        folder: Path,
        open_project: Callable[[], contextlib.AbstractContextManager[Project]],
        *,
        notify: Callable[[Job, bool], None],
        command: Callable[[Order, Project], Sequence[str]] = mww_ha_command,
        grace_s: float = GRACE_S,
    ) -> None:
        self.folder = folder
        self._state = state
        self._open_project = open_project
        self._notify = notify
        self._command = command
        self._grace_s = grace_s
        self._lock = threading.RLock()
        self._running: dict[str, _Running] = {}
        self._threads: list[threading.Thread] = []
        self._open = False
        self._ready = False
        self._ended = threading.Event()
        self._lock_file: IO[bytes] | None = None
        self._starter: threading.Thread | None = None

    # --- the life of the queue ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Opens the queue: marks what died with the last service, and goes on with what is queued.

        The first job waits for children of a killed service that are still ending.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for row in self._state.jobs("running"):
            self._finish(row.id, "interrupted", message="the service ended while this ran", hint=AGAIN)
        self._remove_old()
        self._lock_file = (self.folder / "leashed.lock").open("ab")
        with self._lock:
            self._open = True
        self._starter = threading.Thread(target=self._wait_for_leftovers, name="leftovers", daemon=True)
        self._starter.start()

    def _wait_for_leftovers(self) -> None:
        """Every leash holds the lock for as long as it lives, even when the service that started it is dead."""
        assert self._lock_file is not None
        while not self._ended.is_set():
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._ended.wait(0.1)
                continue
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)
            with self._lock:
                self._ready = True
            self._start_waiting()
            return

    def close(self) -> None:
        """Ends what runs (marked interrupted), starts nothing more. What is queued stays queued."""
        self._ended.set()
        with self._lock:
            self._open = False
            for running in self._running.values():
                self._let_go(running, "interrupted")
        if self._starter is not None:
            self._starter.join()
        for thread in self._threads:  # nobody adds to them any more; one may be past its job and still telling of it
            thread.join()
        if self._lock_file is not None:
            self._lock_file.close()

    # --- asking -------------------------------------------------------------------------------------------------------

    def add(self, order: Order, *, asked_by: str = "", retry_of: str = "") -> Job:
        """Queues ``order``; what is queued already in the same words is not queued twice.

        Raises InputError when it names something that is not there, QueueFullError, StorageError.
        """
        with self._open_project() as project:
            self._command(order, project)  # a job that cannot start is refused now and not in an hour
            root = str(project.root)
        document = plain(order)
        with self._lock:
            queued = self._state.jobs("queued")
            for row in queued:
                if row.orders == document and row.project == root:
                    return self._job(row)
            if len(queued) >= LONGEST_QUEUE:
                raise QueueFullError(f"{len(queued)} jobs are waiting", hint="cancel some, or wait until one has ended")
            id = secrets.token_hex(6)
            self._state.add_job(id, root, document, asked_by, retry_of)
        self._changed(id)
        self._start_waiting()
        return self.get(id)

    def retry(self, id: str, *, asked_by: str = "") -> Job:
        """Queues again what ended badly. Raises JobNotFoundError, JobStateError and what ``add`` raises."""
        row = self._row(id)
        if row.state not in FINISHED:
            raise JobStateError(f"the job {id} is {row.state}", hint="only what has ended can be queued again")
        return self.add(read_order(row.orders), asked_by=asked_by, retry_of=id)

    def cancel(self, id: str) -> Job:
        """Takes a job out of the queue, or tells it to end: SIGINT now, SIGKILL after the grace time.

        Raises JobNotFoundError, JobStateError when it has ended already.
        """
        with self._lock:
            row = self._row(id)
            if row.state in FINISHED:
                raise JobStateError(f"the job {id} is {row.state} already", hint="there is nothing to cancel")
            running = self._running.get(id)
            if running is None:
                self._finish(id, "cancelled", message="cancelled before it began")
            else:
                self._let_go(running, "cancelled")
            self._changed(id)
            return self.get(id)

    def remove(self, id: str) -> None:
        """Forgets a job that has ended, with its log. Raises JobNotFoundError, JobStateError."""
        row = self._row(id)
        if row.state not in FINISHED:
            raise JobStateError(f"the job {id} is {row.state}", hint="cancel it first")
        self._forget([id])

    def get(self, id: str) -> Job:
        """The job of that id. Raises JobNotFoundError."""
        return self._job(self._row(id))

    def list(self, *states: str, limit: int = 100) -> list[Job]:
        """Jobs in these states (or any), newest first."""
        return [self._job(row) for row in reversed(self._state.jobs(*states, limit=limit))]

    def reader(self, id: str, after: int = 0) -> Reader:
        """Reads the job's log from behind line ``after`` on. Raises JobNotFoundError."""
        return Reader(self.folder / self._row(id).id, after)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _row(self, id: str) -> Row:
        row = self._state.job(id)
        if row is None:
            raise JobNotFoundError(f"no job is called {id}", hint="it may be too long ago; see the list of jobs")
        return row

    def _job(self, row: Row) -> Job:
        running = self._running.get(row.id)
        if row.state == "running" and running is None:
            # It ended since the row was read, or its end could not be written, on a full disk.
            row = self._state.job(row.id) or row
        if row.state != "running":
            running = None
        order = row.orders
        return Job(
            id=row.id,
            number=row.number,
            kind=str(order["kind"]),
            order=order,
            heavy=KINDS[order["kind"]].heavy,
            state="interrupted" if row.state == "running" and running is None else row.state,
            stopping=running is not None and bool(running.why),
            queued_at=row.queued_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            exit_code=row.exit_code,
            error=row.error,
            message=row.message,
            hint=row.hint,
            result=row.result,
            asked_by=row.asked_by,
            retry_of=row.retry_of,
            progress=running.progress if running is not None else None,
        )

    def _changed(self, id: str, *, logged: bool = False) -> None:
        # Under the lock: what is told later is never older.
        with self._lock, contextlib.suppress(JobNotFoundError):
            self._notify(self.get(id), logged)

    def _finish(self, id: str, state: str, **outcome: Any) -> None:
        """The log's last line first: whoever sees that the job has ended finds it there."""
        log = JobLog(self.folder / id)
        with contextlib.suppress(StorageError):  # a full disk must not keep a job from ending
            log.append("state", {"state": state, **{k: v for k, v in outcome.items() if k != "result"}})
        log.close()
        self._state.finish_job(id, state, **outcome)

    def _remove_old(self) -> None:
        finished = self._state.jobs(*FINISHED, limit=100_000)
        self._forget([row.id for row in finished[:-FINISHED_KEPT]])

    def _forget(self, ids: Sequence[str]) -> None:
        self._state.remove_jobs(list(ids))
        for id in ids:
            shutil.rmtree(self.folder / id, ignore_errors=True)

    @staticmethod
    def _let_go(running: _Running, why: str) -> None:
        running.why = running.why or why
        if running.hold is not None:
            with contextlib.suppress(OSError):
                running.hold.close()

    def _start_waiting(self) -> None:
        """Starts what may run now."""
        with self._lock:
            if not (self._open and self._ready):
                return
            for row in self._state.jobs("queued"):
                try:
                    order = read_order(row.orders)
                except InputError as error:  # queued by a version that knew other kinds
                    self._finish(row.id, "failed", error="InputError", message=error.message, hint=error.hint)
                    continue
                if not self._may_start(order):
                    continue
                self._running[row.id] = _Running(order=order)
                try:
                    self._state.start_job(row.id)  # second: whose row says that it runs is found among the running
                except BaseException:
                    del self._running[row.id]
                    raise
                thread = threading.Thread(target=self._watch, args=(row,), name=f"job {row.id}", daemon=True)
                self._threads = [*(other for other in self._threads if other.is_alive()), thread]
                thread.start()

    def _may_start(self, order: Order) -> bool:
        orders = [running.order for running in self._running.values()]
        same_weight = sum(other.heavy == order.heavy for other in orders)
        if same_weight >= (HEAVY_AT_ONCE if order.heavy else LIGHT_AT_ONCE):
            return False
        return not order.touches or all(other.touches != order.touches for other in orders)

    def _watch(self, row: Row) -> None:
        """The thread of one job, from its start to its last word."""
        log = JobLog(self.folder / row.id)
        heard = _Heard()
        outcome: dict[str, Any]
        try:
            log.append("state", {"state": "running"})
            self._changed(row.id, logged=True)
            with self._open_project() as project:
                command = list(self._command(self._running[row.id].order, project))
                root = project.root
            code = self._run_child(row.id, command, root, log, heard)
            outcome = _outcome(code, heard)
        except MwwError as error:
            outcome = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
            outcome |= {"state": "failed", "exit_code": error.exit_code}
        except OSError as error:
            outcome = {"state": "failed", "error": "OSError", "message": f"it could not be started: {error.strerror}"}
        except Exception as error:  # noqa: BLE001 - whatever it is, the next job has to start
            _LOG.exception("the job %s ended in a way that nobody thought of", row.id)
            outcome = {"state": "failed", "error": type(error).__name__, "message": f"unexpected: {error}"}
        finally:
            log.close()
        with self._lock:
            running = self._running[row.id]
            if running.why and outcome["state"] != "done":
                outcome |= {"state": running.why, "error": "", "message": "stopped", "hint": AGAIN}
            with contextlib.suppress(StorageError):
                self._finish(row.id, outcome.pop("state"), **outcome)
            del self._running[row.id]
        self._changed(row.id, logged=True)
        with contextlib.suppress(StorageError):
            self._remove_old()
        self._start_waiting()

    def _run_child(self, id: str, command: Sequence[str], folder: Path, log: JobLog, heard: _Heard) -> int:
        """Runs the command on its leash and passes on what it says. Returns its exit code."""
        with (self.folder / "leashed.lock").open("ab") as lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_SH)
            leash = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LEASH), str(self._grace_s), str(lock_file.fileno()), "--", *command],
                cwd=folder,
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=(lock_file.fileno(),),
            )
        with leash:
            with self._lock:
                running = self._running[id]
                running.hold = leash.stdin
                if running.why:  # told to end while it started
                    self._let_go(running, running.why)
            try:
                for stream, line in _lines(leash, lambda: bool(running.why), self._grace_s + 10):
                    if heard.hear(stream, line, log):
                        running.progress = heard.progress
                        self._changed(id, logged=True)
            finally:
                self._let_go(running, running.why)
                if leash.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        leash.wait(self._grace_s + 10)
                if leash.poll() is None:
                    os.killpg(leash.pid, signal.SIGKILL)
            return leash.wait()


def read_order(document: dict[str, Any]) -> Order:
    """The order that ``plain`` made ``document`` of. Raises InputError."""
    kind = KINDS.get(str(document.get("kind")))
    if kind is None:
        raise InputError(f"no job is of the kind {document.get('kind')!r}", hint="known kinds: " + ", ".join(KINDS))
    order: Order = read(document, kind, "the job")
    return order


def _environment() -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    parent = Path(mww_ha.__file__).resolve().parents[1]
    if parent not in (Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")):
        # A checkout: how this process found it (the current folder, a relative path) need not work for the child.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(parent), environment.get("PYTHONPATH", ""))))
    return environment


def _lines(
    child: subprocess.Popen[bytes], is_stopped: Callable[[], bool], patience_s: float
) -> Iterator[tuple[str, str]]:
    """What the child says, line by line with the stream's name, until both streams end; ("", "") four times a second.

    A child that was told to end and still holds its streams after ``patience_s`` is killed with its leash.
    """
    assert child.stdout is not None
    assert child.stderr is not None
    rest = {"out": b"", "err": b""}
    deadline: float | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ, "out")
        selector.register(child.stderr, selectors.EVENT_READ, "err")
        while selector.get_map():
            for key, _ in selector.select(timeout=PROGRESS_EVERY_S):
                name = str(key.data)
                chunk = os.read(key.fd, 65536)
                *whole, rest[name] = (rest[name] + chunk).split(b"\n")
                if not chunk or len(rest[name]) > _LONGEST_LINE_BYTES:
                    whole, rest[name] = [*whole, rest[name]], b""
                if not chunk:
                    selector.unregister(key.fileobj)
                yield from ((name, line.decode("utf-8", "replace")) for line in whole if line.strip())
            yield "", ""
            if is_stopped():
                deadline = deadline or time.monotonic() + patience_s
                if time.monotonic() > deadline:
                    os.killpg(child.pid, signal.SIGKILL)
                    return


class _Heard:
    """What a child said so far, as far as it matters at its end; and how often its progress is passed on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.progress: Progress | None = None
        self.result: Any = None
        self.error: dict[str, Any] = {}
        self.last_words: list[str] = []
        self._clock = clock
        self._told: Progress | None = None
        self._told_at = 0.0

    def hear(self, stream: str, line: str, log: JobLog) -> bool:
        """Takes in one line, ("", "") for a moment of silence. Returns whether there is something new to tell."""
        if not stream:
            return self._tell_progress(log)
        document = _parse(line) if stream == "out" else None
        if document is None:
            text = "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line.rstrip())
            self.last_words = [*self.last_words[-9:], text[:300]]
            log.append("log", {"stream": stream, "text": text})
            return True
        if document["type"] == "progress":
            try:
                del document["type"]
                # a float may be written as a whole number
                document |= {key: float(document[key]) for key in ("done", "total") if key in document}
                self.progress = read(document, Progress, "progress")
            except (InputError, TypeError, ValueError):
                log.append("log", {"stream": stream, "text": line[:1000]})
                return True
            return self._tell_progress(log)
        self._tell_progress(log, now=True)
        if document["type"] == "result":
            self.result = document.get("result")
            log.append("result", {"result": self.result})
        else:
            self.error = {key: str(document.get(key, "")) for key in ("error", "message", "hint")}
            log.append("error", dict(self.error))
        return True

    def _tell_progress(self, log: JobLog, *, now: bool = False) -> bool:
        """Writes the newest progress to the log: at once where something begins or ends, else a few times a second."""
        new, old = self.progress, self._told
        if new is None or new == old:
            return False
        ended = bool(new.total) and new.done >= new.total
        begins = old is None or (old.stage, old.total, old.unit) != (new.stage, new.total, new.unit)
        is_note = not (new.total or new.done or new.unit)
        if not (now or ended or begins or is_note) and self._clock() - self._told_at < PROGRESS_EVERY_S:
            return False
        self._told, self._told_at = new, self._clock()
        log.append("progress", dataclasses.asdict(new))
        return True


def _parse(line: str) -> dict[str, Any] | None:
    """One of the lines that ``--json`` promises, None for anything else."""
    if not line.startswith("{"):
        return None
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and document.get("type") in ("progress", "result", "error") else None


def _outcome(code: int, heard: _Heard) -> dict[str, Any]:
    """How a job ended, by its exit code and its last words."""
    if code == 0:
        return {"state": "done", "exit_code": 0, "result": heard.result}
    if heard.error:
        return {"state": "failed", "exit_code": code, "result": heard.result, **heard.error}
    if code == 128 + signal.SIGKILL:
        killed = {"error": "Killed", "message": "the system killed it"}
        hint = "most likely the memory was full: close other programs, or ask for less"
        return {"state": "failed", "exit_code": code, **killed, "hint": hint}
    said = "; ".join(heard.last_words[-3:]) or "it said nothing"
    message = f"it ended with exit code {code}: {said}"
    return {"state": "failed", "exit_code": code, "error": "ToolError", "message": message, "hint": "see its log"}

"""The core both sites share: the project, the queue, and what happened."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from mww_ha.errors import ProjectError
from mww_ha.schema import Capture
from mww_ha.store import CATALOGUE_FILE, PROJECT_FILE, Project, open_project, storage_errors
from mww_ha.web import jobs as queue
from mww_ha.web.access import Access
from mww_ha.web.events import HEARTBEAT_S, Batch, Event, Ring, Signal
from mww_ha.web.joblog import Line
from mww_ha.web.jobs import Job, Jobs
from mww_ha.web.state import FINISHED, State
from mww_ha.web.wire import plain

if TYPE_CHECKING:
    from mww_ha.capture.receive import Intake
    from mww_ha.web.devices import Lookout
    from mww_ha.web.keeper import Keeper
    from mww_ha.web.link import Link
    from mww_ha.web.recorder import Recorder
    from mww_ha.web.schedule import Schedule

Result = TypeVar("Result")

STATE_DIR = "service"
ANSWER_S = 10.0
"""How long an answer that took long is good: what it does not see, such as a new voice, comes to it with time."""

_LINES_AT_ONCE = 200


class Service:
    """One project's service. ``start`` and ``stop`` are the only order; everything between is for the event loop."""

    def __init__(
        self,
        root: Path,
        state: State,
        access: Access,
        *,
        command: Callable[..., list[str]] = queue.mww_ha_command,
        grace_s: float = queue.GRACE_S,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self.root = root
        self.access = access
        self.heartbeat_s = heartbeat_s
        self.ring = Ring()
        self.stopping = asyncio.Event()
        self.rooms: dict[str, str] = {}  # device → room, as Home Assistant says
        self.listeners = 0  # microphones that are heard
        self.hearing = asyncio.Lock()  # held while a file is heard
        self.keeper: Keeper | None = None
        self.link: Link | None = None
        self.schedule: Schedule | None = None
        self.recorder: Recorder | None = None
        self.intake: Intake | None = None
        self.lookout: Lookout | None = None
        self._hearers: list[Callable[[str, Any], None]] = []
        self.jobs = Jobs(
            state, state.path.parent / "jobs", self.project, notify=self._hear, command=command, grace_s=grace_s
        )
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._signals: weakref.WeakValueDictionary[str, Signal] = weakref.WeakValueDictionary()
        self._answers: dict[object, tuple[object, float, object]] = {}
        self._locks: dict[object, asyncio.Lock] = {}
        # Its own threads: slow looks at a project must not keep files from being sent.
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="service")

    async def start(self) -> None:
        """Opens the queue."""
        await self.run(self.jobs.start)

    async def stop(self) -> None:
        """Ends the streams of events, then what runs."""
        self.stopping.set()
        await self.run(self.jobs.close)
        await self.run(self._state.close)
        self._threads.shutdown(wait=False)  # nothing is asked any more; waiting would hold up the loop

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """``function(*arguments)``, which may block, in a thread."""
        return await self._loop.run_in_executor(self._threads, lambda: function(*arguments))

    async def ask(self, function: Callable[[Project], Result]) -> Result:
        """``function`` of the project, in a thread that has opened the catalogue for itself."""
        return await self.run(self._ask, function)

    async def ask_once(self, function: Callable[[Project], Result]) -> Result:
        """As ``ask``, for what takes long: the last answer, while it is young and the project's files are the same."""
        key = await self.run(self._fingerprint)
        async with self.lock(function):
            known = self._answers.get(function)
            if known is not None and known[0] == key and self._loop.time() - known[1] < ANSWER_S:
                return cast("Result", known[2])
            began = self._loop.time()
            answer = await self.ask(function)
            self._answers[function] = (key, began, answer)
            return answer

    def lock(self, what: object) -> asyncio.Lock:
        """One at a time of ``what``. From the event loop."""
        return self._locks.setdefault(what, asyncio.Lock())

    def _fingerprint(self) -> tuple[object, ...]:
        """Changes with every change of the settings and of the catalogue."""
        found = list[object]()
        for name in (PROJECT_FILE, CATALOGUE_FILE, f"{CATALOGUE_FILE}-wal"):
            with contextlib.suppress(FileNotFoundError):
                status = (self.root / name).stat()
                found += [name, status.st_mtime_ns, status.st_size]
        return tuple(found)

    def _ask(self, function: Callable[[Project], Result]) -> Result:
        with self.project() as project:
            return function(project)

    @contextlib.contextmanager
    def project(self) -> Iterator[Project]:
        """The project, opened for this thread; its settings are read anew each time. Blocks."""
        project = open_project(self.root)
        try:
            yield project
        finally:
            project.catalogue.close()

    # --- what happens -------------------------------------------------------------------------------------------------

    def _hear(self, job: Job, logged: bool) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._tell, job, logged)

    def _tell(self, job: Job, logged: bool) -> None:
        self.tell("job", plain(job))
        signal = self._signals.get(job.id)
        if logged and signal is not None:
            signal.wake()

    def hear_capture(self, capture: Capture) -> None:
        """A satellite sent something new. From the event loop."""
        self.tell("capture", {"id": capture.id, "device": capture.device, "kind": str(capture.kind)})

    def tell(self, type: str, data: Any) -> None:
        """Tells all who watch, and the parts of the service that want to know. From the event loop."""
        self.ring.append(type, data)
        for hearer in self._hearers:
            hearer(type, data)

    def listen(self, hearer: Callable[[str, Any], None]) -> None:
        """``hearer`` is called with type and data of all that is told; it must be quick and must not raise."""
        self._hearers.append(hearer)

    def job_signal(self, id: str) -> Signal:
        """Wakes when the job's log has more. Lives as long as somebody holds it."""
        signal = self._signals.get(id)
        if signal is None:
            signal = self._signals[id] = Signal()
        return signal

    async def read_job_events(self, id: str, after: int) -> Callable[[], Awaitable[Batch]]:
        """Reads the job's log as events, from behind line ``after`` on. Raises JobNotFoundError."""
        reader = await self.run(self.jobs.reader, id, after)

        def look() -> Batch:
            ended = self.jobs.get(id).state in FINISHED  # asked first: its last line is written before its state
            before = reader.after
            lines = reader.read(_LINES_AT_ONCE)
            events = [_event(line) for line in lines]
            if lines and lines[0].id > before + 1:
                lost = {"from": before + 1, "to": lines[0].id - 1}  # the log is bounded: its oldest lines are gone
                events.insert(0, Event(id="", type="gap", data=lost))
            return Batch(events=events, ended=ended and len(lines) < _LINES_AT_ONCE)

        async def read() -> Batch:
            return await self.run(look)

        return read


def _event(line: Line) -> Event:
    return Event(id=str(line.id), type=line.type, data={"at": line.at, **line.data})


class StateFolder:
    """The service's own folder, held by one service at a time. Blocks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[bytes] | None = None

    def open(self) -> State:
        """Takes the folder and opens what is in it. Raises ProjectError when another service holds it, StorageError."""
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (self.folder / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ProjectError(
                f"{self.folder} is in use by another mww-ha serve", hint="stop that one, or open its page"
            ) from None
        self._lock = lock
        return State(self.folder / "service.sqlite")

    def close(self) -> None:
        """Lets the next one in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

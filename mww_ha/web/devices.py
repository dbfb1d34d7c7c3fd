"""What the page API answers about satellites: those of devices.yaml, those on the network, and what each one says.

What a satellite says is asked for, never polled: one question at a time for each, however many pages want to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib
import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from mww_ha.capture.review import find_waiting
from mww_ha.deploy import boards, flash, owned, preflight
from mww_ha.deploy.local import LocalEsphome
from mww_ha.deploy.owned import SECRET_NAMES
from mww_ha.deploy.render import API_KEY
from mww_ha.devices import known, network
from mww_ha.devices.connection import Connection, Value
from mww_ha.errors import DataError, DeviceError, InputError, MwwError
from mww_ha.schema import Device, Flash
from mww_ha.store import Project, now
from mww_ha.web.jobs import JobStateError
from mww_ha.web.link import CAPTURE_SWITCH
from mww_ha.web.openapi import Call, NotFoundError, Route
from mww_ha.web.orders import Backend, DeviceName, SerialPort
from mww_ha.web.recording import UPLOAD_PATH
from mww_ha.web.service import Service
from mww_ha.web.wire import Number, Text

ASK_S = 6.0
"""How long a satellite may take to answer."""

SCAN_S = 3.0
"""How long announcements are listened to."""

CAPTURE_HOURS = "capture_for"
"""Object id of the number in capture.yaml that says for how long the switch turns on."""

_AT_ONCE = 12

Limit = Annotated[int, Number(least=1, most=1000)]
Line = Annotated[str, Text(longest=120)]
Path = Annotated[str, Text(longest=200)]
Port = Annotated[int, Number(least=1, most=65535)]
Hours = Annotated[int, Number(least=1, most=336)]
BoardId = Annotated[str, Text(pattern="[a-z0-9][a-z0-9._-]{0,63}", longest=64)]
SecretName = Annotated[str, Text(pattern="([A-Za-z_][A-Za-z0-9_-]{0,39})?", longest=40)]
Variable = Annotated[str, Text(pattern="[A-Za-z_][A-Za-z0-9_]{0,63}", longest=64)]

# --- what is told ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """A satellite of devices.yaml, and what the project knows of it without asking it."""

    device: Device
    room: str  # as devices.yaml says, else as Home Assistant does; empty: not known
    verified: Flash | None  # the newest attempt that put a model on it
    newest: Flash | None  # the newest attempt, however it ended
    earlier: str  # the model that a rollback goes to; empty: there is none
    new_model: str  # a newer model that is offered and never ran there; empty: there is none
    waiting: int  # captures that wait for a person


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCapture:
    """What the capture component of a satellite says. Counts are null where it says nothing."""

    on: bool
    state: str  # off | idle | recording | sending | waiting | ... see the component's README
    hours: float | None  # for how long it turns on
    hours_left: float | None
    detections: float | None
    near_misses: float | None
    canary_detections: float | None
    queue: float | None
    dropped: float | None
    listening_hours: float | None
    last_upload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveDevice:
    """What a satellite says of itself just now, over its native API; ``message`` and ``hint`` where it does not."""

    name: str
    asked_at: str
    address: str
    reachable: bool = False
    error: str = ""  # class of the error
    message: str = ""
    hint: str = ""
    told_name: str = ""
    esphome_version: str = ""
    build_time: str = ""
    wake_model: str = ""
    board: str = ""
    mac: str = ""
    capture: LiveCapture | None = None  # null: its firmware cannot capture, or it was not reached


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDevice:
    """A device that announces itself; texts are its own, cleaned."""

    name: str
    friendly_name: str
    address: str
    port: int
    esphome_version: str
    board: str
    project_name: str
    encrypted: bool
    known: bool  # stands in devices.yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDevices:
    """The last look on the network."""

    scanning: bool
    at: str  # when it ended; empty: nobody has looked yet
    message: str  # why it found nothing, where it could not look
    hint: str
    devices: list[FoundDevice]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardView:
    """A kind of device."""

    id: str
    title: str
    hint: str
    complete: bool  # false: a package for a YAML that exists
    has_slot: bool  # near misses and canaries are possible
    minimum_esphome: str
    needs: list[str]  # substitutions that have to be given
    may_set: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialPortView:
    """A serial port of the machine that flashes."""

    path: SerialPort
    title: str  # as the device names itself; may be empty


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendView:
    """A way to flash; ``message`` and ``hint`` where something is missing."""

    name: Backend
    ready: bool
    message: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsView:
    """What is to be done with ESPHome's secrets.yaml: names only, never a value."""

    path: str
    exists: bool
    message: str  # why it cannot be read
    missing: list[str]
    unfilled: list[str]  # still as they were made: nobody wrote the Wi-Fi there


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """What there is to choose from for a satellite."""

    boards: list[BoardView]
    serial_ports: list[SerialPortView]
    backends: list[BackendView]
    capture_urls: list[str]  # where satellites reach this service, the likeliest first
    secrets: SecretsView


# --- known -----------------------------------------------------------------------------------------------------------


async def get_devices(call: Call) -> list[DeviceState]:
    """The satellites of devices.yaml, and what each runs as far as is known."""
    rooms = dict(call.service.rooms)
    return await call.service.ask(partial(list_devices, rooms=rooms))


def list_devices(project: Project, rooms: dict[str, str] | None = None) -> list[DeviceState]:
    """Devices in the file's order. Raises ConfigError."""
    devices = known.load_devices(project)
    waiting = Counter(capture.device for capture in find_waiting(project))
    offered = [str(m["id"]) for m in project.catalogue.models() if m.get("offered", True) and not m.get("deleted")]
    return [
        _state(project, device, offered, device.room or (rooms or {}).get(device.name, ""), waiting[device.name])
        for device in devices.values()
    ]


def _state(project: Project, device: Device, offered: Sequence[str], room: str, waiting: int) -> DeviceState:
    flash.settle_interrupted(project, device.name)
    rows = project.catalogue.flashes(device.name)
    ran = {row.model for row in rows if row.outcome == "verified"}
    try:
        earlier = flash.earlier_flash(project, device.name).model
    except DataError:
        earlier = ""
    return DeviceState(
        device=device,
        room=room,
        verified=next((row for row in rows if row.outcome == "verified"), None),
        newest=rows[0] if rows else None,
        earlier=earlier,
        new_model=offered[0] if offered and offered[0] not in ran else "",
        waiting=waiting,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashesQuery:
    """Which flashes."""

    device: DeviceName | None = None
    limit: Limit = 100


async def get_flashes(call: Call, query: FlashesQuery) -> list[Flash]:
    """What was flashed, newest first."""
    return (await call.service.ask(lambda project: project.catalogue.flashes(query.device)))[: query.limit]


@dataclass(frozen=True, slots=True, kw_only=True)
class Substitution:
    """A substitution of the board's templates."""

    name: Variable
    value: Line


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEntry:
    """What stands in devices.yaml below a name."""

    template: BoardId
    address: Path = ""
    port: Port = network.API_PORT
    backend: Backend = "esphome"
    serial: SerialPort = ""
    api_key: SecretName = "mww_api_encryption_key"
    friendly_name: Line = ""
    yaml: Path = ""
    substitutions: list[Substitution] = dataclasses.field(default_factory=list)
    also: list[Path] = dataclasses.field(default_factory=list)
    vad: Path = ""
    capture_url: Path = ""
    near_miss: bool = False
    room: Line = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDevice:
    """A satellite to be noted in devices.yaml."""

    name: Line
    entry: DeviceEntry


async def add_device(call: Call, body: NewDevice) -> Device:
    """Note a satellite in devices.yaml. Nothing is sent to it."""
    await call.service.access.check_may_change(call.caller)

    def add(project: Project) -> Device:
        device = Device(name=known.clean_host_name(body.name), **_values(body.entry))
        known.add_device(project, device)
        return device

    device = await call.service.ask(add)
    call.service.tell("devices", {"name": device.name})
    return device


async def change_device(call: Call, name: DeviceName, body: DeviceEntry) -> Device:
    """Change what stands in devices.yaml; comments stay. It takes effect with the next flash."""
    await call.service.access.check_may_change(call.caller)

    def change(project: Project) -> Device:
        return known.update_device(project, _find(project, name).name, **_values(body))

    device = await call.service.ask(change)
    call.service.tell("devices", {"name": device.name})
    return device


def _values(entry: DeviceEntry) -> dict[str, Any]:
    """An entry as the fields of a Device. Raises InputError: unknown board, something lacks."""
    board = boards.find_board(entry.template)
    given = {one.name: one.value for one in entry.substitutions}
    boards.check_needs(board, given)
    values = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
    return {**values, "substitutions": given, "also": tuple(entry.also)}


async def remove_device(call: Call, name: DeviceName) -> Device:
    """Take a satellite out of devices.yaml, and return what it was. Its firmware, captures, history and files stay."""
    await call.service.access.check_may_change(call.caller)

    def remove(project: Project) -> Device:
        device = _find(project, name)
        for job in call.service.jobs.list("queued", "running"):
            if job.order.get("device") == device.name or job.order.get("every"):
                raise JobStateError(
                    f"{job.kind} is {job.state} for {device.name}", hint="wait until it has ended, or cancel it"
                )
        return known.remove_device(project, device.name)

    device = await call.service.ask(remove)
    call.service.tell("devices", {"name": device.name})
    return device


def _find(project: Project, name: str) -> Device:
    try:
        return known.find_device(project, name)
    except InputError as error:
        raise NotFoundError(error.message, hint=error.hint) from None


# --- live ------------------------------------------------------------------------------------------------------------


class Lookout:
    """Asks satellites and looks on the network, once at a time however many want to know.

    ``discover`` listens to announcements, see ``network.discover``. ``listening``: where the device site listens.
    """

    def __init__(
        self,
        service: Service,
        listening: Sequence[tuple[str, int]] = (),
        *,
        ask_s: float = ASK_S,
        discover: Callable[..., Awaitable[list[network.Found]]] = network.discover,
    ) -> None:
        self.listening = list(listening)
        self.discover = discover
        self._service = service
        self._ask_s = ask_s
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._asking: dict[str, asyncio.Task[LiveDevice]] = {}
        self._scan: asyncio.Task[None] | None = None
        self._found: list[network.Found] = []
        self._scanned_at, self._problem = "", ("", "")
        service.lookout = self

    async def stop(self) -> None:
        """Asks nobody any more."""
        tasks = [*self._asking.values(), *([self._scan] if self._scan else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self, name: str) -> LiveDevice:
        """What the satellite says now. Raises NotFoundError, ConfigError."""
        task = self._asking.get(name)
        if task is None:
            task = asyncio.create_task(self._ask(name))
            self._asking[name] = task
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        return await asyncio.shield(task)

    async def _ask(self, name: str) -> LiveDevice:
        device, key = await self._service.ask(partial(_prepare_to_ask, name=name))
        blank = LiveDevice(name=device.name, asked_at=now(), address=_address(device))
        if isinstance(key, MwwError):
            return _with_problem(blank, key)
        try:
            async with self._turns, await self._connect(device, key) as connection:
                return await _look(connection, blank)
        except DeviceError as error:
            return _with_problem(blank, error)

    async def capture(self, name: str, on: bool, hours: int) -> LiveDevice:
        """Turns capturing on for ``hours``, or off. Raises NotFoundError, ConfigError, InputError, DeviceError."""
        device, key = await self._service.ask(partial(_prepare_to_ask, name=name))
        if isinstance(key, MwwError):
            raise key
        blank = LiveDevice(name=device.name, asked_at=now(), address=_address(device))
        async with self._turns, await self._connect(device, key) as connection:
            there = {entity.object_id for entity in await connection.entities()}
            if CAPTURE_SWITCH not in there:
                raise InputError(
                    f"the firmware of {device.name} cannot capture",
                    hint="give it an address for captures (capture_url), then flash it",
                )
            if on and CAPTURE_HOURS in there:
                await connection.set_number(CAPTURE_HOURS, hours)
            await connection.switch(CAPTURE_SWITCH, on)
            await connection.wait_for(CAPTURE_SWITCH, lambda value: value is on)
            return await _look(connection, blank)

    async def _connect(self, device: Device, key: str) -> Connection:
        address = await self._service.run(partial(network.resolve, _address(device)))
        return Connection(address, port=device.port, api_key=key, timeout_s=self._ask_s)

    # --- on the network ---

    def look(self) -> None:
        """Begins to look on the network, unless somebody does already; the event "found" tells when it has ended."""
        if self._scan is None or self._scan.done():
            self._scan = asyncio.create_task(self._look())
            self._service.tell("found", {"scanning": True})

    async def _look(self) -> None:
        try:
            wanted = list(await self._service.ask(known.load_devices))
            self._found = await self._service.run(self._discover, wanted)
            self._problem = ("", "")
        except MwwError as error:
            self._found, self._problem = [], (error.message, error.hint)
        self._scanned_at = now()
        self._scan = None
        self._service.tell("found", {"scanning": False})

    def _discover(self, wanted: list[str]) -> list[network.Found]:
        """Blocks: zeroconf asks the system for its interfaces before it listens, so it gets a loop of its own."""
        importlib.import_module("zeroconf.asyncio")
        return asyncio.run(_until_done(self.discover(SCAN_S, wanted=wanted)))

    def found(self, names: set[str]) -> FoundDevices:
        """What the last look found. ``names``: those of devices.yaml."""
        message, hint = self._problem
        return FoundDevices(
            scanning=self._scan is not None and not self._scan.done(),
            at=self._scanned_at,
            message=message,
            hint=hint,
            devices=[
                FoundDevice(
                    name=one.name,
                    friendly_name=one.friendly_name,
                    address=one.address,
                    port=one.port,
                    esphome_version=one.esphome_version,
                    board=one.board,
                    project_name=one.project_name,
                    encrypted=one.encrypted,
                    known=one.name in names,
                )
                for one in self._found
            ],
        )


def _address(device: Device) -> str:
    return device.address or f"{device.name}.local"


async def _until_done(answer: Awaitable[list[network.Found]]) -> list[network.Found]:
    return await answer


def _prepare_to_ask(project: Project, name: str) -> tuple[Device, str | MwwError]:
    importlib.import_module("aioesphomeapi.client")  # takes its time
    device = _find(project, name)
    try:
        return device, known.api_key_of(project, device)
    except MwwError as error:
        return device, error


def _with_problem(live: LiveDevice, error: MwwError) -> LiveDevice:
    return dataclasses.replace(live, error=type(error).__name__, message=error.message, hint=error.hint)


async def _look(connection: Connection, live: LiveDevice) -> LiveDevice:
    state = await connection.state()
    values = await connection.values()
    return dataclasses.replace(
        live,
        address=connection.address,
        reachable=True,
        told_name=state.name,
        esphome_version=state.esphome_version,
        build_time=state.build_time,
        wake_model=state.wake_model,
        board=state.board,
        mac=state.mac,
        capture=_capture_of(values),
    )


def _capture_of(values: dict[str, Value]) -> LiveCapture | None:
    """What capture.yaml's entities say; None where they are not there."""
    if CAPTURE_SWITCH not in values:
        return None

    def number(name: str) -> float | None:
        value = values.get(name)
        return round(float(value), 3) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def text(name: str) -> str:
        value = values.get(name)
        return value if isinstance(value, str) else ""

    return LiveCapture(
        on=values[CAPTURE_SWITCH] is True,
        state=text("capture_state"),
        hours=number(CAPTURE_HOURS),
        hours_left=number("capture_time_left"),
        detections=number("detections"),
        near_misses=number("near_misses"),
        canary_detections=number("canary_detections"),
        queue=number("capture_queue"),
        dropped=number("captures_dropped"),
        listening_hours=number("listening_hours"),
        last_upload=text("last_upload"),
    )


def _lookout(call: Call) -> Lookout:
    if call.service.lookout is None:
        raise NotFoundError("this service asks no satellites", hint="start it with: mww-ha serve")
    return call.service.lookout


async def get_live_device(call: Call, name: DeviceName) -> LiveDevice:
    """Ask a satellite what it runs and whether it captures. Takes as long as it takes to answer, seconds at most."""
    return await _lookout(call).ask(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSwitch:
    """Capturing on, for so many hours, or off."""

    on: bool
    hours: Hours = 24


async def switch_capture(call: Call, name: DeviceName, body: CaptureSwitch) -> LiveDevice:
    """Turn a satellite's "Capture wake audio" on for a time, or off."""
    await call.service.access.check_may_change(call.caller)
    return await _lookout(call).capture(name, body.on, body.hours)


async def find_devices(call: Call) -> FoundDevices:
    """Look on the network for some seconds; the event found tells when that has ended."""
    _lookout(call).look()
    return await get_found_devices(call)


async def get_found_devices(call: Call) -> FoundDevices:
    """What the last look on the network found."""
    return _lookout(call).found(set(await call.service.ask(known.load_devices)))


# --- what there is to choose from ------------------------------------------------------------------------------------


async def get_device_options(call: Call) -> DeviceOptions:
    """Boards, serial ports, ways to flash, addresses for captures, and what secrets.yaml lacks."""
    listening = [] if call.service.lookout is None else call.service.lookout.listening
    host = call.request.url.host or ""

    def look(project: Project) -> DeviceOptions:
        return DeviceOptions(
            boards=[_board(board) for board in boards.boards()],
            serial_ports=[SerialPortView(path=p, title=title) for p, title in preflight.list_serial_ports()],
            backends=[_backend(project, name) for name in ("esphome", "builder", "handoff")],
            capture_urls=suggest_capture_urls(listening, host, list_own_addresses()),
            secrets=look_at_secrets(project),
        )

    return await call.service.ask(look)


def _board(board: boards.Board) -> BoardView:
    return BoardView(
        id=board.id,
        title=board.title,
        hint=board.hint,
        complete=board.complete,
        has_slot=board.answers,
        minimum_esphome=board.minimum_esphome,
        needs=list(board.needs),
        may_set=list(board.may_set),
    )


def _backend(project: Project, name: Literal["esphome", "builder", "handoff"]) -> BackendView:
    try:
        way = flash.backend_of(project, Device(name="it", template="own", backend=name))
        if isinstance(way, LocalEsphome):
            _ = way.command
    except MwwError as error:
        return BackendView(name=name, ready=False, message=error.message, hint=error.hint)
    return BackendView(name=name, ready=True, message="", hint="")


def suggest_capture_urls(listening: Sequence[tuple[str, int]], asked: str, own: Sequence[str]) -> list[str]:
    """Where satellites may reach the device site, the likeliest first; none while nothing listens.

    ``asked`` is the host by which the page was asked for, ``own`` are this machine's addresses: whatever is no IPv4
    address of a home network is left out.
    """
    made: list[str] = []
    for host, port in listening:
        hosts = [host] if _is_home(host) else [*filter(_is_home, (asked, *own))]
        made += [f"http://{one}:{port}{UPLOAD_PATH}" for one in hosts]
    # over the loopback a satellite on another machine reaches nobody
    return sorted(dict.fromkeys(made), key=lambda url: url.startswith("http://127."))


def _is_home(host: str) -> bool:
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_multicast or address.is_global)


def list_own_addresses() -> list[str]:
    """The IPv4 addresses of this machine's interfaces, those of containers last. Blocks."""
    import ifaddr

    found = [
        (adapter.nice_name.startswith(("docker", "hassio", "br-", "veth")), str(ip.ip))
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
        if ip.is_IPv4 and not str(ip.ip).startswith("127.")
    ]
    return [address for _, address in sorted(found, key=lambda one: one[0])]


def look_at_secrets(project: Project) -> SecretsView:
    """Which secrets the project's satellites need and do not have. No value is told."""
    path = project.esphome_dir / known.SECRETS_FILE
    needed = dict.fromkeys(name for device in _devices_of(project) for name in _secrets_of(device))
    if not path.exists():
        return SecretsView(path=str(path), exists=False, message="", missing=list(needed), unfilled=[])
    try:
        document = known.read_secrets(path)
    except MwwError as error:
        return SecretsView(path=str(path), exists=True, message=error.message, missing=[], unfilled=[])
    elsewhere = "<<" in document  # more secrets from another file, which ESPHome resolves
    return SecretsView(
        path=str(path),
        exists=True,
        message="",
        missing=[] if elsewhere else [name for name in needed if name not in document],
        unfilled=sorted(name for name, value in document.items() if value in preflight.PLACEHOLDERS),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretEntry:
    """One secret that somebody typed; an API key or a password for updates may be empty, and is made up."""

    name: SecretName
    value: Annotated[str, Text(longest=200)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsBody:
    """Secrets for ESPHome's secrets.yaml."""

    secrets: list[SecretEntry]


async def fill_secrets(call: Call, body: SecretsBody) -> SecretsView:
    """Write the Wi-Fi, and what is missing besides, into ESPHome's secrets.yaml. No value is ever told again."""
    await call.service.access.check_may_change(call.caller)

    def fill(project: Project) -> SecretsView:
        path = project.esphome_dir / known.SECRETS_FILE
        owned.fill_secrets(path, {entry.name: entry.value for entry in body.secrets})
        return look_at_secrets(project)

    view = await call.service.ask(fill)
    call.service.tell("devices", {})
    return view


def _devices_of(project: Project) -> list[Device]:
    with contextlib.suppress(MwwError):  # what is wrong with devices.yaml is said elsewhere
        return list(known.load_devices(project).values())
    return []


def _secrets_of(device: Device) -> list[str]:
    """A YAML of the user's names secrets of its own; only the API's key is ours to know."""
    complete = any(board.id == device.template and board.complete for board in boards.BOARDS)
    names = [name for name in SECRET_NAMES if name != API_KEY] if complete else []
    return [*names, *([device.api_key] if device.api_key else [])]


DEVICE_ROUTES = (
    Route(method="GET", path="/api/devices", handler=get_devices),
    Route(method="POST", path="/api/devices", handler=add_device, status=201),
    Route(method="GET", path="/api/devices/found", handler=get_found_devices),
    Route(method="POST", path="/api/devices/found", handler=find_devices, status=202),
    Route(method="GET", path="/api/devices/options", handler=get_device_options),
    Route(method="PUT", path="/api/secrets", handler=fill_secrets),
    Route(method="PUT", path="/api/devices/{name}", handler=change_device),
    Route(method="DELETE", path="/api/devices/{name}", handler=remove_device),
    Route(method="GET", path="/api/devices/{name}/live", handler=get_live_device),
    Route(method="PUT", path="/api/devices/{name}/capture", handler=switch_capture),
    Route(method="GET", path="/api/flashes", handler=get_flashes),
)
"""The routes about satellites."""

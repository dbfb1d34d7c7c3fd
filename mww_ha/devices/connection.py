"""One typed connection to a satellite over ESPHome's native API.

It asks, calls and presses; it never takes the part of Home Assistant: a device talks to one voice assistant only, and
whoever subscribes second, or first, takes Assist away from the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from mww_ha.devices.known import is_api_key
from mww_ha.devices.network import API_PORT, clean_text, resolve_soon
from mww_ha.errors import ConfigError, DeviceError, DeviceRefusedError, DeviceUnreachableError, InputError
from mww_ha.schema import Progress, ProgressSink, no_progress

if TYPE_CHECKING:
    from aioesphomeapi.client import APIClient
    from aioesphomeapi.model import EntityInfo, EntityState, UserService

WAKE_MODEL = "wake_model"
"""Object id of the text sensor that says which model the firmware holds."""

Value = bool | float | int | str | None
"""The state of an entity; None: it has none yet."""

_T = TypeVar("_T")

_LONGEST_STATE = 255  # Home Assistant's limit for a state
_MOST_ENTITIES = 1000
_LONGEST_ARGUMENT_BYTES = 4096
_FIRST_STATE_S = 6.0  # a device that just started publishes its model within five seconds
_QUIET_S = 1.0  # after this long without a further state the first round of states is over
_STATELESS = frozenset({"button", "camera", "event", "infrared", "radio_frequency"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """What a device says of itself. Texts are clean and of limited length, "" where it says nothing."""

    name: str
    friendly_name: str
    mac: str
    esphome_version: str
    build_time: str  # as the firmware holds it: its form differs between releases, so compare it for equality only
    project_name: str
    project_version: str
    wake_model: str  # state of the text sensor "Wake model"
    board: str = ""  # such as esp32-s3-box-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """One entity of a device."""

    object_id: str
    name: str
    kind: str  # sensor | text_sensor | binary_sensor | switch | button | select | number | ...
    unit: str = ""
    options: tuple[str, ...] = ()  # of a select


@dataclass(frozen=True, slots=True)
class _Listing:
    entities: list[EntityInfo]
    services: list[UserService]


class Connection:
    """A connection to one device: an async context manager that connects on first use, and again after a reboot.

    ``api_key`` is 32 bytes in base64, "" for an API without encryption. ``timeout_s`` holds for every method, a
    connection that has to be made included. What only asks is asked again when the connection ends in the middle. What
    makes the device do something is sent once at most; DeviceUnreachableError then says that the connection ended
    before the device had confirmed it, as it does where a button restarts the device. Every method raises
    DeviceUnreachableError, DeviceRefusedError (another key is wanted, or none) and DeviceError (this is not ESPHome).
    """

    def __init__(self, address: str, *, port: int = API_PORT, api_key: str = "", timeout_s: float = 10.0) -> None:
        if api_key and not is_api_key(api_key):
            raise ConfigError(f"the API key for {address} is no key", hint="a key is 32 bytes in base64, 44 characters")
        self.address, self.port, self.timeout_s = address, port, timeout_s
        self._api_key = api_key
        self._client: APIClient | None = None
        self._name = ""  # as the device says it
        self._turn = asyncio.Lock()
        self._was_reached = False
        self._lost = asyncio.Event()
        self._listing: _Listing | None = None
        self._states: dict[tuple[int, int], Value] | None = None  # by sub-device and key; None: not subscribed
        self._state_came = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._ask(self._connect)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Connection({self._where})"

    async def close(self) -> None:
        """Says goodbye; a device that does not answer to it is left alone after a second."""
        lost = self._lost.is_set()
        client = self._forget()
        if client is not None:
            with contextlib.suppress(_api_error(), TimeoutError, OSError):
                async with asyncio.timeout(1.0):
                    if not lost:
                        await client.device_info()  # is it there? A goodbye to nobody ends in the library's own log
                        await client.disconnect()
            await _hang_up(client)

    async def state(self) -> DeviceState:
        """What the device says of itself now."""
        return await self._ask(self._read_state)

    async def entities(self) -> list[Entity]:
        """Every entity, in the device's order."""
        return [_entity(info) for info in (await self._ask(self._list)).entities]

    async def actions(self) -> dict[str, dict[str, str]]:
        """What the device can be asked to do (``api: actions:``): the types of the arguments by name."""
        listing = await self._ask(self._list)
        return {
            clean_text(service.name): {clean_text(arg.name): _kind_name(arg.type) for arg in service.args}
            for service in listing.services
        }

    async def values(self) -> dict[str, Value]:
        """The last state of each entity, by object id; where two share one, the second is ``<kind>.<object id>``.

        The first call waits until the device has told them all, later ones give what it has said since.
        """
        return await self._ask(self._read_values)

    async def wait_for(self, object_id: str, accept: Callable[[Value], bool], timeout_s: float | None = None) -> Value:
        """The state of an entity as soon as ``accept`` takes it. Raises DeviceError when it does not come in time."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        until = time.monotonic() + timeout_s
        while True:
            self._state_came.clear()
            values = await self.values()
            if object_id not in values:
                _refuse_unknown("entity", object_id, values, self._where)
            if accept(values[object_id]):
                return values[object_id]
            left = until - time.monotonic()
            if left <= 0:
                raise DeviceError(
                    f"{object_id} of {self._where} is {values[object_id]!r} after {timeout_s:g} s",
                    hint="look at the device's log: esphome logs",
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 1.0)):
                    await self._state_came.wait()

    async def call(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Calls an action by name and waits until the device has taken it. Returns its answer, {} where it gives none.

        Raises InputError, naming what there is, on an unknown action, a missing or unknown argument and a wrong type;
        DeviceError when the device says that it failed.
        """
        listing = await self._ask(self._list)
        services = {service.name: service for service in listing.services}
        if action not in services:
            _refuse_unknown("action", action, services, self._where)
        service = services[action]
        types = {arg.name: _kind_name(arg.type) for arg in service.args}
        for name in arguments:
            if name not in types:
                _refuse_unknown(f"argument of {action}", name, types, self._where)
        for name, kind in types.items():
            if name not in arguments:
                raise InputError(
                    f"{action} of {self._where} lacks its argument {name}",
                    hint=f"it takes: {', '.join(f'{n} ({k})' for n, k in types.items())}",
                )
            if not _fits(arguments[name], kind):
                raise InputError(
                    f"{action} of {self._where}: {name} is {_shown(arguments[name])}",
                    hint=f"it takes a value of type {kind}",
                )
        answers = getattr(service.supports_response, "name", "NONE")
        if answers == "NONE":
            return await self._tell(lambda client: client.execute_service(service, arguments))

        async def execute(client: APIClient) -> dict[str, Any]:
            answer = await client.execute_service(
                service, arguments, return_response=answers != "STATUS", timeout=self.timeout_s
            )
            if answer is not None and not answer.success:
                raise DeviceError(
                    f"{action} of {self._where} failed: {clean_text(answer.error_message) or 'without a reason'}",
                    hint="look at the device's log: esphome logs",
                )
            return _answer(answer.response_data if answer is not None else b"", f"{action} of {self._where}")

        return await self._tell(execute)

    async def press(self, object_id: str) -> None:
        """Presses a button and waits until the device has taken it. InputError on an unknown one."""
        info = await self._find("button", object_id)
        await self._tell(lambda client: client.button_command(info.key, device_id=info.device_id))

    async def switch(self, object_id: str, on: bool) -> None:
        """Turns a switch on or off and waits until the device has taken it. InputError on an unknown one."""
        info = await self._find("switch", object_id)
        await self._tell(lambda client: client.switch_command(info.key, on, device_id=info.device_id))

    async def set_number(self, object_id: str, value: float) -> None:
        """Sets a number and waits until the device has taken it. InputError on an unknown one."""
        info = await self._find("number", object_id)
        await self._tell(lambda client: client.number_command(info.key, value, device_id=info.device_id))

    # --- inside ---

    @property
    def _where(self) -> str:
        return f"{self._name} ({self.address})" if self._name else f"{self.address} port {self.port}"

    async def _ask(self, question: Callable[[], Awaitable[_T]]) -> _T:
        """Runs what may be asked twice, with a new connection where the old one ended."""
        return await self._within(question, again=True)

    async def _tell(self, command: Callable[[APIClient], Any]) -> dict[str, Any]:
        """Runs what must not be sent twice."""
        await self._ask(self._connect)

        async def send() -> dict[str, Any]:
            client = await self._connect()
            answer = command(client)
            answer = await answer if asyncio.iscoroutine(answer) else answer
            # A device takes messages in their order: once it has answered this, it has taken the one before.
            await client.device_info()
            return answer if isinstance(answer, dict) else {}

        return await self._within(send, again=False)

    async def _within(self, work: Callable[[], Awaitable[_T]], *, again: bool) -> _T:
        async with self._turn:  # one at a time: what ends the connection for one would end it for the other
            return await self._try(work, again=again)

    async def _try(self, work: Callable[[], Awaitable[_T]], *, again: bool) -> _T:
        deadline = time.monotonic() + self.timeout_s
        pause_s = 0.2
        last: DeviceError | None = None
        while True:
            try:
                async with asyncio.timeout(max(0.01, deadline - time.monotonic())):
                    return await work()
            except TimeoutError:
                await self._drop()
                raise last or self._silent() from None
            except _api_error() as error:
                await self._drop()
                last = _translated(error, self._where)
            # One that was never reached is not there; one that was may be starting again.
            retry = again and self._was_reached and isinstance(last, DeviceUnreachableError)
            if not retry or time.monotonic() + pause_s > deadline:
                raise last
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)

    def _silent(self) -> DeviceUnreachableError:
        return DeviceUnreachableError(
            f"{self._where} does not answer (waited {self.timeout_s:g} s)",
            hint="is it switched on, and is this its address?",
        )

    async def _connect(self) -> APIClient:
        if self._client is not None and not self._lost.is_set():
            return self._client
        await self._drop()
        from aioesphomeapi.client import APIClient

        _keep_libraries_quiet()
        address = await resolve_soon(self.address, min(3.0, self.timeout_s))
        client = APIClient(address, self.port, None, client_info="mww-ha", noise_psk=self._api_key or None)
        lost = asyncio.Event()

        async def stopped(expected: bool) -> None:  # noqa: ARG001
            lost.set()

        try:
            # What goes wrong is told by our errors; its own log would say it a second time.
            await client.connect(on_stop=stopped, log_errors=False)
        except BaseException:
            await _hang_up(client)
            raise
        self._client, self._lost, self._was_reached = client, lost, True
        return client

    def _forget(self) -> APIClient | None:
        client, self._client = self._client, None
        self._listing, self._states = None, None
        return client

    async def _drop(self) -> None:
        """Closes the connection at once, without a word."""
        client = self._forget()
        if client is not None:
            await _hang_up(client)

    async def _list(self) -> _Listing:
        client = await self._connect()
        if self._listing is None:
            device = await client.device_info()
            self._name = clean_text(device.name)
            entities, services = await client.list_entities_services()
            self._listing = _Listing(entities[:_MOST_ENTITIES], services[:_MOST_ENTITIES])
        return self._listing

    async def _find(self, kind: str, object_id: str) -> EntityInfo:
        listing = await self._ask(self._list)
        known = {_clean_id(info.object_id): info for info in listing.entities if _kind(info) == kind}
        if object_id not in known:
            _refuse_unknown(kind, object_id, known, self._where)
        return known[object_id]

    async def _read_state(self) -> DeviceState:
        listing = await self._list()
        client = await self._connect()
        device = await client.device_info()
        wake_model = ""
        if any(_clean_id(info.object_id) == WAKE_MODEL and _kind(info) == "text_sensor" for info in listing.entities):
            wake_model = await self._read_wake_model()
        return DeviceState(
            name=clean_text(device.name),
            friendly_name=clean_text(device.friendly_name),
            mac=clean_text(device.mac_address),
            esphome_version=clean_text(device.esphome_version),
            build_time=clean_text(device.compilation_time),
            project_name=clean_text(device.project_name),
            project_version=clean_text(device.project_version),
            wake_model=wake_model,
            board=clean_text(device.model),
        )

    async def _read_wake_model(self) -> str:
        until = time.monotonic() + min(_FIRST_STATE_S, 0.7 * self.timeout_s)
        while True:
            self._state_came.clear()
            values = await self._read_values()
            value = values.get(f"text_sensor.{WAKE_MODEL}", values.get(WAKE_MODEL))
            left = until - time.monotonic()
            if value is not None or left <= 0:
                return value if isinstance(value, str) else ""
            # just started: the sensor says it in a moment
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 0.5)):
                    await self._state_came.wait()

    async def _read_values(self) -> dict[str, Value]:
        listing = await self._list()
        client = await self._connect()
        entities = [info for info in listing.entities if _kind(info) not in _STATELESS]
        if self._states is None:
            await self._subscribe(client, {(info.device_id, info.key) for info in entities})
        states = self._states or {}
        made: dict[str, Value] = {}
        for info in entities:
            place = (info.device_id, info.key)
            if place in states:
                name = _clean_id(info.object_id)
                made[name if name not in made else f"{_kind(info)}.{name}"] = states[place]
        return made

    async def _subscribe(self, client: APIClient, known: set[tuple[int, int]]) -> None:
        """Asks for the states and waits until all have come, or the device has been quiet for a while."""
        states: dict[tuple[int, int], Value] = {}

        def heard(state: EntityState) -> None:
            place = (state.device_id, state.key)
            if place in known and hasattr(state, "state"):
                states[place] = None if getattr(state, "missing_state", False) else _value(state.state)
                self._state_came.set()

        client.subscribe_states(heard)
        while len(states) < len(known):
            self._state_came.clear()
            try:
                async with asyncio.timeout(_QUIET_S):
                    await self._state_came.wait()
            except TimeoutError:
                break
        if self._lost.is_set():
            raise _api_error()("the connection ended")
        self._states = states

    async def is_lost_within(self, seconds: float) -> bool:
        """Waits at most ``seconds`` for the connection to end; whether it has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._lost.wait()
        return self._lost.is_set() or self._client is None


async def read_state(address: str, *, port: int = API_PORT, api_key: str = "", timeout_s: float = 10.0) -> DeviceState:
    """What the device says of itself. Raises as ``Connection`` does."""
    async with Connection(address, port=port, api_key=api_key, timeout_s=timeout_s) as connection:
        return await connection.state()


async def wait_until_back(
    address: str,
    *,
    port: int = API_PORT,
    api_key: str = "",
    timeout_s: float = 120.0,
    was: DeviceState | None = None,
    report: ProgressSink = no_progress,
    settle_s: float = 15.0,
) -> DeviceState:
    """Waits until a device that was just told to restart is back, and returns what it says then.

    Back is: another build time than ``was``, or an answer after it had been away. Without ``was`` any answer will do. A
    device that answers for ``settle_s`` as if nothing had happened restarted too fast to be seen, or not at all: its
    state is returned as well, and the caller has to look at it. Raises DeviceUnreachableError after ``timeout_s`` and
    DeviceRefusedError when it refuses the key for ``settle_s``.
    """
    began = time.monotonic()
    away = was is None
    refused_since: float | None = None

    def elapsed() -> float:
        return time.monotonic() - began

    def told(message: str) -> None:
        report(
            Progress(
                stage="flash", message=message, done=round(min(elapsed(), timeout_s), 1), total=timeout_s, unit="s"
            )
        )

    while elapsed() < timeout_s:
        told(f"waiting for {address} to come back")
        connection = Connection(
            address, port=port, api_key=api_key, timeout_s=max(0.1, min(10.0, timeout_s - elapsed()))
        )
        try:
            state = await connection.state()
            if away or was is None or state.build_time != was.build_time:
                told(f"{address} is back")
                return state
            told(f"waiting for {address} to restart")
            up_s = min(settle_s, max(0.0, timeout_s - elapsed()))
            if not await connection.is_lost_within(up_s):
                return state
            away = True
        except DeviceRefusedError:
            refused_since = time.monotonic() if refused_since is None else refused_since
            if time.monotonic() - refused_since >= settle_s or elapsed() + 1 >= timeout_s:
                raise
        except DeviceUnreachableError:
            away, refused_since = True, None
        finally:
            await connection.close()
        await asyncio.sleep(0.5)
    raise DeviceUnreachableError(
        f"{address} did not come back within {timeout_s:g} s",
        hint="look at its lights and its log, take its power away for a moment, then ask again: mww-ha devices",
    )


class _NonsenseFilter(logging.Filter):
    """Drops asyncio's traceback of a message that cannot be decoded: it is raised as an error that says so."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return type(error).__name__ != "DecodeError" or "data_received" not in record.getMessage()


_NONSENSE = _NonsenseFilter()
_UNHEARD = logging.NullHandler()


def _keep_libraries_quiet() -> None:
    """What goes wrong is told by our errors; nothing else shows on a terminal where nobody has set up a log."""
    logging.getLogger("aioesphomeapi").addHandler(_UNHEARD)
    logging.getLogger("asyncio").addFilter(_NONSENSE)


async def _hang_up(client: APIClient) -> None:
    with contextlib.suppress(_api_error(), OSError):
        await client.disconnect(force=True)


# --- errors -------------------------------------------------------------------------------------------------------


def _api_error() -> type[Exception]:
    from aioesphomeapi.core import APIConnectionError

    return APIConnectionError


def _translated(error: Exception, where: str) -> DeviceError:
    from aioesphomeapi import core

    if isinstance(error, core.InvalidEncryptionKeyAPIError):
        return DeviceRefusedError(
            f"{where} refuses the API key",
            hint="its firmware was built with another one. The key stands in esphome/secrets.yaml under the name that "
            "api_key in devices.yaml says: put the device's own key there",
        )
    if isinstance(error, core.RequiresEncryptionAPIError):
        return DeviceRefusedError(
            f"{where} wants an encrypted connection and no API key is known",
            hint="put its key into esphome/secrets.yaml and name it in devices.yaml: api_key: !secret NAME",
        )
    if isinstance(error, core.EncryptionPlaintextAPIError):
        return DeviceRefusedError(
            f"{where} knows no encryption, but devices.yaml names an API key for it",
            hint="write 'api_key: \"\"' in devices.yaml if that is meant; or is another device at this address?",
        )
    if isinstance(error, core.InvalidAuthAPIError):
        return DeviceRefusedError(
            f"{where} wants an API password", hint="ESPHome has replaced it by a key: api: encryption: key:"
        )
    told = clean_text(str(error), 200)
    if isinstance(error, core.EncryptionHelloAPIError):
        return DeviceUnreachableError(
            f"{where} ended the connection at once", hint="it may be restarting, or know no encryption"
        )
    if isinstance(error, core.ProtocolAPIError | core.HandshakeAPIError | core.UnhandledAPIConnectionError):
        return DeviceError(
            f"what answers at {where} does not speak ESPHome's API", hint="check address and port; ESPHome's is 6053"
        )
    if isinstance(error, core.TimeoutAPIError | core.PingFailedAPIError):
        return DeviceUnreachableError(f"{where} does not answer", hint="is it switched on, and is this its address?")
    reasons = [cause for cause in _causes(error) if isinstance(cause, OSError)]
    if any(isinstance(reason, ConnectionRefusedError) for reason in reasons):
        return DeviceUnreachableError(
            f"nothing listens at {where}", hint="it may be starting; else check address and port, and api: in its YAML"
        )
    if reasons and isinstance(error, core.SocketAPIError) and not isinstance(error, core.SocketClosedAPIError):
        said = next((reason.strerror for reason in reasons if reason.strerror), told)
        return DeviceUnreachableError(
            f"{where} cannot be reached: {said}", hint="is it switched on and in this network?"
        )
    return DeviceUnreachableError(f"the connection to {where} ended", hint="it may be restarting; try again")


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _refuse_unknown(what: str, name: str, known: Iterable[str], where: str) -> NoReturn:
    names = [clean_text(item) for item in known]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]}? " if close else ""
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise InputError(f"{where} has no {what} {_shown(name)}", hint=f"{hint}it has: {shown or 'none'}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- what a device says, as ours -----------------------------------------------------------------------------------


def _entity(info: EntityInfo) -> Entity:
    return Entity(
        object_id=_clean_id(info.object_id),
        name=clean_text(info.name),
        kind=_kind(info),
        unit=clean_text(getattr(info, "unit_of_measurement", "") or ""),
        options=tuple(clean_text(option) for option in getattr(info, "options", ())),
    )


def _kind(info: EntityInfo) -> str:
    words = type(info).__name__.removesuffix("Info")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", words).lower()


def _clean_id(object_id: str) -> str:
    return clean_text(object_id)


def _value(state: Any) -> Value:
    if isinstance(state, bool | str):
        return clean_text(state, _LONGEST_STATE) if isinstance(state, str) else state
    if isinstance(state, int):
        return int(state)
    if isinstance(state, float):
        return state if math.isfinite(state) else None
    return None


def _kind_name(kind: Any) -> str:
    return str(getattr(kind, "name", "unknown")).lower()


def _fits(value: Any, kind: str) -> bool:
    if kind.endswith("_array"):
        return isinstance(value, list | tuple) and all(_fits(item, kind.removesuffix("_array")) for item in value)
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool) and -(1 << 31) <= value < 1 << 31
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return (
        kind == "string"
        and isinstance(value, str)
        and len(value.encode("utf-8", "replace")) <= _LONGEST_ARGUMENT_BYTES
        and not re.search("[\x00\ud800-\udfff]", value)
    )


def _answer(data: bytes, where: str) -> dict[str, Any]:
    if not data:
        return {}
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise DeviceError(f"{where} answers with something that is no JSON object", hint="look at the device's YAML")
    return answer

"""Entities in Home Assistant by way of an MQTT broker: per satellite a capture switch, rates, and the next model.

Discovery is one retained message for each entity, ``<prefix>/<component>/<instance>/<object>/config``, the form that
every Home Assistant with MQTT discovery reads (the newer form of one message per device needs 2024.11). All values of
a satellite travel in one retained JSON message; commands come back on topics of their own. The broker tells Home
Assistant by a last will when we are gone.

Client library: paho-mqtt, 1.6 as well as 2.x, because ESPHome pins the former.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mww_ha.errors import (
    ConfigError,
    HomeAssistantError,
    HomeAssistantRefusedError,
    HomeAssistantUnreachableError,
    MissingDependencyError,
    MwwError,
    how_to_install,
)

if TYPE_CHECKING:
    from aiohttp import ClientSession

_LOG = logging.getLogger(__name__)

CONNECT_S = 10.0
_KEEPALIVE_S = 30
_SETTLE_S = 0.5  # what Home Assistant gets to take an entity out
_MOST_BYTES = 16 << 10  # of one message, either way
_NAME = 100  # characters of a name or version; Home Assistant cuts states at 255
_SUMMARY = 250
_ORIGIN = "mww-ha"
# CONNACK codes that no second attempt will change: MQTT 3.1.1, then the same as MQTT 5 reasons.
_REFUSALS = {4: "user name or password", 5: "not authorised", 134: "user name or password", 135: "not authorised"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """An MQTT broker and how to log in."""

    host: str
    port: int = 1883
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca_file: str = ""  # PEM; empty: what the system trusts


@dataclass(frozen=True, slots=True, kw_only=True)
class SatelliteStatus:
    """What is shown of a satellite."""

    name: str  # ESPHome host name: the identity
    friendly_name: str = ""
    capturing: bool = False
    detections_per_day: float | None = None  # None: nothing measured yet
    false_accepts_per_day: float | None = None
    unreviewed: int = 0
    active_model: str = ""  # id of the model on the device; empty: unknown
    new_model: str = ""  # id of a model that is ready and better; empty: none
    new_model_summary: str = ""  # one sentence why
    installing: bool = False


CaptureCommand = Callable[[str, bool], Awaitable[None]]
"""(satellite, on): somebody turned the switch. Show the new state when it is so."""
InstallCommand = Callable[[str], Awaitable[None]]
"""(satellite): somebody pressed Install."""


def parse_broker(data: Mapping[str, Any]) -> Broker:
    """The Supervisor's answer to ``/services/mqtt``, or settings of the same shape. Raises ConfigError."""
    host, port = data.get("host"), data.get("port", 1883)
    if not isinstance(host, str) or re.fullmatch(r"[A-Za-z0-9._:\-]{1,253}", host) is None:
        raise ConfigError(f"{host!r} is not the host of an MQTT broker", hint="write its name or address alone")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ConfigError(f"{port!r} is not a port of an MQTT broker", hint="write a number; 1883 is usual")
    return Broker(
        host=host,
        port=port,
        username=str(data.get("username") or ""),
        password=str(data.get("password") or ""),
        tls=bool(data.get("ssl", False)),
        ca_file=str(data.get("ca_file") or ""),
    )


async def find_broker(
    session: ClientSession, token: str, *, url: str = "http://supervisor/services/mqtt"
) -> Broker | None:
    """The broker that the Supervisor offers to add-ons; None where there is none. Raises HomeAssistantError."""
    from aiohttp import ClientError, ClientTimeout

    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with session.get(url, headers=headers, timeout=ClientTimeout(total=CONNECT_S)) as answer:
            if answer.status in {401, 403}:
                raise HomeAssistantRefusedError(
                    f"the Supervisor answered with HTTP status {answer.status}",
                    hint="add mqtt to the add-on's services",
                )
            told = await answer.json(content_type=None)
    except (OSError, TimeoutError, ClientError, ValueError) as error:
        raise HomeAssistantUnreachableError(
            f"the Supervisor cannot be asked for a broker: {type(error).__name__}"
        ) from error
    # Without a broker it answers with an error; that is no fault of anybody.
    if not isinstance(told, dict) or told.get("result") != "ok" or not isinstance(told.get("data"), dict):
        return None
    return parse_broker(told["data"])


def object_id(name: str) -> str:
    """What discovery allows in a topic: letters, digits, ``_`` and ``-``. Two names never share one."""
    clean = re.sub(r"[^a-zA-Z0-9_-]+", "_", name)[:48].strip("_")
    if clean and clean == name:
        return clean
    return f"{clean}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class Entities:
    """The satellites' entities. An async context manager; raises where the broker cannot be reached at first.

    With ``patient=True`` it returns at once and keeps trying. After a lost connection it comes back by itself and
    tells everything anew. Leaving marks the entities as unavailable and keeps them; ``remove`` deletes.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        on_capture: CaptureCommand | None = None,
        on_install: InstallCommand | None = None,
        instance: str = "mww_ha",
        prefix: str = "homeassistant",
        version: str = "",
        page_url: str = "",
        patient: bool = False,
        retry_first_s: float = 1.0,
        retry_most_s: float = 60.0,
    ) -> None:
        """``instance`` tells two of us on one broker apart; ``page_url`` (http or https) is linked from the devices."""
        if object_id(instance) != instance or re.fullmatch(r"[\w\-/]{1,60}", prefix) is None:
            raise ConfigError(
                f"{instance!r} or {prefix!r} cannot stand in an MQTT topic", hint="use letters, digits and _"
            )
        self.broker = broker
        self._on_capture, self._on_install = on_capture, on_install
        self._instance, self._prefix = instance, prefix
        self._version, self._page_url, self._patient = version[:_NAME], page_url, patient
        self._retry_s = (retry_first_s, retry_most_s)
        self.state = "closed"  # closed | connecting | connected | refused
        self.last_error: HomeAssistantError | None = None
        self.ignored = 0  # commands that made no sense
        self._shown: dict[str, SatelliteStatus] = {}
        self._found: set[str] = set()  # retained discovery topics of ours that the broker holds
        self._gone: dict[str, None] = {}  # topics to empty when there is a connection, in order
        self._only_shown = False
        self._failed = False
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._unacknowledged: dict[int, asyncio.Future[None]] = {}

    @property
    def _will_topic(self) -> str:
        return f"{self._instance}/status"

    def _topic(self, name: str, last: str) -> str:
        return f"{self._instance}/{object_id(name)}/{last}"

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._client = await asyncio.to_thread(self._make_client)
        self._set_state("connecting")
        self._client.connect_async(self.broker.host, self.broker.port, _KEEPALIVE_S)
        await asyncio.to_thread(self._client.loop_start)  # it makes a pair of sockets, which waits
        if not self._patient:
            try:
                await self.wait_connected(CONNECT_S, first=True)
            except BaseException:
                await self._stop()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Says that we are gone, and goes."""
        if self.state == "connected":
            await self._publish(self._will_topic, "offline")
        await self._stop()

    async def wait_connected(self, timeout_s: float, *, first: bool = False) -> None:
        """``first``: one failed attempt is enough. Raises HomeAssistantRefusedError, HomeAssistantUnreachableError."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.state == "connecting" and not (first and self._failed):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise self._unreachable("no answer") from None
        if self.state != "connected":
            raise self.last_error or self._unreachable("the connection was closed")

    async def show(self, status: SatelliteStatus) -> None:
        """Shows a satellite, or what changed of it. Without a connection it is kept and told later."""
        before = self._shown.get(status.name)
        self._shown[status.name] = status
        if self.state == "connected" and status != before:
            if before is None or self._configs(before) != self._configs(status):
                await self._publish_configs(status.name)
            await self._publish_values(status.name)

    async def remove(self, name: str) -> None:
        """Takes a satellite out of Home Assistant, with its entities and retained messages."""
        status = self._shown.pop(name, SatelliteStatus(name=name))
        self._gone |= dict.fromkeys([*self._configs(status), *self._values(status)])
        await self._empty_gone()

    async def remove_others(self) -> None:
        """Takes out satellites of earlier times that are not shown now. Call it once all are shown."""
        self._only_shown = True
        self._gone |= dict.fromkeys(topic for topic in self._found if not self._is_shown(topic))
        await self._empty_gone()

    async def remove_all(self) -> None:
        """Takes everything out, as before the add-on goes for good."""
        for name in list(self._shown):
            await self.remove(name)
        await self.remove_others()

    def _is_shown(self, topic: str) -> bool:
        return any(topic in self._configs(status) for status in self._shown.values())

    async def _empty_gone(self) -> None:
        while self._gone and self.state == "connected":
            topic = next(iter(self._gone))
            del self._gone[topic]
            if self._is_shown(topic) or any(topic in self._values(status) for status in self._shown.values()):
                continue
            if topic in self._found:
                self._found.discard(topic)
            elif not topic.startswith(f"{self._prefix}/"):
                # An entity that still listens would complain about an empty message.
                await asyncio.sleep(_SETTLE_S)
            await self._publish(topic, "")

    # What is published

    def _configs(self, status: SatelliteStatus) -> dict[str, dict[str, Any]]:
        """Topic → discovery message, for each entity of a satellite."""
        name = status.name
        device: dict[str, Any] = {
            "identifiers": [f"{self._instance}_{object_id(name)}"],
            # A device of our own: joined to ESPHome's by its MAC, the two would contend for its name.
            "name": f"{(status.friendly_name or name)[:_NAME]} wake word",
            "manufacturer": _ORIGIN,
            "model": "microWakeWord",
        }
        if self._page_url:
            device["configuration_url"] = self._page_url
        common = {
            "device": device,
            "origin": {"name": _ORIGIN, **({"sw_version": self._version} if self._version else {})},
            "availability_topic": self._will_topic,
        }
        values = {**common, "state_topic": self._topic(name, "state")}
        measured = {"state_class": "measurement", "suggested_display_precision": 1}
        entities: dict[tuple[str, str], dict[str, Any]] = {
            ("switch", "capture"): {
                **values,
                "name": "Capture",
                "icon": "mdi:record-rec",
                "value_template": "{{ 'ON' if value_json.capturing else 'OFF' }}",
                "command_topic": self._topic(name, "capture/set"),
            },
            ("sensor", "detections_per_day"): {
                **values,
                **measured,
                "name": "Detections per day",
                "icon": "mdi:ear-hearing",
                "unit_of_measurement": "1/d",
                "value_template": "{{ value_json.detections_per_day }}",
            },
            ("sensor", "false_accepts_per_day"): {
                **values,
                **measured,
                "name": "False accepts per day",
                "icon": "mdi:ear-hearing-off",
                "unit_of_measurement": "1/d",
                "value_template": "{{ value_json.false_accepts_per_day }}",
            },
            ("sensor", "unreviewed"): {
                **values,
                "name": "Captures to review",
                "icon": "mdi:inbox",
                "state_class": "measurement",
                "value_template": "{{ value_json.unreviewed }}",
            },
            ("sensor", "active_model"): {
                **values,
                "name": "Active model",
                "icon": "mdi:brain",
                "entity_category": "diagnostic",
                "value_template": "{{ value_json.active_model or 'unknown' }}",
            },
            ("update", "model"): {
                **common,
                "name": "New model",
                "title": "Wake word model",
                "state_topic": self._topic(name, "update"),
                "command_topic": self._topic(name, "install"),
                "payload_install": "INSTALL",
            },
        }
        made = {}
        for (component, key), config in entities.items():
            object = f"{object_id(name)}_{key}"
            topic = f"{self._prefix}/{component}/{self._instance}/{object}/config"
            made[topic] = {**config, "unique_id": f"{self._instance}_{object}"}
        return made

    def _values(self, status: SatelliteStatus) -> dict[str, dict[str, Any]]:
        active, new = status.active_model[:_NAME], status.new_model[:_NAME]
        update: dict[str, Any] = {
            # Words before the digest keep Home Assistant from ordering digests as if they were versions.
            "installed_version": f"model {active or 'unknown'}",
            "latest_version": f"model {new or active or 'unknown'}",
            "release_summary": status.new_model_summary[:_SUMMARY] if new else "",
        }
        if status.installing:
            update["in_progress"] = True  # known since 2024.12
        return {
            self._topic(status.name, "state"): {
                "capturing": status.capturing,
                "detections_per_day": _rounded(status.detections_per_day),
                "false_accepts_per_day": _rounded(status.false_accepts_per_day),
                "unreviewed": status.unreviewed,
                "active_model": active or None,
            },
            self._topic(status.name, "update"): update,
        }

    async def _publish_configs(self, name: str) -> None:
        await self._publish_current(name, self._configs)

    async def _publish_values(self, name: str) -> None:
        await self._publish_current(name, self._values)

    async def _publish_current(
        self, name: str, messages: Callable[[SatelliteStatus], dict[str, dict[str, Any]]]
    ) -> None:
        """Each message as it is when its turn comes: what waits for the broker is overtaken by what is newer."""
        for topic in messages(SatelliteStatus(name=name)):
            status = self._shown.get(name)
            if status is not None:
                await self._publish(topic, json.dumps(messages(status)[topic], ensure_ascii=False))

    async def _tell_everything(self) -> None:
        await self._empty_gone()
        for name in list(self._shown):
            await self._publish_configs(name)
            await self._publish_values(name)
        await self._publish(self._will_topic, "online")

    async def _publish(self, topic: str, payload: str) -> None:
        """Retained, and acknowledged by the broker. A connection that ends meanwhile is no error: all is told anew."""
        if self._client is None or self.state != "connected":
            return
        if len(payload.encode()) > _MOST_BYTES:
            raise ValueError(f"{len(payload)} characters for {topic}")
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent = self._client.publish(topic, payload, qos=1, retain=True)
        # The acknowledgement is handed over by call_soon, so it cannot be missed between these two lines.
        self._unacknowledged[sent.mid] = acknowledged
        try:
            async with asyncio.timeout(CONNECT_S):
                await acknowledged
        except TimeoutError:
            _LOG.warning("the MQTT broker did not acknowledge %s within %g s", topic, CONNECT_S)
        finally:
            self._unacknowledged.pop(sent.mid, None)

    # What comes in; all of it on the event loop, handed over by paho's thread

    def _connected(self, code: int) -> None:
        if code:
            if code in _REFUSALS:
                self.last_error = HomeAssistantRefusedError(
                    f"the MQTT broker at {self.broker.host}:{self.broker.port} refused us: {_REFUSALS[code]}",
                    hint="check user name and password of the broker",
                )
                # Again and again would look like an attack; somebody has to act.
                self._set_state("refused")
            else:
                self.last_error = self._unreachable(f"it answered with code {code}")
                self._failed = True
                self._changed.set()
            return
        self.last_error = None
        for last in ("capture/set", "install"):
            self._client.subscribe(f"{self._instance}/+/{last}", qos=1)
        # Our own retained discovery, to find what belongs to satellites that are gone.
        self._client.subscribe(f"{self._prefix}/+/{self._instance}/+/config", qos=1)
        self._set_state("connected")
        self._start(self._tell_everything())

    def _connect_failed(self, reason: str = "nothing answers there") -> None:
        self.last_error = self._unreachable(reason)
        self._failed = True
        self._changed.set()

    def _disconnected(self) -> None:
        if self.state == "connected":
            self.last_error = self._unreachable("the connection ended")
            self._set_state("connecting")
        elif self.state == "connecting":
            self._connect_failed("it ended the connection before it was open")
        self._forget_acknowledgements()

    def _acknowledged(self, mid: int) -> None:
        waiting = self._unacknowledged.get(mid)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _message(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic.startswith(f"{self._prefix}/"):
            if retained and 0 < len(payload) <= _MOST_BYTES:
                self._found_config(topic, payload)
            return
        names = {object_id(name): name for name in self._shown}
        parts = topic.split("/", maxsplit=2)
        name = names.get(parts[1], "") if len(parts) == 3 else ""
        wish = (parts[-1], payload[:16])
        # A retained command is one that somebody gave at another time.
        if not name or retained:
            self.ignored += 1
        elif wish in {("capture/set", b"ON"), ("capture/set", b"OFF")} and self._on_capture is not None:
            self._start(self._on_capture(name, payload == b"ON"))
        elif wish == ("install", b"INSTALL") and self._on_install is not None:
            self._start(self._on_install(name))
        else:
            self.ignored += 1

    def _found_config(self, topic: str, payload: bytes) -> None:
        """Notes a retained entity of ours; with ``remove_others`` those that no satellite has any more go."""
        try:
            origin = json.loads(payload).get("origin", {}).get("name")
        except (ValueError, AttributeError):
            return
        if origin != _ORIGIN:
            return
        self._found.add(topic)
        if self._only_shown and not self._is_shown(topic):
            self._gone[topic] = None
            self._start(self._empty_gone())

    def _start(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except MwwError as error:
                _LOG.warning("%s", error.message)

        task = asyncio.get_running_loop().create_task(run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    # The client library

    def _make_client(self) -> Any:
        """Reads certificates, so not on the event loop."""
        try:
            import paho.mqtt.client as paho  # type: ignore[import-untyped,import-not-found,unused-ignore]
        except ModuleNotFoundError as error:
            raise MissingDependencyError("paho-mqtt is not installed", hint=how_to_install("mqtt")) from error
        loop = self._loop
        assert loop is not None
        name = f"{self._instance}-{random.getrandbits(48):012x}"
        versions: Any = getattr(paho, "CallbackAPIVersion", None)
        client: Any = (
            paho.Client(client_id=name) if versions is None else paho.Client(versions.VERSION2, client_id=name)
        )

        def hand_over(function: Callable[..., None], *values: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(function, *values)

        def connected(*told: Any) -> None:
            code = _code(told[3])
            if code in _REFUSALS:
                # In paho's thread: it would knock again before a busy event loop hears of it. Not ``client``, which
                # would hold itself then, and paho closes its sockets when the last reference goes.
                told[0].disconnect()
            hand_over(self._connected, code)

        # Arguments differ between the releases of paho in what follows; these positions are the same.
        client.on_connect = connected
        client.on_connect_fail = lambda *_: hand_over(self._connect_failed)
        client.on_disconnect = lambda *_: hand_over(self._disconnected)
        client.on_publish = lambda *told: hand_over(self._acknowledged, told[2])
        client.on_message = lambda *told: hand_over(self._message, told[2].topic, told[2].payload, bool(told[2].retain))
        client.reconnect_delay_set(*(max(1, round(delay_s)) for delay_s in self._retry_s))
        client.will_set(self._will_topic, "offline", qos=1, retain=True)
        if self.broker.username:
            client.username_pw_set(self.broker.username, self.broker.password or None)
        if self.broker.tls:
            try:
                client.tls_set_context(ssl.create_default_context(cafile=self.broker.ca_file or None))
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(
                    f"{self.broker.ca_file}: no certificate can be read from it", hint="give a file in PEM format"
                ) from error
        return client

    async def _stop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            await asyncio.to_thread(client.loop_stop)
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        self._forget_acknowledgements()
        self._set_state("closed")

    def _forget_acknowledgements(self) -> None:
        for waiting in self._unacknowledged.values():
            if not waiting.done():
                waiting.set_result(None)
        self._unacknowledged.clear()

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._changed.set()

    def _unreachable(self, reason: str) -> HomeAssistantUnreachableError:
        return HomeAssistantUnreachableError(
            f"the MQTT broker at {self.broker.host}:{self.broker.port} cannot be reached: {reason}",
            hint="check host and port, and that the broker runs",
        )


def _code(reason: Any) -> int:
    """Release 1.6 of paho tells a number, 2.x an object; 0 is success in both."""
    value = getattr(reason, "value", reason)
    return value if isinstance(value, int) else 1


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 2)

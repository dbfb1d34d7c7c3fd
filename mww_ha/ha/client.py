"""What mww-ha asks of Home Assistant: its satellites, their microphones, what became of a wake-up, and to be heard.

``async with Client(access) as home:`` or, for a service, ``Client(access, patient=True)``. Every call raises
HomeAssistantUnreachableError, HomeAssistantRefusedError or HomeAssistantAnswerError.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mww_ha.errors import (
    HomeAssistantAnswerError,
    HomeAssistantRefusedError,
    HomeAssistantUnreachableError,
    InputError,
)
from mww_ha.ha.connection import Connection, Stream, _reason

_CAN_ANNOUNCE, _CAN_ASK = 1, 2  # bits of an assist_satellite's supported_features
_MOST_REST_BYTES = 8 << 20
_TITLE, _TEXT = 200, 4000  # characters of a notification
QUESTION_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Satellite:
    """A voice satellite as Home Assistant knows it: an ``assist_satellite`` entity with its device."""

    entity_id: str
    device_id: str  # "": not tied to a device; then it cannot be recorded
    name: str
    state: str  # idle | listening | processing | responding | unavailable | unknown
    integration: str  # esphome | wyoming | …
    config_entry_id: str = ""
    mac: str = ""  # as devices report it, 12:34:56:78:9A:BC in upper case
    host: str = ""  # where Home Assistant finds the device, where it tells
    host_name: str = ""  # ESPHome's node name, where it tells
    area: str = ""
    manufacturer: str = ""
    model: str = ""
    firmware: str = ""
    can_announce: bool = False
    can_ask: bool = False  # can be made to listen after a prompt

    @property
    def available(self) -> bool:
        """Whether Home Assistant has a connection to it."""
        return self.state not in {"unavailable", "unknown", ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was said after a question. ``heard`` False: nothing that speech-to-text could read."""

    heard: bool
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRun:
    """One run of an Assist pipeline. Home Assistant keeps the last ten of each pipeline, in memory."""

    run_id: str
    pipeline_id: str
    started_at: datetime  # UTC
    satellite_id: str = ""  # entity id; "": not started by a satellite
    outcome: str = ""  # see ``outcome_of``
    error_code: str = ""
    sentence: str = ""  # what speech-to-text read


class Client(Connection):
    """Home Assistant, as far as mww-ha uses it."""

    async def version(self) -> str:
        """Version of Home Assistant's core, such as ``2026.11.0``."""
        return str(_mapping(await self.command("get_config")).get("version", ""))

    async def rest(self, method: str, path: str, body: Any = None, *, timeout_s: float = 30.0) -> Any:
        """One call of the REST API, ``path`` as in ``/api/config``. Returns what the JSON answer holds, or its text."""
        from aiohttp import ClientError, ClientTimeout

        headers = {"Authorization": f"Bearer {self.access.token}"}
        try:
            async with self.session.request(
                method,
                f"{self.access.url}{path}",
                json=body,
                headers=headers,
                ssl=self.tls,
                allow_redirects=False,
                timeout=ClientTimeout(total=timeout_s),
            ) as response:
                if response.status in {401, 403}:
                    raise self._refused(f"HTTP status {response.status} for {path}")
                text = bytearray()
                async for piece in response.content.iter_any():
                    text += piece
                    if len(text) > _MOST_REST_BYTES:
                        raise self._unreachable(f"an answer of more than {_MOST_REST_BYTES >> 20} MiB to {path}")
                if response.status >= 300:
                    raise HomeAssistantAnswerError(
                        f"Home Assistant answered {path} with HTTP status {response.status}", code=str(response.status)
                    )
                return json.loads(text) if response.content_type == "application/json" else text.decode()
        except TimeoutError as error:
            raise self._unreachable(f"no answer within {timeout_s:g} s to {path}") from error
        except (OSError, ClientError, ValueError) as error:
            raise self._unreachable(_reason(error)) from error

    async def check(self) -> str:
        """Version by REST alone, without the WebSocket."""
        return str(_mapping(await self.rest("GET", "/api/config")).get("version", ""))

    async def fire_event(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Fires an event that automations can wait for. ``name`` begins with ``mww_ha_``."""
        if re.fullmatch(r"mww_ha_[a-z0-9_]{1,40}", name) is None:
            raise ValueError(f"not a name of our events: {name!r}")
        await self.command("fire_event", event_type=name, event_data=dict(data or {}))

    async def events(self, type: str) -> Stream:
        """The events of a type from now on, also after reconnects: ``{"event_type", "data", "time_fired", …}``."""
        return await self.subscribe("subscribe_events", event_type=type)

    async def call_service(
        self,
        domain: str,
        service: str,
        data: Mapping[str, Any] | None = None,
        *,
        target: Mapping[str, Any] | None = None,
        return_response: bool = False,
        timeout_s: float = 30.0,
    ) -> dict[str, Any]:
        """Performs an action and waits for its end. Returns its response data, where it has some and they are asked."""
        fields: dict[str, Any] = {"domain": domain, "service": service, "service_data": dict(data or {})}
        if target:
            fields["target"] = dict(target)
        if return_response:
            fields["return_response"] = True
        result = _mapping(await self.command("call_service", timeout_s=timeout_s, **fields))
        return _mapping(result.get("response"))

    async def notify(self, title: str, message: str, id: str) -> None:
        """Shows a notification in the sidebar; one with the same ``id`` is replaced."""
        data = {"title": title[:_TITLE], "message": message[:_TEXT], "notification_id": _notification(id)}
        await self.call_service("persistent_notification", "create", data)

    async def dismiss(self, id: str) -> None:
        """Takes a notification away, if it is there."""
        await self.call_service("persistent_notification", "dismiss", {"notification_id": _notification(id)})

    async def call_esphome_action(self, node: str, action: str, data: Mapping[str, Any] | None = None) -> None:
        """Calls an action that an ESPHome device offers, by way of Home Assistant. ``node`` is its host name."""
        service = f"{node.replace('-', '_')}_{action}"
        try:
            await self.call_service("esphome", service, data)
        except HomeAssistantAnswerError as error:
            if error.code != "not_found":
                raise
            raise HomeAssistantAnswerError(
                f"Home Assistant knows no action esphome.{service}",
                hint=f"add {node} to Home Assistant, and flash it with a firmware that has the action",
                code=error.code,
                key=error.key,
            ) from error

    async def satellites(self, *, hosts: bool = False) -> list[Satellite]:
        """All satellites, by name. ``hosts``: also asks for each ESPHome device's host, which takes a call each."""
        entities, devices, areas, states = await asyncio.gather(
            self.command("config/entity_registry/list"),
            self.command("config/device_registry/list"),
            self.command("config/area_registry/list"),
            self.command("get_states", timeout_s=30.0),
        )
        by_device = {str(device.get("id")): device for device in _rows(devices)}
        by_area = {str(area.get("area_id")): str(area.get("name") or "") for area in _rows(areas)}
        by_state = {str(state.get("entity_id")): state for state in _rows(states)}
        found = [
            _satellite(
                entity,
                by_device.get(str(entity.get("device_id")), {}),
                by_area,
                by_state.get(str(entity["entity_id"]), {}),
            )
            for entity in _rows(entities)
            if str(entity.get("entity_id", "")).startswith("assist_satellite.") and not entity.get("disabled_by")
        ]
        if hosts:
            found = [await self._with_host(each) for each in found]
        return sorted(found, key=lambda each: (each.name.casefold(), each.entity_id))

    async def find_satellite(self, wanted: str) -> Satellite:
        """A satellite by entity id, name, host name, MAC or device id. Raises InputError naming those there are."""
        named = wanted.strip().casefold()
        found = await self.satellites()
        tidy = named.replace(":", "").replace("-", "")
        for hosts in (False, True):
            found = [await self._with_host(each) for each in found] if hosts else found
            for each in found:
                words = {each.entity_id, each.entity_id.partition(".")[2], each.name, each.host_name, each.device_id}
                if named in {word.casefold() for word in words if word} or (
                    each.mac and tidy == each.mac.replace(":", "").casefold()
                ):
                    return each
        known = ", ".join(f"{each.name} ({each.entity_id})" for each in found) or "none"
        raise InputError(f"Home Assistant knows no satellite {wanted!r}", hint=f"it knows: {known}")

    async def state_of(self, entity_id: str) -> str:
        """An entity's state; empty where Home Assistant has no such entity."""
        try:
            return str(_mapping(await self.rest("GET", f"/api/states/{entity_id}")).get("state", ""))
        except HomeAssistantAnswerError as error:
            if error.code == "404":
                return ""
            raise

    async def ask_question(
        self,
        entity_id: str,
        question: str = "",
        *,
        media: str = "",
        preannounce: bool = True,
        timeout_s: float = QUESTION_S,
    ) -> Answer:
        """Has the satellite say ``question`` (or play ``media``), then listens and returns what was said.

        It listens until Home Assistant finds the speech over. A satellite that is busy raises HomeAssistantAnswerError.
        """
        if bool(question) == bool(media):
            raise ValueError("either a question or media")
        data: dict[str, Any] = {"entity_id": entity_id, "preannounce": preannounce}
        data |= {"question": question} if question else {"question_media_id": media}
        try:
            response = await self.call_service(
                "assist_satellite", "ask_question", data, return_response=True, timeout_s=timeout_s
            )
        except HomeAssistantAnswerError as error:
            # Newer releases name the case by a key, older ones only in English.
            if error.key == "no_answer" or "No answer" in error.message:
                return Answer(heard=False)
            raise
        return Answer(heard=True, sentence=str(response.get("sentence") or ""))

    async def intercept_wake_word(self, entity_id: str, timeout_s: float) -> str | None:
        """Waits until the satellite wakes and returns the phrase; nothing else happens then. None: it did not wake."""
        stream = await self.subscribe("assist_satellite/intercept_wake_word", entity_id=entity_id, lasting=False)
        async with stream:
            try:
                async with asyncio.timeout(timeout_s):
                    async for event in stream:
                        return str(_mapping(event).get("wake_word_phrase") or "")
            except TimeoutError:
                return None
        return None

    async def pipeline_runs(self, pipeline_id: str = "") -> list[PipelineRun]:
        """The runs that Home Assistant still remembers, of one pipeline or of all, oldest first."""
        ids = [pipeline_id]
        if not pipeline_id:
            listed = _mapping(await self.command("assist_pipeline/pipeline/list"))
            ids = [str(each["id"]) for each in _rows(listed.get("pipelines")) if "id" in each]
        runs = []
        for id in ids:
            listed = _mapping(await self.command("assist_pipeline/pipeline_debug/list", pipeline_id=id))
            for row in _rows(listed.get("pipeline_runs")):
                run_id = str(row.get("pipeline_run_id", ""))
                try:
                    got = await self.command(
                        "assist_pipeline/pipeline_debug/get", pipeline_id=id, pipeline_run_id=run_id
                    )
                except HomeAssistantAnswerError as error:
                    if error.code == "not_found":
                        continue  # pushed out by newer runs since it was listed
                    raise
                run = _pipeline_run(id, run_id, str(row.get("timestamp", "")), _rows(_mapping(got).get("events")))
                if run is not None:
                    runs.append(run)
        return sorted(runs, key=lambda run: (run.started_at, run.run_id))

    async def satellite_states(self) -> AsyncIterator[tuple[str, str]]:
        """(entity id, new state) of each satellite as it changes: the moment to look at ``pipeline_runs``."""
        async with await self.events("state_changed") as stream:
            async for event in stream:
                data = _mapping(_mapping(event).get("data"))
                entity_id = str(data.get("entity_id", ""))
                if entity_id.startswith("assist_satellite."):
                    yield entity_id, str(_mapping(data.get("new_state")).get("state", ""))

    async def _with_host(self, satellite: Satellite) -> Satellite:
        from dataclasses import replace

        if satellite.integration != "esphome" or not satellite.config_entry_id or satellite.host:
            return satellite
        # The registry holds no host; the entry's diagnostics do, where that integration is loaded.
        path = f"/api/diagnostics/config_entry/{satellite.config_entry_id}"
        try:
            told = _mapping(await self.rest("GET", path))
        except (HomeAssistantAnswerError, HomeAssistantRefusedError, HomeAssistantUnreachableError):
            return satellite
        data = _mapping(_mapping(_mapping(told.get("data")).get("config")).get("data"))
        return replace(satellite, host=str(data.get("host") or ""), host_name=str(data.get("device_name") or ""))


def outcome_of(events: Iterable[Mapping[str, Any]]) -> tuple[str, str, str]:
    """(outcome, error code, sentence) of a pipeline run's events.

    ``no_speech``: it woke and nobody spoke, the mark of a false accept; ``handled``: an intent was carried out or
    answered; ``heard``: speech was read and the run ended there; ``duplicate``: another satellite was first;
    ``no_wake``: Home Assistant's own wake-word stage timed out; ``failed``: any other error; ``ended``: over without
    any of this, as when it was cancelled; ``running``: not over.
    """
    code, sentence, intent, over = "", "", False, False
    for event in events:
        data, type = _mapping(event.get("data")), event.get("type")
        if type == "stt-end":
            sentence = str(_mapping(data.get("stt_output")).get("text") or "")
        elif type == "intent-end":
            intent = True
        elif type == "error":
            code = str(data.get("code", "unknown"))
        elif type == "run-end":
            over = True
    named = {
        "stt-no-text-recognized": "no_speech",
        "duplicate_wake_up_detected": "duplicate",
        "wake-word-timeout": "no_wake",
    }
    if code:
        return named.get(code, "failed"), code, sentence
    if not over:
        return "running", "", sentence
    return ("handled" if intent else "heard" if sentence else "ended"), "", sentence


def outcome_near(
    runs: Iterable[PipelineRun], satellite_id: str, at: datetime, *, within_s: float = 5.0
) -> PipelineRun | None:
    """The run of the satellite that started nearest to ``at`` (aware), at most ``within_s`` away; else None."""
    mine = [
        (abs((run.started_at - at).total_seconds()), run.run_id, run)
        for run in runs
        if run.satellite_id == satellite_id
    ]
    nearest = min(mine, default=None, key=lambda each: each[:2])
    return nearest[2] if nearest is not None and nearest[0] <= within_s else None


def _pipeline_run(pipeline_id: str, run_id: str, listed_at: str, events: list[dict[str, Any]]) -> PipelineRun | None:
    start: dict[str, Any] = next((event for event in events if event.get("type") == "run-start"), {})
    try:
        started_at = datetime.fromisoformat(str(start.get("timestamp") or listed_at))
    except ValueError:
        return None
    if started_at.tzinfo is None:
        started_at = started_at.replace(tzinfo=UTC)
    outcome, code, sentence = outcome_of(events)
    return PipelineRun(
        run_id=run_id,
        pipeline_id=pipeline_id,
        started_at=started_at.astimezone(UTC),
        satellite_id=str(_mapping(start.get("data")).get("satellite_id") or ""),
        outcome=outcome,
        error_code=code,
        sentence=sentence,
    )


def _satellite(
    entity: Mapping[str, Any], device: Mapping[str, Any], areas: Mapping[str, str], state: Mapping[str, Any]
) -> Satellite:
    macs = [str(pair[1]) for pair in device.get("connections") or () if len(pair) == 2 and pair[0] == "mac"]
    attributes = _mapping(state.get("attributes"))
    features = attributes.get("supported_features")
    bits = features if isinstance(features, int) else 0
    area = areas.get(str(entity.get("area_id") or device.get("area_id") or ""), "")
    names = (device.get("name_by_user"), device.get("name"), attributes.get("friendly_name"), entity.get("entity_id"))
    return Satellite(
        entity_id=str(entity["entity_id"]),
        device_id=str(entity.get("device_id") or ""),
        name=str(next(name for name in names if name)),
        state=str(state.get("state", "")),
        integration=str(entity.get("platform") or ""),
        config_entry_id=str(entity.get("config_entry_id") or ""),
        mac=macs[0].upper() if macs else "",
        area=area,
        manufacturer=str(device.get("manufacturer") or ""),
        model=str(device.get("model") or ""),
        firmware=str(device.get("sw_version") or ""),
        can_announce=bool(bits & _CAN_ANNOUNCE),
        can_ask=bool(bits & _CAN_ASK),
    )


def _notification(id: str) -> str:
    return "mww_ha_" + re.sub(r"[^a-z0-9_]+", "_", id.lower())[:60]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _rows(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []

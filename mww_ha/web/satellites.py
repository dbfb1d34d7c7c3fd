"""Satellites asked over their native API by the service: how long they listened.

An upload says so too, but a satellite that nothing wakes sends none, and its hours are the best news of all.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

from mww_ha.capture import exposure
from mww_ha.capture.tokens import list_tokens
from mww_ha.devices.connection import Connection, Value
from mww_ha.devices.known import api_key_of, find_device, load_devices
from mww_ha.devices.network import resolve
from mww_ha.errors import MwwError
from mww_ha.store import Project
from mww_ha.web.background import Background
from mww_ha.web.service import Service

ASK_EVERY_S = 3600.0
TIMEOUT_S = 8.0

logger = logging.getLogger(__name__)


async def connect_satellite(service: Service, name: str, *, timeout_s: float = TIMEOUT_S) -> Connection:
    """A connection to a device of devices.yaml, not yet opened. Raises InputError, DeviceError, ConfigError."""

    def look(project: Project) -> tuple[str, int, str]:
        importlib.import_module("aioesphomeapi")  # takes its time
        device = find_device(project, name)
        return resolve(device.address or f"{name}.local"), device.port, api_key_of(project, device)

    address, port, api_key = await service.ask(look)
    return Connection(address, port=port, api_key=api_key, timeout_s=timeout_s)


class Counters:
    """Asks every satellite that may send captures for its counters, from ``start`` to ``stop``."""

    def __init__(self, service: Service, *, ask_every_s: float = ASK_EVERY_S) -> None:
        self._service, self._ask_every_s = service, ask_every_s
        background = Background("counters", self._run)
        self.start, self.stop = background.start, background.stop

    async def _run(self) -> None:
        while True:
            try:
                for name in await self._service.ask(_list_admitted):
                    await self._ask(name)
            except (MwwError, OSError, sqlite3.Error) as error:
                logger.warning("listening hours: %s", error)
            await asyncio.sleep(self._ask_every_s)

    async def _ask(self, name: str) -> None:
        try:
            async with await connect_satellite(self._service, name) as device:
                values = await device.values()
        except MwwError as error:  # it may be away; its counters are not
            logger.info("listening hours of %s: %s", name, error.message)
            return
        await self._service.ask(partial(note_counters, name=name, values=values, at=datetime.now(UTC)))


def _list_admitted(project: Project) -> list[str]:
    """Devices that may send captures and have a token to do it."""
    admitted = {token.device for token in list_tokens(project) if not token.revoked_at}
    return [name for name, device in load_devices(project).items() if device.capture_url and name in admitted]


def note_counters(project: Project, name: str, values: Mapping[str, Value], at: datetime) -> None:
    """Counts what a satellite's entities show as an upload would; nothing where it shows no hours."""
    made = [token.made_at for token in list_tokens(project) if token.device == name and not token.revoked_at]
    with project.catalogue.transaction():  # an upload that comes meanwhile waits
        reading = exposure.read_entities(project.catalogue, name, values, at)
        if reading is not None and made:
            exposure.note_reading(project.catalogue, reading, known_since=datetime.fromisoformat(min(made)))

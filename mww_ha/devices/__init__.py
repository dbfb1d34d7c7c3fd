"""Satellites: what the project knows of them, what is on the network, and one connection to each.

``known`` reads and extends ``devices.yaml``, ``network`` finds and resolves, ``connection`` talks. ``survey`` joins the
three: one row for each device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mww_ha.devices import connection, known, network
from mww_ha.errors import DeviceUnreachableError, MwwError
from mww_ha.schema import Device

if TYPE_CHECKING:
    from mww_ha.store import Project

_AT_ONCE = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One device: what the project knows, what it announces, and what it says when asked. "" is unknown."""

    name: str
    friendly_name: str = ""
    known: bool = False  # stands in devices.yaml
    found: bool = False  # announces itself on the network
    reachable: bool = False  # answered over the native API just now; only known devices are asked
    why_not: str = ""  # where it did not: one sentence
    address: str = ""
    port: int = network.API_PORT
    template: str = ""
    backend: str = ""
    esphome_version: str = ""
    wake_model: str = ""
    build_time: str = ""
    mac: str = ""
    encrypted: bool = False


async def survey(
    project: Project,
    timeout_s: float = 3.0,
    *,
    ask_s: float = 6.0,
    discover: Callable[[], Awaitable[list[network.Found]]] | None = None,
) -> list[Seen]:
    """Every device that is known or announces itself, the known ones first.

    Announcements are listened to for ``timeout_s``. Known devices are asked at the same time, each for ``ask_s`` at
    most, so one that is silent holds up nobody. One without an address is asked where it announces itself, and else
    under ``<name>.local``. ``discover`` replaces ``network.discover``. Raises ConfigError on a bad ``devices.yaml`` and
    nothing else: what is wrong with a single device stands in its row.
    """
    devices = list(known.load_devices(project).values())
    turns = asyncio.Semaphore(_AT_ONCE)

    async def look() -> list[network.Found]:
        try:
            if discover is not None:
                return await discover()
            return await network.discover(timeout_s, wanted=[device.name for device in devices])
        except DeviceUnreachableError:
            return []  # a machine without multicast may still reach its devices

    async def ask(device: Device) -> Seen:
        address = device.address
        if not address:
            places = [announced.address for announced in await looking if announced.name == device.name]
            address = places[0] if places else f"{device.name}.local"
        async with turns:
            return await _ask(project, device, address, ask_s)

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        asking = [group.create_task(ask(device)) for device in devices]
    found, asked = looking.result(), [task.result() for task in asking]
    by_name: dict[str, list[network.Found]] = {}
    for announced in found:
        by_name.setdefault(announced.name, []).append(announced)
    rows = [_join(seen, by_name.pop(seen.name, [])) for seen in asked]
    strangers = [Seen(name=name) for name in sorted(by_name)]
    return rows + [_join(seen, by_name[seen.name]) for seen in strangers]


async def _ask(project: Project, device: Device, address: str, timeout_s: float) -> Seen:
    seen = Seen(
        name=device.name,
        friendly_name=device.friendly_name,
        known=True,
        address=address,
        port=device.port,
        template=device.template,
        backend=device.backend,
        encrypted=bool(device.api_key),
    )
    try:
        key = known.api_key_of(project, device)
        state = await connection.read_state(seen.address, port=device.port, api_key=key, timeout_s=timeout_s)
    except MwwError as error:
        return replace(seen, why_not=error.message)
    why_not = "" if state.name == device.name else f"a device called {state.name} answers at this address"
    return replace(
        seen,
        reachable=True,
        why_not=why_not,
        friendly_name=seen.friendly_name or state.friendly_name,
        esphome_version=state.esphome_version,
        wake_model=state.wake_model,
        build_time=state.build_time,
        mac=state.mac,
    )


def _join(seen: Seen, found: list[network.Found]) -> Seen:
    if not found:
        return seen
    first = found[0]
    told = [seen.why_not] if seen.why_not else []
    if len({(device.address, device.port) for device in found}) > 1:
        told.append(f"several devices announce this name: {', '.join(device.address for device in found[:4])}")
    elif seen.known and not seen.reachable and first.address != seen.address:
        told.append(f"it announces itself at {first.address}")
    if not seen.known:
        seen = replace(seen, address=first.address, port=first.port, encrypted=first.encrypted)
    return replace(
        seen,
        found=True,
        why_not="; ".join(told),
        friendly_name=seen.friendly_name or first.friendly_name,
        esphome_version=seen.esphome_version or first.esphome_version,
        mac=seen.mac or first.mac,
    )

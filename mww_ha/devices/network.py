"""Satellites on the network: who announces itself, and which address a name has.

What an announcement says is hostile: anybody on the network can send one. A name that could be a path is dropped, texts
lose what cannot be shown and end after a while, and so does the list.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import queue
import re
import socket
import threading
import time
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mww_ha.devices.known import is_address, is_ip_address
from mww_ha.errors import DeviceUnreachableError, InputError, MwwError

if TYPE_CHECKING:
    from zeroconf import DNSRecord, ServiceStateChange, Zeroconf  # type: ignore[attr-defined, unused-ignore]

SERVICE = "_esphomelib._tcp.local."
API_PORT = 6053

MOST_FOUND = 256
"""Further announcements are left out: nobody has so many devices."""

LONGEST_TEXT = 120
_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A device that announces itself. Texts are clean and at most ``LONGEST_TEXT`` long, "" where it says nothing."""

    name: str  # host name: lower-case letters, digits, hyphens, underscores
    friendly_name: str
    address: str  # IP address
    port: int  # native API
    esphome_version: str
    mac: str  # AA:BB:CC:DD:EE:FF
    platform: str
    board: str
    network: str
    encrypted: bool
    project_name: str
    project_version: str
    config_hash: str


async def discover(
    timeout_s: float = 3.0,
    *,
    wanted: Collection[str] = (),
    interfaces: Sequence[str] | None = None,
    most: int = MOST_FOUND,
) -> list[Found]:
    """Every ESPHome device that announces itself within ``timeout_s``, by name; not ``wanted`` ones at most ``most``.

    Names in ``wanted`` are asked for directly, so a flood of others does not hide them. Two devices of one name are
    two, told apart by their MAC addresses. ``interfaces`` are the addresses to ask on; None: all. Raises
    DeviceUnreachableError where there is no network.
    """
    from zeroconf import InterfaceChoice
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

    until = time.monotonic() + timeout_s
    try:
        multicast = AsyncZeroconf(interfaces=list(interfaces) if interfaces else InterfaceChoice.All)
    except OSError as error:
        raise DeviceUnreachableError(
            f"the network cannot be asked for devices: {error.strerror or error}",
            hint="check this machine's network; a device with an address in devices.yaml needs no asking",
        ) from None
    names: asyncio.Queue[str] = asyncio.Queue()
    direct = {f"{name}.{SERVICE}" for name in wanted}
    seen: set[str] = set()
    found: list[Found] = []
    packets = _listen_to_packets(multicast.zeroconf)

    # zeroconf calls its handlers by these keywords
    def heard(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:  # noqa: ARG001
        if name not in seen and name not in direct and len(seen) < most:
            seen.add(name)
            names.put_nowait(name)

    async def ask(name: str) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        left_ms = max(1.0, (until - time.monotonic()) * 1000)
        if await info.async_request(multicast.zeroconf, left_ms):
            clean = clean_announcement(info.name, info.parsed_scoped_addresses(), info.port or 0, info.properties)
            if clean is not None:
                found.append(clean)

    async def ask_all() -> None:
        while True:
            await ask(await names.get())

    browser = AsyncServiceBrowser(multicast.zeroconf, SERVICE, handlers=[heard])
    workers = [asyncio.create_task(ask(name)) for name in direct]
    workers += [asyncio.create_task(ask_all()) for _ in range(_AT_ONCE)]
    try:
        # the last ones never end; one that fails ends the wait, and its error is a defect of ours
        done, _ = await asyncio.wait(workers, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        for worker in done:
            worker.result()
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await browser.async_cancel()
        await multicast.async_close()
    found += packets.namesakes_of(found)
    return sorted(found, key=lambda device: (device.name, device.address))


def find_namesakes(name: str, timeout_s: float = 1.5, *, interfaces: Sequence[str] | None = None) -> list[Found]:
    """Every device that announces itself as ``name``: more than one when two were given it. Asks for ``timeout_s``."""
    try:
        found = asyncio.run(discover(timeout_s, wanted=[name], interfaces=interfaces))
    except DeviceUnreachableError:
        return []  # no multicast here: nobody can say
    return [device for device in found if device.name == name]


MOST_NAMESAKES = 4


class _Packets:
    """What devices say packet by packet: zeroconf keeps one answer for each name, whoever gave it."""

    def __init__(self) -> None:
        self.said: dict[str, dict[str, Found]] = {}  # by name, then by MAC

    def take(self, records: Sequence[DNSRecord]) -> None:
        from zeroconf import DNSAddress, DNSService, DNSText  # type: ignore[attr-defined, unused-ignore]

        for text in (r for r in records if isinstance(r, DNSText) and r.name.endswith(SERVICE)):
            places = [r for r in records if isinstance(r, DNSService) and r.name == text.name]
            servers = {place.server for place in places}
            addresses = [r for r in records if isinstance(r, DNSAddress) and r.name in servers]
            if not addresses:
                continue
            said = [str(ipaddress.ip_address(record.address)) for record in addresses]
            clean = clean_announcement(text.name, said, places[0].port, _read_txt(text.text))
            if clean is None or not clean.mac or (clean.name not in self.said and len(self.said) >= MOST_FOUND):
                continue
            devices = self.said.setdefault(clean.name, {})
            if len(devices) < MOST_NAMESAKES:
                devices.setdefault(clean.mac, clean)

    def namesakes_of(self, found: Sequence[Found]) -> list[Found]:
        """Devices that share the name of one in ``found`` and are another."""
        macs = {device.name: device.mac for device in found if device.mac}
        return [other for name, mac in macs.items() for other in self.said.get(name, {}).values() if other.mac != mac]


def _read_txt(data: bytes) -> dict[bytes, bytes | None]:
    """The keys and values of a TXT record: strings of ``key=value``, each behind its length in one byte."""
    texts: dict[bytes, bytes | None] = {}
    while data:
        length = data[0]
        key, equals, value = data[1 : 1 + length].partition(b"=")
        texts.setdefault(key, value if equals else None)
        data = data[1 + length :]
    return texts


def _listen_to_packets(multicast: Zeroconf) -> _Packets:
    from zeroconf import RecordUpdate, RecordUpdateListener

    packets = _Packets()

    class Listener(RecordUpdateListener):
        def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:  # noqa: ARG002
            packets.take([record.new for record in records])

    multicast.async_add_listener(Listener(), None)
    return packets


def clean_announcement(
    instance: str, addresses: Sequence[str], port: int, txt: Mapping[bytes, bytes | None]
) -> Found | None:
    """What an announcement says, cleaned; None when its name is no host name or no address can be reached."""
    name = instance.removesuffix(f".{SERVICE}").lower()
    if not re.fullmatch(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", name, re.ASCII):
        return None
    usable = sorted((a for a in addresses if is_ip_address(a) and _is_a_host(a)), key=lambda a: (":" in a, a))
    if not usable or not 0 < port < 65536:
        return None
    texts: dict[str, str] = {}
    for key, value in txt.items():
        texts.setdefault(key.decode("ascii", "replace").lower(), clean_text(value or b""))

    def matching(key: str, pattern: str) -> str:
        text = texts.get(key, "")
        return text if re.fullmatch(pattern, text, re.ASCII) else ""

    digits = matching("mac", r"[0-9A-Fa-f]{12}").upper()
    return Found(
        name=name,
        friendly_name=texts.get("friendly_name", ""),
        address=usable[0],
        port=port,
        esphome_version=matching("version", r"[0-9]{1,5}\.[0-9]{1,3}\.[0-9]{1,5}[A-Za-z0-9.+-]{0,20}"),
        mac=":".join(digits[i : i + 2] for i in range(0, len(digits), 2)),
        platform=matching("platform", r"[A-Za-z0-9_. -]{1,40}"),
        board=matching("board", r"[A-Za-z0-9_. -]{1,60}"),
        network=matching("network", r"[A-Za-z0-9_. -]{1,20}"),
        encrypted=bool(texts.get("api_encryption")),
        project_name=texts.get("project_name", ""),
        project_version=texts.get("project_version", ""),
        config_hash=matching("config_hash", r"[0-9A-Fa-f]{1,64}").lower(),
    )


def _is_a_host(address: str) -> bool:
    number = ipaddress.ip_address(address.partition("%")[0])
    return not (number.is_unspecified or number.is_multicast)


def clean_text(value: bytes | str, longest: int = LONGEST_TEXT) -> str:
    """One line that can be shown: no control, format (direction, joiners) or unassigned characters, no invalid UTF-8.

    White space becomes single blanks. At most ``longest`` characters. Clean text stays as it is.
    """
    text = value if isinstance(value, str) else value[: 4 * longest].decode("utf-8", "replace")
    text = "".join(" " if c.isspace() else c for c in text[: 4 * longest])
    text = "".join(c for c in text if unicodedata.category(c)[0] not in "CZ" or c == " ")
    return " ".join(text.split())[:longest].rstrip()


def resolve(
    host: str,
    timeout_s: float = 3.0,
    *,
    lookup: Callable[[str], list[str]] | None = None,
    ask: Callable[[str, float], list[str]] | None = None,
) -> str:
    """The IP address of ``host``, which may be one already; IPv4 where there is a choice.

    A name without a dot is also looked for as ``<name>.local``. ``lookup`` asks the system (which cannot be stopped and
    may take longer: it is left alone then), ``ask`` asks the network by multicast. Raises InputError on what is no
    address, DeviceUnreachableError when nobody answers within ``timeout_s``.
    """
    if not is_address(host):
        raise InputError(
            f"{host!r} is no address", hint="write an IP address or a host name, without http:// or a port"
        )
    if is_ip_address(host):
        return host
    lookup, ask = lookup or _look_up, ask or ask_network
    name = host.removesuffix(".")
    local = name if name.lower().endswith(".local") else "" if "." in name else f"{name}.local"
    answers: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    questions: list[Callable[[], list[str]]] = [lambda: lookup(name)]
    if local:
        questions.append(lambda: ask(local, timeout_s))
    for question in questions:
        # A daemon: the end of the program does not wait for the system's resolver.
        threading.Thread(target=lambda q=question: answers.put(q()), daemon=True).start()
    until = time.monotonic() + timeout_s
    for _ in questions:
        try:
            answer = answers.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        usable = [address for address in answer if is_ip_address(address)]
        if usable:
            return min(usable, key=lambda address: ":" in address)
    raise DeviceUnreachableError(
        f"no device answers to the name {host} (asked for {timeout_s:g} s)",
        hint="is it switched on and in this network? Where names do not work, write its number into devices.yaml: "
        "address: 192.168.1.20",
    )


async def resolve_soon(host: str, timeout_s: float = 3.0) -> str:
    """``resolve`` beside the event loop, in a thread of its own: no other name and no program's end waits for it."""
    if is_ip_address(host):
        return host
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def tell(address: str, error: Exception | None) -> None:
        if answer.done():  # nobody waits any more
            return
        if error is None:
            answer.set_result(address)
        else:
            answer.set_exception(error)

    def ask() -> None:
        address, failure = "", None
        try:
            address = resolve(host, timeout_s)
        except MwwError as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(tell, address, failure)

    threading.Thread(target=ask, daemon=True).start()
    return await answer


def _look_up(name: str) -> list[str]:
    try:
        rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(row[4][0]) for row in rows]


def ask_network(name: str, timeout_s: float, *, interfaces: Sequence[str] | None = None) -> list[str]:
    """The addresses that the owner of ``name`` (ends in ``.local``) gives by multicast within ``timeout_s``, if any."""
    from zeroconf import AddressResolver, InterfaceChoice, Zeroconf  # type: ignore[attr-defined, unused-ignore]

    try:
        multicast = Zeroconf(interfaces=list(interfaces) if interfaces else InterfaceChoice.All)
    except OSError:
        return []
    try:
        resolver = AddressResolver(f"{name}.")
        with contextlib.suppress(OSError):
            resolver.request(multicast, timeout_s * 1000)
        return resolver.parsed_scoped_addresses()
    finally:
        multicast.close()


def is_listening(address: str, port: int, timeout_s: float = 2.0) -> bool:
    """Whether something takes a connection there. ``address`` is an IP address."""
    try:
        with socket.create_connection((address, port), timeout=timeout_s):
            return True
    except OSError:
        return False

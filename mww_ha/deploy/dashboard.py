"""What a dashboard of ESPHome's is asked: a Device Builder over ``/ws``, a classic one by its page's own requests.

Both are found at one address; ``open_dashboard`` says which it is. Answers come from another machine and are checked
here; what is wrong becomes an error that names the address, never user or password.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from mww_ha.errors import ConfigError, DeviceUnreachableError, FlashError
from mww_ha.websession import open_session

if TYPE_CHECKING:
    import aiohttp

OTA = "OTA"
"""Where an upload goes that names no target: ESPHome takes the address from the YAML."""

_LARGEST_ANSWER = 16 << 20
"""Bytes of one message; a resolved configuration takes some hundred kilobytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait, in seconds."""

    connect_s: float = 5.0
    answer_s: float = 60.0  # one command; validating a configuration takes seconds
    compile_s: float = 3600.0  # the first build of a Raspberry Pi
    upload_s: float = 600.0
    reconnect_s: float = 60.0  # how long a builder may be gone in the middle of a job


# --- the address --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a dashboard is, and who asks. ``shown`` is the part that may be told."""

    base: str  # without user and password, without a slash at the end
    user: str
    password: str

    @property
    def shown(self) -> str:
        """The address without user and password."""
        return self.base

    def __repr__(self) -> str:
        return f"Address({self.base})"

    @property
    def headers(self) -> dict[str, str]:
        """HTTP basic authentication, or nothing."""
        if not (self.user or self.password):
            return {}
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {token}"}


def read_url(url: str) -> Address:
    """Raises ConfigError, which never shows user or password."""
    shown = re.sub(r"//[^/@]*@", "//", url.strip())
    if "@" in shown:  # a password with a slash in it
        shown = "flash.builder_url"
    hint = "write http://192.168.1.10:6052, or with a login http://user:password@192.168.1.10:6052"
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(
            f"{shown!r} is not an address", hint=f"{hint}; signs such as / and @ as %2F and %40"
        ) from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(f"{shown!r} is not the address of an ESPHome dashboard", hint=hint)
    name = f"[{host}]" if ":" in host else host
    base = f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
    return Address(base=base, user=unquote(parts.username or ""), password=unquote(parts.password or ""))


# --- the two kinds of dashboards ----------------------------------------------------------------------------------


class Dashboard(Protocol):
    """What is asked of a dashboard, whichever kind it is."""

    title: str
    esphome_version: str
    takes_files: bool

    async def read_text(self, path: str) -> str | None:
        """A text of its configuration folder, or None."""

    async def import_bundle(self, bundle: bytes, replaced: Sequence[str]) -> None:
        """Places a bundle's files, over those in ``replaced``."""

    async def secret_names(self) -> list[str]:
        """Names in its secrets.yaml."""

    async def add_secret(self, name: str, value: str) -> None:
        """Adds a secret that is not there."""

    async def serial_ports(self) -> list[str]:
        """Serial ports of its machine."""

    async def resolve(self, configuration: str) -> tuple[dict[str, Any] | None, str]:
        """The configuration as it would be built, or None and what is wrong with it."""

    async def run(self, step: str, configuration: str, port: str, take: Callable[[str], None]) -> int:
        """Compiles or uploads; ``take`` gets the output as it comes. Returns the exit code."""


@asynccontextmanager
async def open_dashboard(address: Address, timeouts: Timeouts) -> AsyncIterator[Dashboard]:
    """A Device Builder, or a classic dashboard where there is none.

    Raises FlashError when nothing answers or something else does, ConfigError when it wants another login.
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect_s, sock_read=timeouts.answer_s)
    # of its own: the one of aiohttp is made when it is imported, and keeps the certificates of that moment
    trusted = ssl.create_default_context() if address.base.startswith("https") else True
    async with open_session(tls=trusted, timeout=timeout, headers=address.headers) as session:
        web = _Web(session, address, timeouts)
        with _network_errors(address):
            socket = await web.open_socket("/ws")
            if socket is None:
                version = await web.classic_version()
                yield ClassicDashboard(web, version)
                return
            async with socket:
                builder = DeviceBuilder(web, socket)
                await builder.greet()
                try:
                    yield builder
                finally:
                    await builder.leave()


def greet(url: str, timeouts: Timeouts) -> tuple[str, str]:
    """Who answers at ``url``: its title and its version of ESPHome. Blocks. Raises ConfigError, FlashError."""
    address = read_url(url)

    async def ask() -> tuple[str, str]:
        async with open_dashboard(address, timeouts) as dashboard:
            return dashboard.title, dashboard.esphome_version

    return asyncio.run(ask())


@contextlib.contextmanager
def _network_errors(address: Address) -> Iterator[None]:
    import aiohttp

    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise FlashError(
            f"the certificate of {address.shown} is not trusted: {error.certificate_error}",
            hint="name the certificate that signed it in the environment variable SSL_CERT_FILE, or use http://",
        ) from None
    except (aiohttp.ClientConnectorSSLError, ssl.SSLError):
        raise FlashError(f"{address.shown} does not speak TLS", hint="write http:// instead of https://") from None
    except aiohttp.ClientConnectorError as error:
        raise FlashError(
            f"nothing answers at {address.shown}: {error.os_error.strerror or error.os_error}",
            hint="is the dashboard running, and is flash.builder_url right? its usual port is 6052",
        ) from None
    except (aiohttp.ServerTimeoutError, TimeoutError):
        raise FlashError(f"{address.shown} does not answer in time", hint="is it busy? try again") from None
    except (aiohttp.ClientError, ConnectionError) as error:
        raise _lost(address, type(error).__name__) from None


def _lost(address: Address, why: str) -> FlashError:
    return FlashError(
        f"the connection to {address.shown} was lost ({why})",
        hint="look there whether it still works on the device; the device is bootable, so flash again",
    )


def _not_esphome(address: Address) -> FlashError:
    return FlashError(
        f"{address.shown} answers, but is no ESPHome dashboard",
        hint="set flash.builder_url to the address that shows ESPHome's devices, not to Home Assistant's",
    )


def _refused(address: Address, details: str = "") -> ConfigError:
    who = "refuses user and password" if address.headers else "wants a user and a password"
    return ConfigError(
        f"{address.shown} {who}{f' ({details})' if details else ''}",
        hint="set flash.builder_url to http://user:password@host:port",
    )


def _forbidden(address: Address) -> FlashError:
    return FlashError(
        f"{address.shown} lets nobody but Home Assistant in",
        hint="ESPHome's add-on does that: use flash.handoff_dir with its folder, or a Device Builder of its own",
    )


class _Web:
    """HTTP with the words for what goes wrong."""

    def __init__(self, session: aiohttp.ClientSession, address: Address, timeouts: Timeouts) -> None:
        self.session, self.address, self.timeouts = session, address, timeouts

    async def open_socket(self, path: str) -> aiohttp.ClientWebSocketResponse | None:
        """A WebSocket, or None when there is no such path. A path may answer with any page instead."""
        import aiohttp

        try:
            return await self.session.ws_connect(
                f"{self.address.base}{path}", heartbeat=30, max_msg_size=_LARGEST_ANSWER, timeout=_close_timeout()
            )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 401:
                raise _refused(self.address) from None
            if error.status == 403:
                raise _forbidden(self.address) from None
            return None

    async def classic_version(self) -> str:
        status, text = await self.get("/version")
        try:
            version = json.loads(text)["version"] if status == 200 else None
        except (ValueError, KeyError, TypeError):
            version = None
        if not isinstance(version, str) or not re.match(r"\d{4}\.\d+\.", version):
            raise _not_esphome(self.address)
        return version

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text. Raises ConfigError when a login is wanted."""
        return await self._ask("GET", path)

    async def post(self, path: str, data: bytes) -> tuple[int, str]:
        """Status and text."""
        return await self._ask("POST", path, data=data)

    async def _ask(self, method: str, path: str, *, data: bytes | None = None) -> tuple[int, str]:
        async with self.session.request(
            method, f"{self.address.base}{path}", data=data, allow_redirects=False
        ) as response:
            if response.status == 401 or "login" in response.headers.get("Location", ""):
                raise _refused(self.address)
            if response.status == 403:
                raise _forbidden(self.address)
            if response.content_length is not None and response.content_length > _LARGEST_ANSWER:
                raise _not_esphome(self.address)
            return response.status, (await response.read()).decode("utf-8", "replace")


def _close_timeout() -> Any:
    import aiohttp

    return aiohttp.ClientWSTimeout(ws_close=2.0)


async def _receive(
    socket: aiohttp.ClientWebSocketResponse, address: Address, timeout_s: float | None
) -> dict[str, Any]:
    """The next JSON object. Raises FlashError when the connection ends or says something else."""
    import aiohttp

    message = await socket.receive(timeout=timeout_s)
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise _lost(address, "closed by the other side")
    try:
        document = json.loads(message.data)
    except ValueError:
        raise _not_esphome(address) from None
    if not isinstance(document, dict):
        raise _not_esphome(address)
    return document


class CommandRefusedError(FlashError):
    """A Device Builder answered a command with an error code."""

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class DeviceBuilder:
    """ESPHome's Device Builder: one WebSocket, commands with an id, jobs that outlive the connection."""

    takes_files = True

    def __init__(self, web: _Web, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._web, self._socket = web, socket
        self._number = 0
        self._session = False
        self.title, self.esphome_version = "Device Builder", ""

    async def greet(self) -> None:
        """Reads who it is, and logs in where that is wanted."""
        hello = await _receive(self._socket, self._web.address, self._web.timeouts.answer_s)
        version = hello.get("esphome_version")
        if not isinstance(version, str) or not isinstance(hello.get("server_version"), str):
            raise _not_esphome(self._web.address)
        self.title, self.esphome_version = f"Device Builder {hello['server_version']}", version
        if hello.get("requires_auth"):
            if not self._web.address.headers:
                raise _refused(self._web.address)
            login = {"username": self._web.address.user, "password": self._web.address.password}
            try:
                await self._command("auth/login", login)
            except CommandRefusedError as error:
                details = error.message if error.code == "rate_limited" else ""
                raise _refused(self._web.address, details) from None
            self._session = True

    async def leave(self) -> None:
        """Ends the session, so that no token is left behind."""
        if self._session and not self._socket.closed:
            with contextlib.suppress(FlashError, TimeoutError, ConnectionError):
                await self._command("auth/logout", timeout_s=2.0)
        await self._socket.close()

    async def _command(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        event: Callable[[str, Any], None] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """The result of a command; ``event`` gets what comes before it, and then there is no limit of time."""
        self._number += 1
        id = str(self._number)
        limit_s = None if event else (timeout_s or self._web.timeouts.answer_s)
        await self._socket.send_json({"command": command, "message_id": id, "args": dict(arguments or {})})
        while True:
            answer = await _receive(self._socket, self._web.address, limit_s)
            if answer.get("message_id") != id:
                continue
            if "event" in answer:
                if event:
                    event(str(answer["event"]), answer.get("data"))
            elif "error_code" in answer:
                code, details = str(answer["error_code"]), str(answer.get("details") or "")
                raise CommandRefusedError(
                    code,
                    f"{self.title} at {self._web.address.shown} refuses {command}: {details or code}",
                    hint="this version was not made for it: use a newer one, or flash.handoff_dir"
                    if code == "unknown_command"
                    else "its own log says more",
                )
            else:
                return answer.get("result")

    async def read_text(self, path: str) -> str | None:
        """A text of its configuration folder, or None."""
        try:
            text = await self._command("devices/get_config", {"configuration": path})
        except CommandRefusedError as error:
            if error.code == "not_found":
                return None
            raise
        return text if isinstance(text, str) else None

    async def import_bundle(self, bundle: bytes, replaced: Sequence[str]) -> None:
        """Places a bundle's files, over those in ``replaced``. Raises FlashError when one of those stayed."""
        token = await self._command("devices/import_bundle_token")
        if not isinstance(token, dict) or not isinstance(token.get("token"), str):
            raise _not_esphome(self._web.address)
        query = [f"token={quote(token['token'], safe='')}", "mode=resolve"]
        query += [f"overwrite={quote(path, safe='')}" for path in replaced]
        status, text = await self._web.post(f"/api/devices/import_bundle?{'&'.join(query)}", bundle)
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {}
        kept = set(answer.get("kept") or []) & set(replaced)
        if status != 200 or answer.get("status") != "imported" or kept:
            details = answer.get("details") or (f"kept {', '.join(sorted(kept))}" if kept else f"HTTP {status}")
            raise FlashError(
                f"{self.title} at {self._web.address.shown} does not take the files: {details}",
                hint="its own log says more; flash.handoff_dir is another way",
            )

    async def secret_names(self) -> list[str]:
        """Names in its secrets.yaml."""
        names = await self._command("config/get_secrets")
        return [str(name) for name in names] if isinstance(names, list) else []

    async def add_secret(self, name: str, value: str) -> None:
        """Adds a secret that is not there."""
        await self._command("config/set_secret", {"key": name, "value": value, "overwrite": False})

    async def serial_ports(self) -> list[str]:
        """Serial ports of its machine."""
        ports = await self._command("config/serial_ports")
        return [str(port["port"]) for port in ports or [] if isinstance(port, dict) and "port" in port]

    async def resolve(self, configuration: str) -> tuple[dict[str, Any] | None, str]:
        """The configuration as it would be built, or None and what is wrong with it."""
        document, complaint = await _json_config(self._web, configuration)
        if document is None:
            content = await self.read_text(configuration)
            checked = await self._command(
                "editor/validate_yaml", {"configuration": configuration, "content": content or ""}
            )
            found = [
                str(fault.get("message"))
                for kind in ("yaml_errors", "validation_errors")
                for fault in (checked.get(kind) or [] if isinstance(checked, dict) else [])
                if isinstance(fault, dict)
            ]
            complaint = "\n".join(found) or complaint
        return document, complaint

    async def run(self, step: str, configuration: str, port: str, take: Callable[[str], None]) -> int:
        """Compiles or uploads. When the connection ends, the job goes on and is followed again."""
        arguments = {"configuration": configuration, **({"port": port} if step == "upload" else {})}
        job = await self._command(f"firmware/{step}", arguments)
        if not isinstance(job, dict) or not isinstance(job.get("job_id"), str):
            raise _not_esphome(self._web.address)
        try:
            result = await self._follow(job["job_id"], take)
        except (asyncio.CancelledError, KeyboardInterrupt):
            with contextlib.suppress(FlashError, TimeoutError, ConnectionError):
                await asyncio.shield(self._command("firmware/cancel", {"job_id": job["job_id"]}, timeout_s=5.0))
            raise
        if result.get("queued_update_armed"):
            raise DeviceUnreachableError(
                f"{self.title} at {self._web.address.shown} will update the device when it wakes up",
                hint="the device sleeps; wake it and flash again",
            )
        if isinstance(result.get("error"), str) and result["error"]:
            take(f"ERROR {result['error']}\n")
        code = result.get("exit_code")
        if isinstance(code, int):
            return code
        return 0 if result.get("status") == "completed" else 1

    async def _follow(self, job: str, take: Callable[[str], None]) -> dict[str, Any]:
        """The end of a job. Its output is told from the start at each new connection; what was told is left out."""
        import aiohttp

        told, until = 0, None
        loop = asyncio.get_running_loop()
        while True:
            end: dict[str, Any] = {}
            heard, before = 0, told

            def hear(event: str, data: Any) -> None:
                nonlocal heard, told, end
                if event == "output":
                    heard += 1
                    if heard > told:
                        told = heard
                        take(str(data))
                elif event == "result" and isinstance(data, dict):
                    end = data

            try:
                if self._socket.closed:
                    await self._reconnect()
                await self._command("firmware/follow_job", {"job_id": job}, event=hear)
            except CommandRefusedError:
                raise
            except (FlashError, aiohttp.ClientError, ConnectionError):
                if end:
                    return end
                if until is None or told > before:  # it had been back
                    until = loop.time() + self._web.timeouts.reconnect_s
                if loop.time() > until:
                    raise
                await self._socket.close()
                await asyncio.sleep(min(1.0, self._web.timeouts.reconnect_s / 10))
                continue
            if not end:
                raise _lost(self._web.address, "the job ended without a result")
            return end

    async def _reconnect(self) -> None:
        socket = await self._web.open_socket("/ws")
        if socket is None:
            raise _lost(self._web.address, "it is gone")
        self._socket = socket
        await self.greet()


class ClassicDashboard:
    """The dashboard that came with ESPHome up to 2026.6: a page, a few answers, a WebSocket for each command."""

    takes_files = False

    def __init__(self, web: _Web, version: str) -> None:
        self._web = web
        self.title, self.esphome_version = "ESPHome dashboard", version

    async def read_text(self, path: str) -> str | None:
        """A YAML at the top of its configuration folder, or None."""
        status, text = await self._web.get(f"/edit?configuration={quote(path, safe='')}")
        return text if status == 200 else None

    async def import_bundle(self, bundle: bytes, replaced: Sequence[str]) -> None:  # noqa: ARG002 - it cannot
        """Raises FlashError."""
        raise FlashError(f"{self.title} at {self._web.address.shown} takes no files", hint="set flash.handoff_dir")

    async def secret_names(self) -> list[str]:
        """Names in its secrets.yaml."""
        status, text = await self._web.get("/secret_keys")
        try:
            names = json.loads(text) if status == 200 else []
        except ValueError:
            raise _not_esphome(self._web.address) from None
        return [str(name) for name in names] if isinstance(names, list) else []

    async def add_secret(self, name: str, value: str) -> None:  # noqa: ARG002 - the value is not for a message
        """Raises ConfigError: the file could only be written as a whole."""
        raise ConfigError(f"the secrets.yaml of {self._web.address.shown} lacks {name}", hint="add it there")

    async def serial_ports(self) -> list[str]:
        """Serial ports of its machine."""
        status, text = await self._web.get("/serial-ports")
        try:
            ports = json.loads(text) if status == 200 else []
        except ValueError:
            raise _not_esphome(self._web.address) from None
        return [str(port["port"]) for port in ports if isinstance(port, dict) and port.get("port") not in (None, OTA)]

    async def resolve(self, configuration: str) -> tuple[dict[str, Any] | None, str]:
        """The configuration as it would be built, or None and what is wrong with it."""
        document, complaint = await _json_config(self._web, configuration)
        return document, complaint

    async def run(self, step: str, configuration: str, port: str, take: Callable[[str], None]) -> int:
        """Compiles or uploads. The job ends with the connection."""
        socket = await self._web.open_socket(f"/{step}")
        if socket is None:
            raise _not_esphome(self._web.address)
        async with socket:
            await socket.send_json({"type": "spawn", "configuration": configuration, "port": port})
            while True:
                message = await _receive(socket, self._web.address, None)
                if message.get("event") == "line":
                    take(str(message.get("data") or ""))
                elif message.get("event") == "exit":
                    code = message.get("code")
                    return code if isinstance(code, int) else 1


async def _json_config(web: _Web, configuration: str) -> tuple[dict[str, Any] | None, str]:
    status, text = await web.get(f"/json-config?configuration={quote(configuration, safe='')}")
    if status == 404:
        return None, f"{configuration} is not in its configuration folder"
    try:
        document = json.loads(text)
    except ValueError:
        document = text
    if status != 200:
        return None, str(document.get("error", "")) if isinstance(document, dict) else str(document)
    return (document, "") if isinstance(document, dict) else (None, "no configuration came back")

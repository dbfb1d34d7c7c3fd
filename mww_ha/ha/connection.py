"""One connection to Home Assistant's WebSocket API: authentication, ids, answers, streams, and back after a restart.

The wire, as Home Assistant speaks it (2024.3 to 2026.11): ``auth_required`` → ``auth`` → ``auth_ok`` or
``auth_invalid``; then each command carries an ``id`` that has to increase, is answered by one ``result`` with that
id, and a subscription's ``event`` messages carry it too. Several messages may come as one JSON list once the client
said that it can read that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from mww_ha.errors import (
    ConfigError,
    HomeAssistantAnswerError,
    HomeAssistantError,
    HomeAssistantRefusedError,
    HomeAssistantUnreachableError,
)
from mww_ha.websession import open_session

if TYPE_CHECKING:
    from aiohttp import ClientSession, ClientWebSocketResponse

_LOG = logging.getLogger(__name__)

COMMAND_S = 10.0
CONNECT_S = 10.0
RETRY_FIRST_S = 1.0
RETRY_MOST_S = 60.0
HEARTBEAT_S = 30.0
_MOST_BYTES = 32 << 20  # of one message; the entity registry of a big household is a few MiB
_MOST_WAITING = 4096  # events of one stream that nobody took yet; Home Assistant itself gives up at this number
_SUPERVISOR = "http://supervisor/core"
_HINTS = {
    "unauthorized": "the token has to belong to an administrator of Home Assistant",
    "unknown_command": "this Home Assistant does not know the command: update it, or set up its Assist pipeline",
    "not_found": "look in Home Assistant whether the entity, device or action still has that name",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where Home Assistant is, and the token that opens it."""

    url: str  # without a slash at the end; paths /api/… and /api/websocket are added
    token: str = field(repr=False)
    websocket: str

    @property
    def by_supervisor(self) -> bool:
        """Whether the Supervisor stands between: it passes on everything but commands about itself."""
        return self.url == _SUPERVISOR


def find_access(url: str = "", token: str = "", *, environ: Mapping[str, str]) -> Access:
    """The address and token to use: the given ones, else those of the add-on's Supervisor.

    ``url`` is that of Home Assistant's pages (``http://homeassistant.local:8123``), ``token`` a long-lived access
    token. ``environ`` is the environment, of which SUPERVISOR_TOKEN is read. Raises ConfigError.
    """
    if not url:
        inherited = environ.get("SUPERVISOR_TOKEN", "")
        if not inherited:
            raise ConfigError(
                "no address of Home Assistant is set",
                hint="set its address and a long-lived access token (its page: your profile, Security)",
            )
        return Access(url=_SUPERVISOR, token=inherited, websocket="ws://supervisor/core/websocket")
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{url!r} is not an address of Home Assistant", hint="write http://homeassistant.local:8123")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"the address of Home Assistant at {parts.hostname} holds more than a host, a port and a path",
            hint="write http://homeassistant.local:8123 and give the token by itself",
        )
    if not token.strip():
        raise ConfigError(
            f"no access token for Home Assistant at {parts.hostname}",
            hint="make a long-lived access token: in Home Assistant, your profile, Security",
        )
    if any(not 33 <= ord(sign) < 127 for sign in token.strip()):
        raise ConfigError("the access token of Home Assistant holds signs no token has", hint="copy it once more")
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return Access(url=base, token=token.strip(), websocket=f"{base.replace('http', 'ws', 1)}/api/websocket")


class Stream:
    """The events of one subscription, as an async iterator. Leave it with ``close()`` or ``async with``.

    A lasting stream goes on after a reconnect (events in between are lost; ``gaps`` counts how often); one that does
    not last ends in HomeAssistantUnreachableError. ``lost`` counts events dropped because nobody took them.
    """

    def __init__(self, connection: Connection, command: dict[str, Any], *, lasting: bool) -> None:
        self._connection, self.command, self.lasting = connection, command, lasting
        self.id = 0
        self.gaps = 0
        self.lost = 0
        self._events: deque[Any] = deque()
        self._ready = asyncio.Event()
        self._end: HomeAssistantError | None = None
        self._closed = False

    def put(self, event: Any) -> None:
        """Takes an event in. Never waits: the reader of the socket calls it."""
        if len(self._events) >= _MOST_WAITING:
            self._events.popleft()
            self.lost += 1
        self._events.append(event)
        self._ready.set()

    def fail(self, error: HomeAssistantError) -> None:
        """Ends the stream: events that are already here are still given out, then ``error`` is raised."""
        self._end = error
        self._ready.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while not self._events:
            if self._end is not None:
                raise self._end
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._events.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Unsubscribes. Safe to call twice, and without a connection."""
        if self._closed:
            return
        self._closed = True
        self._ready.set()
        await self._connection.unsubscribe(self)


class Connection:
    """A connection that comes back by itself, until it is closed or the token is refused.

    ``async with Connection(access) as connection`` raises when the first attempt fails. With ``patient=True`` it
    returns at once and keeps trying, as a service wants it. The token stands in no message and no error.
    """

    def __init__(
        self,
        access: Access,
        *,
        patient: bool = False,
        timeout_s: float = COMMAND_S,
        retry_first_s: float = RETRY_FIRST_S,
        retry_most_s: float = RETRY_MOST_S,
        heartbeat_s: float = HEARTBEAT_S,
        tls: ssl.SSLContext | None = None,
        on_change: Callable[[str], None] | None = None,
    ) -> None:
        """``heartbeat_s``: how often a connection that says nothing is tested; without an answer it has ended.

        ``tls`` trusts a certificate that the system does not know. ``on_change`` hears each new ``state``; it is
        cheap and never raises.
        """
        self.access = access
        self._patient, self._timeout_s, self._on_change, self._tls = patient, timeout_s, on_change, tls
        self._retry_first_s, self._retry_most_s, self._heartbeat_s = retry_first_s, retry_most_s, heartbeat_s
        self.state = "closed"  # closed | connecting | connected | refused
        self.ha_version = ""  # of the last connection
        self.reconnects = 0
        self.last_error: HomeAssistantError | None = None
        self._ending = contextlib.AsyncExitStack()
        self._session: ClientSession | None = None
        self._socket: ClientWebSocketResponse | None = None
        self._last_id = 0
        self._sending = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[int, Stream] = {}
        self._lasting: list[Stream] = []
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        from aiohttp import ClientTimeout

        # Environment proxies are for the internet; Home Assistant is in the house.
        timeout = ClientTimeout(total=self._timeout_s, connect=CONNECT_S)
        self._session = await self._ending.enter_async_context(open_session(timeout=timeout, trust_env=False))
        try:
            if not self._patient:
                await self._connect()
            else:
                self._set_state("connecting")
        except BaseException:
            await self._ending.aclose()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="home-assistant")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; whoever still waits gets HomeAssistantUnreachableError."""
        self._closing = True
        if self._keeper is not None:
            await _cancel(self._keeper)
            self._keeper = None
        self._drop(HomeAssistantUnreachableError("the connection to Home Assistant was closed"), final=True)
        self._set_state("closed")
        await self._ending.aclose()

    @property
    def session(self) -> ClientSession:
        """The HTTP session; only between entering and leaving."""
        assert self._session is not None
        return self._session

    @property
    def tls(self) -> ssl.SSLContext | bool:
        """What aiohttp takes as ``ssl``."""
        return self._tls or True

    async def wait_connected(self, timeout_s: float) -> None:
        """Returns once commands can be sent. Raises HomeAssistantUnreachableError, HomeAssistantRefusedError."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.state == "connecting":
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise self.last_error or self._unreachable(f"no connection within {timeout_s:g} s") from None
        if self.state == "refused":
            raise HomeAssistantRefusedError(self.last_error.message if self.last_error else "", hint=_HINT_OF_REFUSAL)
        if self.state == "closed":
            raise HomeAssistantUnreachableError("the connection to Home Assistant was closed")

    async def command(self, type: str, *, timeout_s: float | None = None, **fields: Any) -> Any:
        """Sends a command and returns its ``result``; waits for a connection first, within the same time.

        A command that was sent when the connection ended is not sent again (it may have been carried out).
        Raises HomeAssistantAnswerError, HomeAssistantUnreachableError, HomeAssistantRefusedError.
        """
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = asyncio.get_running_loop().time() + limit_s
        await self.wait_connected(limit_s)
        id, answer = await self._send({"type": type, **fields})
        try:
            async with asyncio.timeout_at(deadline):
                return await answer
        except TimeoutError:
            raise HomeAssistantUnreachableError(
                f"Home Assistant did not answer {type} within {limit_s:g} s",
                hint="look whether it is still starting, or overloaded",
            ) from None
        finally:
            self._waiting.pop(id, None)

    async def subscribe(
        self, type: str, *, lasting: bool = True, timeout_s: float | None = None, **fields: Any
    ) -> Stream:
        """Sends a subscribing command and returns its events. Raises as ``command`` does."""
        stream = Stream(self, {"type": type, **fields}, lasting=lasting)
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        await self.wait_connected(limit_s)
        await self._open(stream, limit_s)
        if lasting:
            self._lasting.append(stream)
        return stream

    async def unsubscribe(self, stream: Stream) -> None:
        """Tells Home Assistant that the stream is over, where there is a connection."""
        if stream in self._lasting:
            self._lasting.remove(stream)
        if self._streams.pop(stream.id, None) is None or self.state != "connected":
            return
        # The stream may have ended over there a moment ago; then "not found" is the answer.
        with contextlib.suppress(HomeAssistantError):
            await self.command("unsubscribe_events", subscription=stream.id, timeout_s=5.0)

    async def _open(self, stream: Stream, limit_s: float) -> None:
        id, answer = await self._send(stream.command, stream)
        try:
            async with asyncio.timeout(limit_s):
                await answer
        except BaseException as error:
            self._streams.pop(id, None)
            if isinstance(error, TimeoutError):
                raise HomeAssistantUnreachableError(
                    f"Home Assistant did not answer {stream.command['type']} within {limit_s:g} s"
                ) from None
            raise
        finally:
            self._waiting.pop(id, None)

    async def _send(self, command: dict[str, Any], stream: Stream | None = None) -> tuple[int, asyncio.Future[Any]]:
        socket = self._socket
        if socket is None or socket.closed:
            raise self._unreachable("the connection ended")
        # Ids have to arrive in rising order, so numbering and sending is one step.
        async with self._sending:
            self._last_id += 1
            id = self._last_id
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._waiting[id] = answer
            if stream is not None:
                stream.id = id
                self._streams[id] = stream
            try:
                await socket.send_str(json.dumps({"id": id, **command}))
            except (OSError, RuntimeError) as error:
                self._waiting.pop(id, None)
                self._streams.pop(id, None)
                raise self._unreachable("the connection ended") from error
        return id, answer

    async def _keep(self) -> None:
        """Reads as long as there is a connection, and makes a new one when it ended."""
        delay_s = 0.0
        while True:
            if self._socket is not None:
                await self._serve(self._socket)
                delay_s = self._retry_first_s
            # Spread out: after a restart everything in the house knocks at once.
            await asyncio.sleep(delay_s * random.uniform(0.7, 1.0))
            delay_s = min(max(delay_s * 2, self._retry_first_s), self._retry_most_s)
            first = not self.ha_version
            try:
                await self._connect()
                self.reconnects += not first
            except HomeAssistantRefusedError as error:
                # Trying again would only get this address banned.
                self.last_error = error
                self._drop(error, final=True)
                self._set_state("refused")
                return
            except HomeAssistantError as error:
                self.last_error = error
                _LOG.info("%s", error.message)

    async def _serve(self, socket: ClientWebSocketResponse) -> None:
        again = asyncio.create_task(self._resubscribe())
        try:
            await self._read(socket)
        finally:
            await _cancel(again)
            with contextlib.suppress(OSError):
                await socket.close()
            self._socket = None
            if not self._closing:
                self.last_error = self._unreachable("the connection ended")
                self._drop(self.last_error, final=False)
                self._set_state("connecting")

    def _drop(self, error: HomeAssistantError, *, final: bool) -> None:
        """Tells all that wait. ``final``: lasting streams end as well."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # whoever gave up waiting will not look
        self._waiting.clear()
        for stream in [*self._streams.values(), *(self._lasting if final else ())]:
            if final or not stream.lasting:
                stream.fail(error)
        self._streams.clear()
        if final:
            self._lasting.clear()

    async def _resubscribe(self) -> None:
        for stream in list(self._lasting):
            while stream in self._lasting and stream.id not in self._streams:
                try:
                    await self._open(stream, self._timeout_s)
                    stream.gaps += 1
                    if stream not in self._lasting:
                        await self.unsubscribe(stream)  # it was closed meanwhile
                except HomeAssistantAnswerError as error:
                    # Just after a restart an integration may still be loading: the stream ends and says so.
                    if stream in self._lasting:
                        self._lasting.remove(stream)
                    stream.fail(error)
                except HomeAssistantUnreachableError:
                    if self.state != "connected":
                        return  # the connection is gone again; next time
                    await asyncio.sleep(self._retry_first_s)  # just after a restart it may be too busy to answer

    async def _connect(self) -> None:
        """Opens the socket and authenticates. Raises HomeAssistantUnreachableError, HomeAssistantRefusedError."""
        from aiohttp import ClientError

        self._set_state("connecting")
        socket: ClientWebSocketResponse | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                socket = await self.session.ws_connect(
                    self.access.websocket, heartbeat=self._heartbeat_s, max_msg_size=_MOST_BYTES, ssl=self.tls
                )
                await self._authenticate(socket)
                # Not sent by _send: nobody reads yet. Its answer comes as any other's, to nobody. Ids go on through
                # all connections, so that none of an earlier one is taken for somebody else's.
                self._last_id += 1
                features = {"type": "supported_features", "features": {"coalesce_messages": 1}, "id": self._last_id}
                await socket.send_str(json.dumps(features))
        except BaseException as error:
            if socket is not None:
                await socket.close()
            if isinstance(error, HomeAssistantError):
                raise
            if isinstance(error, TimeoutError):
                raise self._unreachable(f"no answer within {CONNECT_S:g} s") from error
            if isinstance(error, TypeError):  # what aiohttp says when a close comes where a text is due
                raise self._unreachable("it ended the connection before it was open") from error
            if isinstance(error, (OSError, ClientError, ValueError)):
                raise self._unreachable(_reason(error)) from error
            raise
        self._socket = socket
        self.last_error = None
        self._set_state("connected")

    async def _authenticate(self, socket: ClientWebSocketResponse) -> None:
        first = _parse(await socket.receive_str())
        if first.get("type") == "auth_required":
            await socket.send_str(json.dumps({"type": "auth", "access_token": self.access.token}))
            first = _parse(await socket.receive_str())
        if first.get("type") == "auth_invalid":
            raise self._refused(str(first.get("message", "")))
        if first.get("type") != "auth_ok":
            raise self._unreachable(f"something answered there, but not Home Assistant: {str(first)[:80]}")
        self.ha_version = str(first.get("ha_version", ""))[:40]

    async def _read(self, socket: ClientWebSocketResponse) -> None:
        """Hands out messages until the socket ends."""
        from aiohttp import WSMsgType

        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            try:
                parsed = json.loads(message.data)
            except ValueError:
                _LOG.warning("Home Assistant sent a message that is not JSON; connecting anew")
                return
            for each in parsed if isinstance(parsed, list) else [parsed]:
                if isinstance(each, dict):
                    self._take(each)

    def _take(self, message: dict[str, Any]) -> None:
        id, type = message.get("id"), message.get("type")
        if not isinstance(id, int):
            return
        if type == "event" and id in self._streams:
            self._streams[id].put(message.get("event"))
        elif type == "result":
            answer = self._waiting.get(id)
            error = None if message.get("success") else _answer_error(message.get("error"))
            if answer is not None and not answer.done():
                if error is None:
                    answer.set_result(message.get("result"))
                else:
                    answer.set_exception(error)
            elif error is not None and id in self._streams:
                # A stream that was opened can still end in an error, under the same id.
                self._streams.pop(id).fail(error)

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._changed.set()
            if self._on_change is not None:
                self._on_change(state)

    def _unreachable(self, reason: str) -> HomeAssistantUnreachableError:
        return HomeAssistantUnreachableError(
            f"Home Assistant at {self.access.url} cannot be reached: {reason}",
            hint="check the address, and that Home Assistant runs",
        )

    def _refused(self, reason: str) -> HomeAssistantRefusedError:
        said = reason.replace(self.access.token, "…")[:200]
        return HomeAssistantRefusedError(
            f"Home Assistant at {self.access.url} refused the access token: {said}", hint=_HINT_OF_REFUSAL
        )


_HINT_OF_REFUSAL = "make a new long-lived access token: in Home Assistant, your profile, Security"


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancels and waits. What the task raised by itself is raised here."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _parse(text: str) -> dict[str, Any]:
    """Raises ValueError."""
    parsed = json.loads(text)
    return parsed if isinstance(parsed, dict) else {}


def _reason(error: BaseException) -> str:
    """One line without addresses that hold a secret; aiohttp's own texts name host and port only."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and status:
        return f"it answered with HTTP status {status}"
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _answer_error(error: Any) -> HomeAssistantAnswerError:
    told = error if isinstance(error, dict) else {}
    code, key = str(told.get("code", "unknown_error")), str(told.get("translation_key") or "")
    message = str(told.get("message", ""))[:500]
    return HomeAssistantAnswerError(
        f"Home Assistant answered: {message or code} ({code})", hint=_HINTS.get(code, ""), code=code, key=key
    )

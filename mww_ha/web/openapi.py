"""Routes as data: a typed handler each, its aiohttp form, and the OpenAPI description of all of them."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from mww_ha import __version__
from mww_ha.errors import (
    DataError,
    DeviceError,
    InputError,
    MissingDependencyError,
    MwwError,
    OfflineError,
    StorageError,
)
from mww_ha.web.access import Caller, RefusedError
from mww_ha.web.jobs import JobNotFoundError, JobStateError, QueueFullError
from mww_ha.web.service import Service
from mww_ha.web.wire import plain, read, read_query, read_text, schema

BODY_BYTES = 64 << 10
PIECE_TIMEOUT_S = 20.0
_PIECE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why there is no answer, and the way out."""

    error: str
    message: str
    hint: str


class NotFoundError(InputError):
    """Nothing of that name is here."""


_STATUS: tuple[tuple[type[MwwError], int], ...] = (
    (JobNotFoundError, 404),
    (NotFoundError, 404),
    (JobStateError, 409),
    (QueueFullError, 429),
    (InputError, 422),
    (DataError, 409),
    (MissingDependencyError, 503),
    (StorageError, 507),
    (DeviceError, 502),
    (OfflineError, 502),
)


def status_of(error: MwwError) -> int:
    """The HTTP status that tells the class of an error."""
    if isinstance(error, RefusedError):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What every handler gets."""

    service: Service
    caller: Caller
    request: web.Request
    largest_body: int

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, for handlers that take more than JSON. Raises RefusedError 408, 413."""
        return read_pieces(self.request, self.largest_body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route. What the handler's annotations say is checked before it runs, and is its description.

    ``call`` comes first; ``query`` is a dataclass of the query string, ``body`` the type of the JSON body; everything
    else is a part of the path. It returns a value for JSON, or a response of its own (``media`` says of what type).
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Any]]
    status: int = 200  # 101: a WebSocket, which its handler opens
    media: str = "application/json"
    is_open: bool = False  # answers without a ticket
    largest_body: int = BODY_BYTES
    body_media: str = ""  # of a handler that reads ``call.pieces()``

    @property
    def hints(self) -> dict[str, Any]:
        """The handler's annotations."""
        return typing.get_type_hints(self.handler, include_extras=True)

    def path_types(self) -> dict[str, Any]:
        """The parts of the path, with their types."""
        return {name: self.hints[name] for name in re.findall(r"{(\w+)}", self.path)}


# --- as aiohttp has it -----------------------------------------------------------------------------------------------


def bind(route: Route, service: Service, caller_of: Callable[[], Caller]) -> Callable[..., Any]:
    """The route as a handler of aiohttp."""
    hints, path_types = route.hints, route.path_types()

    async def answer(request: web.Request) -> web.StreamResponse:
        call = Call(service=service, caller=caller_of(), request=request, largest_body=route.largest_body)
        values: dict[str, Any] = {}
        for name, kind in path_types.items():
            try:
                values[name] = read_text(request.match_info[name], kind, name)
            except InputError as error:
                raise NotFoundError(error.message, hint=error.hint) from None
        if (request.content_length or 0) > route.largest_body:
            raise _too_large(route.largest_body)
        if "query" in hints:
            values["query"] = read_query(request.query, hints["query"])
        if "body" in hints:
            values["body"] = await read_body(request, hints["body"], route.largest_body)
        result = await route.handler(call, **values)
        if isinstance(result, web.StreamResponse):
            return result
        if route.status == 204:
            return web.Response(status=204)
        return web.json_response(plain(result), status=route.status)

    return answer


async def _read_json(request: web.Request, largest: int) -> Any:
    if request.content_type != "application/json":
        kind = ascii(request.content_type[:60])
        raise RefusedError(f"the body is {kind}", status=415, hint="send JSON, with Content-Type: application/json")
    content = b"".join([piece async for piece in read_pieces(request, largest)])
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        raise RefusedError("the body is not JSON", status=400, hint="write one object in braces") from None


async def read_body(request: web.Request, kind: Any, largest: int = BODY_BYTES) -> Any:
    """The JSON body as a ``kind``. Raises RefusedError, InputError."""
    return read(await _read_json(request, largest), kind, "the body")


async def read_pieces(request: web.Request, largest: int) -> AsyncIterator[bytes]:
    """The body as it comes, up to ``largest`` bytes. Raises RefusedError 408, 413."""
    taken = 0
    while True:
        try:
            async with asyncio.timeout(PIECE_TIMEOUT_S):
                piece = await request.content.read(_PIECE_BYTES)
        except TimeoutError:
            raise RefusedError("the body does not come", status=408, hint="send it again") from None
        if not piece:
            return
        taken += len(piece)
        if taken > largest:
            raise _too_large(largest)
        yield piece


def _too_large(most: int) -> RefusedError:
    return RefusedError(f"the body is longer than {most} bytes", status=413, hint="send less at once")


# --- as OpenAPI has it -----------------------------------------------------------------------------------------------


def describe(routes: Sequence[Route], *, cookie: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes; ``cookie`` is the name of the session's."""
    components: dict[str, Any] = {}
    problem = schema(Problem, components)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _describe(route, components, problem)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mww-ha", "version": __version__, "description": "The API of mww-ha's own panel."},
        "servers": [{"url": "..", "description": "relative to this document"}],
        "security": [{"token": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": cookie},
            },
        },
    }


def _describe(route: Route, components: dict[str, Any], problem: dict[str, Any]) -> dict[str, Any]:
    text = inspect.getdoc(route.handler) or ""
    summary, _, more = text.partition("\n\n")
    hints = route.hints
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": schema(kind, components)}
        for name, kind in route.path_types().items()
    ]
    if "query" in hints:
        described: dict[str, Any] = {}
        schema(hints["query"], described)
        whole = described.pop(hints["query"].__name__)
        components |= described
        for name, one in whole["properties"].items():
            # What is left out is null inside; it cannot be written in an address.
            options = [option for option in one.get("anyOf", [one]) if option != {"type": "null"}]
            needed = name in whole["required"]
            parameters.append({"name": name, "in": "query", "required": needed, "schema": options[0]})
    content: dict[str, Any] = {}
    if route.media != "application/json":
        content = {route.media: {"schema": {"type": "string"}}}
    elif route.status not in (101, 204):
        content = {route.media: {"schema": schema(hints["return"], components)}}
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": " ".join(summary.split()),
        "description": " ".join(more.split()),
        "parameters": parameters,
        "responses": {
            str(route.status): {"description": "As asked.", **({"content": content} if content else {})},
            "default": {"description": "Why not.", "content": {"application/json": {"schema": problem}}},
        },
    }
    if "body" in hints:
        body = schema(hints["body"], components)
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    elif route.body_media:
        body = {"type": "string", "format": "binary"}
        operation["requestBody"] = {"required": True, "content": {route.body_media: {"schema": body}}}
    if route.is_open:
        operation["security"] = []
    return operation

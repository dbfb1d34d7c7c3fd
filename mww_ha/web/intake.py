"""The device site: ``POST /api/captures`` and nothing else, for whatever is in the network.

Tokens, rates, sizes and what a capture is are the receiver's; here stands what keeps a socket from being held.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol

from aiohttp import hdrs, web

from mww_ha.capture.receive import Receipt, UploadError
from mww_ha.web.access import peer_of, retry_after

LARGEST_BODY = 512 << 10  # 10 s of sound are 320 kB
_PIECE_BYTES = 16 << 10

logger = logging.getLogger(__name__)


class Receiver(Protocol):
    """Who takes captures: ``mww_ha.capture.receive.Intake``."""

    async def take(self, headers: Iterable[tuple[str, str]], body: AsyncIterator[bytes], *, peer: str) -> Receipt:
        """One upload. Raises UploadError with the HTTP status."""


def make_device_app(receiver: Receiver) -> web.Application:
    """The device site's application."""

    async def take_capture(request: web.Request) -> web.Response:
        # The body's own length is only a promise: the receiver counts what comes.
        if (request.content_length or 0) > LARGEST_BODY:
            return _refuse(UploadError("the body is too long", status=413))
        body = request.content.iter_chunked(_PIECE_BYTES)
        try:
            receipt = await receiver.take(request.headers.items(), body, peer=peer_of(request))
        except UploadError as error:
            logger.info("%s: capture refused with %d: %s", peer_of(request), error.status, error.message)
            return _refuse(error)
        return web.json_response({"id": receipt.id, "kind": str(receipt.kind)}, status=receipt.status)

    app = web.Application(middlewares=[_say_nothing], client_max_size=LARGEST_BODY)
    app.router.add_post("/api/captures", take_capture)
    app.on_response_prepare.append(_set_headers)
    return app


def _refuse(error: UploadError) -> web.Response:
    response = web.json_response({"error": error.message, "hint": error.hint}, status=error.status)
    if error.retry_after_s:
        response.headers[hdrs.RETRY_AFTER] = retry_after(error.retry_after_s)
    response.force_close()  # the rest of a refused body is not waited for
    return response


@web.middleware
async def _say_nothing(request: web.Request, handler: Callable[[web.Request], object]) -> web.StreamResponse:
    """Whatever else is asked for is not there, and nobody learns what is."""
    if request.match_info.http_exception is not None:
        response = web.Response(status=404)
        response.force_close()
        return response
    return await handler(request)  # type: ignore[no-any-return, misc]


async def _set_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = "mww-ha"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers[hdrs.CACHE_CONTROL] = "no-store"

"""The panel's files: one page, and the modules, styles and texts it loads, from memory and compressed once.

Everything but the page lies below a folder named after the digest of all of it: a browser keeps the files for good,
and another version is another folder.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import hashlib
import html
import mimetypes
import secrets
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from aiohttp import hdrs, web

from mww_ha import __version__

STATIC = "static"
_KINDS = {".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".svg": "image/svg+xml"}
_COMPRESSED = (*_KINDS, ".txt")
_FIRST = ("main.js", "vendor/lit.js", "lib/api.js", "lib/i18n.js", "lib/ui.js")  # asked for before they are missed


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file as it is sent."""

    kind: str
    content: bytes
    gzipped: bytes  # empty: sent as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """All files of the panel by their path; ``digest`` names their folder."""

    digest: str
    by_path: dict[str, File]


@functools.cache
def load_files() -> Files:
    """Reads the panel once. Blocks."""
    found: dict[str, File] = {}
    whole = hashlib.sha256()
    for path, node in _walk(resources.files("mww_ha.web").joinpath(STATIC), ""):
        content = node.read_bytes()
        whole.update(f"{path}\0{len(content)}\0".encode() + content)
        suffix = "." + path.rpartition(".")[2]
        kind = _KINDS.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
        gzipped = gzip.compress(content, 9, mtime=0) if suffix in _COMPRESSED else b""
        found[path] = File(kind=kind, content=content, gzipped=gzipped)
    return Files(digest=whole.hexdigest()[:16], by_path=found)


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for node in sorted(folder.iterdir(), key=lambda node: node.name):
        if node.is_dir():
            found += _walk(node, f"{prefix}{node.name}/")
        elif not node.name.startswith(".") and not node.name.endswith(".d.ts"):
            found.append((prefix + node.name, node))
    return found


def _order_of_sheet(path: str) -> tuple[int, str]:
    """Libraries first, then the sheet for all, then those of single views."""
    return (0 if path.startswith("vendor/") else 1 if "/" not in path else 2, path)


async def send_page(base: str, *, title: str, setup: bool = False) -> web.Response:
    """The one page. ``base``: its own folder as its reader sees it. ``setup``: there is no project yet."""
    files = await asyncio.to_thread(load_files)
    folder = f"{STATIC}/{files.digest}"
    nonce = secrets.token_urlsafe(16)
    sheets = sorted((path for path in files.by_path if path.endswith(".css")), key=_order_of_sheet)
    styles = "\n".join(f'<link rel="stylesheet" href="{folder}/{path}">' for path in sheets)
    preload = "\n".join(f'<link rel="modulepreload" href="{folder}/{path}">' for path in _FIRST)
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<base href="{html.escape(base)}">
<title>{html.escape(title)} – mww-ha</title>
<meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">
<meta name="color-scheme" content="light dark">
<meta name="mww-ha" content="{html.escape(__version__)}" data-folder="{folder}/" data-setup="{str(setup).lower()}" \
data-nonce="{nonce}">
<link rel="icon" href="{folder}/icon.svg" type="image/svg+xml">
{styles}
{preload}
<script type="module" src="{folder}/main.js"></script>
</head>
<body>
<mww-app></mww-app>
<noscript><p class="noscript">This page needs JavaScript. Everything it does, the command line does too:
<code>mww-ha --help</code>.</p></noscript>
</body>
</html>
"""
    policy = (
        # wavesurfer.js writes its style into a shadow tree of its own: the nonce is for that.
        f"default-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data: blob:; media-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    )
    headers = {
        hdrs.VARY: "X-Ingress-Path, Cookie",
        "Content-Security-Policy": policy,
    }
    return web.Response(text=text, content_type="text/html", headers=headers)


async def send_file(request: web.Request) -> web.StreamResponse:
    """``/static/{digest}/{path}``: open to everybody who may connect, for it is the same in every house."""
    files = await asyncio.to_thread(load_files)
    found = files.by_path.get(request.match_info["path"])
    if found is None or request.match_info["digest"] != files.digest:
        raise web.HTTPNotFound(reason="no such file in this version of the panel")
    headers = {
        hdrs.CACHE_CONTROL: "public, max-age=31536000, immutable",
        hdrs.CONTENT_TYPE: found.kind + ("; charset=utf-8" if found.gzipped else ""),
        hdrs.VARY: hdrs.ACCEPT_ENCODING,
    }
    if found.gzipped and "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
        return web.Response(body=found.gzipped, headers={**headers, hdrs.CONTENT_ENCODING: "gzip"})
    return web.Response(body=found.content, headers=headers)


def add_files(app: web.Application) -> None:
    """Adds the panel's files to a page site."""
    app.router.add_get("/" + STATIC + "/{digest}/{path:.+}", send_file)

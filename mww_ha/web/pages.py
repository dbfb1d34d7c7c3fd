"""Plain pages that need no script: the door, and what went wrong before the panel could come. Every text is escaped."""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; }
h1 { font-size: 1.4rem; }
input, button { font: inherit; padding: .4rem .6rem; }
.problem { border-left: 4px solid #c33; padding-left: .8rem; }
"""

PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode() + "'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
"""Of these pages: their own style and nothing else."""


def write_door(problem: str, base: str = "/") -> str:
    """The page for whoever has no ticket: a field for the token."""
    shown = f'<p class="problem">{_text(problem)}</p>' if problem else ""
    body = f"""<h1>mww-ha</h1>
{shown}
<p>Open the address that mww-ha serve printed, or give the token in it.
A new one is made by <code>mww-ha serve --new-token</code>.</p>
<form method="post" action="login">
<p><label>Token <input name="token" type="password" autocomplete="off" required></label>
<button>Come in</button></p>
</form>"""
    return _page("mww-ha", body, base)


def write_problem(message: str, hint: str, base: str = "/") -> str:
    """The page for what went wrong."""
    return _page("mww-ha", f'<h1>mww-ha</h1>\n<p class="problem">{_text(message)}</p>\n<p>{_text(hint)}</p>', base)


def _page(title: str, body: str, base: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<base href="{_text(base)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))

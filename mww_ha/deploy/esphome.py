"""ESPHome as a child process: where it is, how it is started, what of its output may be shown."""

from __future__ import annotations

import codecs
import contextlib
import functools
import importlib.util
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mww_ha.errors import ConfigError, ToolError
from mww_ha.schema import Progress

LONGEST_LINE = 8192
"""Characters of one line that are looked at; what follows up to the line's end is not shown."""

_OPEN_AFTER_END_S = 1.0  # a grandchild may keep the pipe open; that long after the child's end it is not waited for


def find_esphome(configured: str = "") -> list[str] | None:
    """How to start ESPHome; None when there is none.

    ``configured`` comes first: a program, or the folder of the virtual environment it lives in. Then ESPHome in this
    interpreter, then the one on the PATH. Raises ConfigError when ``configured`` cannot be started.
    """
    if configured:
        return [_configured_program(configured)]
    spec = importlib.util.find_spec("esphome")
    if spec is not None and spec.origin is not None:  # a project's own folder "esphome" is found without an origin
        return [sys.executable, "-P", "-m", "esphome"]
    found = shutil.which("esphome")
    return [found] if found else None


def _configured_program(configured: str) -> str:
    path = Path(configured).expanduser()
    inside = path / "bin" / "esphome"
    found = shutil.which(str(inside if inside.is_file() else path))
    if found is None:
        what = "is not there" if not path.exists() else "cannot be started"
        raise ConfigError(
            f"flash.esphome is {configured!r}, which {what}",
            hint="name the program esphome (such as ~/esphome-venv/bin/esphome), or leave the setting empty",
        )
    return str(Path(found).absolute())  # it is started in another folder


def esphome_version(command: Sequence[str], timeout_s: float) -> str:
    """Such as ``2026.6.5``. Raises ToolError when ESPHome does not start."""
    code, output = run_esphome([*command, "version"], Path.cwd(), timeout_s)
    match = re.search(r"Version:\s*(\S+)", output)
    if code != 0 or not match:
        raise ToolError(
            f"ESPHome does not start: {' '.join(command)} version\n{relevant_lines(output)}",
            hint="repair it with: pip install --force-reinstall esphome; or render unchecked with --no-check",
        )
    return match.group(1)


def version_key(version: str) -> tuple[int, ...]:
    """``2026.10.0`` → ``(2026, 10, 0)``, which compares as versions do."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def run_esphome(
    command: Sequence[str],
    folder: Path,
    timeout_s: float,
    *,
    on_line: Callable[[str], None] | None = None,
    hidden: Iterable[str] = (),
) -> tuple[int, str]:
    """Exit code and output (both streams). On a timeout or an interrupt nothing of the child is left running.

    ``on_line`` gets each line as it ends, by a new line or by a carriage return as progress bars do, without the values
    in ``hidden`` and whatever else ``redact`` takes out. The output that is returned is not redacted.
    """
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "GIT_TERMINAL_PROMPT": "0"}
    environment.pop("SUPERVISOR_TOKEN", None)  # opens Home Assistant; a user's YAML may run whatever it fetches
    try:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # ESPHome starts children of its own; the group is stopped as one
        )
    except OSError as error:
        raise ToolError(
            f"cannot start {command[0]}: {error.strerror}", hint="repair it with: pip install --force-reinstall esphome"
        ) from None
    lines = _Lines(on_line, tuple(hidden)) if on_line else None
    try:
        output = _read_until_end(child, time.monotonic() + timeout_s, lines)
    except TimeoutError:
        _stop_group(child)
        raise ToolError(
            f"{' '.join(command[-3:])} did not end within {timeout_s:g} s and was stopped",
            hint="ESPHome may be waiting for the network; try again, or render unchecked with --no-check",
        ) from None
    except BaseException:
        _stop_group(child)
        raise
    return child.returncode, output.decode("utf-8", "replace")


def _read_until_end(child: subprocess.Popen[bytes], deadline: float, lines: _Lines | None) -> bytes:
    """All the child writes. Raises TimeoutError."""
    assert child.stdout is not None
    chunks: list[bytes] = []
    ended_at: float | None = None
    with selectors.DefaultSelector() as selector, child.stdout:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(timeout=max(0.0, min(0.5, deadline - time.monotonic()))):
                chunk = os.read(child.stdout.fileno(), 65536)
                if not chunk:
                    break
                chunks.append(chunk)
                if lines:
                    lines.feed(chunk)
                continue
            if child.poll() is not None:
                ended_at = ended_at or time.monotonic()
                if time.monotonic() - ended_at > _OPEN_AFTER_END_S:
                    break
            elif time.monotonic() >= deadline:
                raise TimeoutError
    if lines:
        lines.end()
    try:
        child.wait(timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    return b"".join(chunks)


def _stop_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


class _Lines:
    """Cuts a stream of chunks into lines, so that no secret is missed because it came in two pieces."""

    def __init__(self, on_line: Callable[[str], None], hidden: tuple[str, ...]) -> None:
        self._on_line = on_line
        # of a secret of several lines each line is one
        self._hidden = tuple({part for value in hidden for part in (value, *value.splitlines()) if part.strip()})
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, chunk: bytes) -> None:
        *ended, rest = re.split(r"[\r\n]+", self._rest + self._decoder.decode(chunk))
        for line in ended:
            self._tell(line)
        self._rest = rest[: 2 * LONGEST_LINE]  # nobody reads further; the rest of such a line is dropped

    def end(self) -> None:
        self._tell(self._rest + self._decoder.decode(b"", final=True))
        self._rest = ""

    def _tell(self, line: str) -> None:
        if line.strip():
            # redacted before it is shortened, or the cut could go through a secret
            self._on_line(redact(line, self._hidden)[:LONGEST_LINE])


def redact(text: str, hidden: Iterable[str]) -> str:
    """``text`` without the values in ``hidden``, without keys, and without what ESPHome only paints invisible."""
    text = re.sub(r"(?:\x1b|\\033)\[8m.*?(?:(?:\x1b|\\033)\[28m|\Z)", "***", text, flags=re.DOTALL)
    text = re.sub(r"(?:\x1b|\\033)\[[0-9;]*[A-Za-z]", "", text)
    pattern = _hidden_pattern(frozenset(hidden))
    if pattern is not None:
        text = pattern.sub("***", text)
    text = re.sub(r"[A-Za-z0-9+/]{43}=", "***", text)
    return re.sub(r"(?im)^(\s*-?\s*\w*(?:password|ssid|psk|key):)(?![ \t]*(?:!secret\b|$)).*$", r"\1 ***", text)


@functools.lru_cache(maxsize=8)
def _hidden_pattern(hidden: frozenset[str]) -> re.Pattern[str] | None:
    forms = {form for value in hidden if value for form in _written_forms(value)}
    # a short value only as a word of its own, or it would eat the message
    parts = [
        re.escape(form) if len(form) >= 6 else rf"(?<!\w){re.escape(form)}(?!\w)"
        for form in sorted(forms, key=len, reverse=True)
    ]
    return re.compile("|".join(parts)) if parts else None


def _written_forms(value: str) -> set[str]:
    """``value`` as it stands in YAML, JSON, C++ or an address."""
    cpp = "".join(
        chr(b) if 32 <= b < 127 and chr(b) not in '"\\' else f"\\{b:03o}" for b in value.encode("utf-8", "replace")
    )
    quoted = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]}
    single = value.replace("'", "''")
    return {value, cpp, single, urllib.parse.quote(value, safe=""), urllib.parse.quote(value), *quoted}


def relevant_lines(output: str, limit: int = 30) -> str:
    """What a user needs of ESPHome's output: no chatter, of a traceback the last line, of a long dump what is wrong."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    if len(lines) > limit:
        lines = _complaints(output.splitlines()) or lines
    traceback = next((i for i, line in enumerate(lines) if line.startswith("Traceback (most recent")), None)
    if traceback is not None:
        lines = [*lines[:traceback], lines[-1]]
    told = [line for line in lines if not line.startswith(("INFO ", "DEBUG "))]
    return "\n".join(f"  {line}" for line in told[:limit]) or "  (it said nothing)"


_SECTION = re.compile(r"^\S.*: \[source [^\]]*\]$")
_KEY = re.compile(r"^\s*(?:- )?[\w.<]+:(?:\s|$)")


def _complaints(lines: Sequence[str]) -> list[str]:
    """Of a configuration that ESPHome dumps because something in it is wrong: section, complaint, and where it stands.

    A complaint follows a line of blanks only, and the key it is about follows the complaint. Empty when there is none.
    """
    made: list[str] = []
    section, found = "", False
    for number, line in enumerate(lines):
        if _SECTION.match(line):
            section = line
        if line.strip() or not line:
            continue
        end = number + 1
        while end < len(lines) and not _KEY.match(lines[end]) and lines[end].strip():
            end += 1
        if section:
            made.append(section)
            section = ""
        if number and not _SECTION.match(lines[number - 1]) and lines[number - 1] not in made[-1:]:
            made.append(lines[number - 1])
        made += lines[number + 1 : end + 1]
        found = True
    return [line.rstrip() for line in made if line.strip()] if found else []


_UPLOADING = re.compile(r"^(?:Uploading|Writing at 0x[0-9a-f]+).*?(\d{1,3}(?:\.\d+)?)\s?%", re.IGNORECASE)
_NINJA = re.compile(r"^\[(\d+)/(\d+)\]\s+(.*)$")
_PLATFORMIO = re.compile(r"^(Compiling|Archiving|Indexing|Linking|Building)\s+(\S+)$")
_FETCHING = re.compile(r"\b(?:Downloading|Unpacking|Extracting|Installing)\b.*", re.IGNORECASE)


def read_progress(line: str, stage: str) -> Progress | None:
    """What a line of ESPHome, PlatformIO, ninja or esptool says about how far it is; None when it says nothing."""
    line = line.strip()
    if match := _UPLOADING.search(line):
        return Progress(stage=stage, message="sending", done=min(100.0, float(match[1])), total=100, unit="%")
    if match := _NINJA.match(line):
        return Progress(stage=stage, message=_short(match[3]), done=int(match[1]), total=int(match[2]), unit="steps")
    if match := _PLATFORMIO.match(line):
        return Progress(stage=stage, message=f"{match[1].lower()} {Path(match[2]).name}")
    if match := _FETCHING.search(line):
        return Progress(stage=stage, message=_short(match[0]))
    return None


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."

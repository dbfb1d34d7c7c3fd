"""What Home Assistant takes of an app's metadata, stricter where the Supervisor is silent.

Made after the rules of the Supervisor's validators (2026-08) and of the community's linter (2026-04). The Supervisor
drops a key that it does not know without a word: here that is a fault, as is a key that only repeats its default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Document = dict[str, Any]
Check = Callable[[Any], bool]

DEFAULTS: Document = {
    "startup": "application",
    "boot": "auto",
    "init": True,
    "stage": "stable",
    "ingress": False,
    "ingress_port": 8099,
    "ingress_entry": "/",
    "ingress_stream": False,
    "panel_icon": "mdi:puzzle",
    "panel_admin": True,
    "hassio_role": "default",
    "backup": "hot",
    "timeout": 10,
    "apparmor": True,
    "options": {},
    "schema": {},
}
_OFF = (
    "host_network", "host_ipc", "host_uts", "host_pid", "host_dbus", "udev", "tmpfs", "audio", "video", "gpio", "usb",
    "uart", "devicetree", "kernel_modules", "stdin", "full_access", "docker_api", "hassio_api", "homeassistant_api",
    "auth_api", "realtime", "journald",
)  # fmt: skip
DEFAULTS |= dict.fromkeys(_OFF, False)

DEPRECATED = ("advanced", "codenotary", "auto_uart", "snapshot", "snapshot_pre", "snapshot_post", "snapshot_exclude")
ARCHITECTURES = ("aarch64", "amd64")
PRIVILEGES = (
    "BPF", "CHECKPOINT_RESTORE", "DAC_READ_SEARCH", "IPC_LOCK", "NET_ADMIN", "NET_RAW", "PERFMON", "SYS_ADMIN",
    "SYS_MODULE", "SYS_NICE", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME",
)  # fmt: skip
MAPS = ("data", "ssl", "share", "media", "backup", "homeassistant_config")
"""Names that every Supervisor of today takes, and the linter; ``config`` and what 2026.07 renamed are left out."""

_SCHEMA_TYPE = re.compile(
    r"(bool|email|url|port|device(\(subsystem=[a-z]+\))?|str(\(\d*,\d*\))?|password(\(\d*,\d*\))?"
    r"|int(\(-?\d*,-?\d*\))?|float(\([-\d.]*,[-\d.]*\))?|match\(.+\)|list\(.+\))\??"
)
_WEB = re.compile(r"(https?|\[PROTO:\w+\])://\[HOST\]:\[PORT:\d+\].*")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+){1,2}([-.]?(b|beta|rc|dev)[0-9]*)?")


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _one_of(*allowed: str) -> Check:
    return lambda value: isinstance(value, str) and value in allowed


def _pattern(pattern: str) -> Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and bool(value) and all(map(check, value))


def _number(least: int, most: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _mapping(key: Check, value: Check) -> Check:
    return lambda found: isinstance(found, dict) and all(key(k) and value(v) for k, v in found.items())


_PORT = _pattern(r"\d{1,5}(/tcp|/udp)?")

KEYS: dict[str, Check] = {
    "name": _text,
    "version": _pattern(_VERSION.pattern),
    "slug": _pattern(r"[-_.A-Za-z0-9]+"),
    "description": _text,
    "arch": _list_of(_one_of(*ARCHITECTURES)),
    "machine": _list_of(_pattern(r"!?[a-z0-9-]+")),
    "url": _pattern(r"https?://\S+"),
    "homeassistant": _pattern(_VERSION.pattern),
    "breaking_versions": _list_of(_pattern(_VERSION.pattern)),
    "startup": _one_of("initialize", "system", "services", "application", "once"),
    "boot": _one_of("auto", "manual", "manual_only"),
    "stage": _one_of("stable", "experimental", "deprecated"),
    "init": _flag,
    "ports": _mapping(_PORT, lambda value: value is None or _number(1, 65535)(value)),
    "ports_description": _mapping(_PORT, _text),
    "webui": _pattern(_WEB.pattern),
    "watchdog": _pattern(r"(https?|tcp|\[PROTO:\w+\])://\[HOST\]:.*"),
    "ingress": _flag,
    "ingress_port": _number(0, 65535),
    "ingress_entry": _text,
    "ingress_stream": _flag,
    "panel_icon": _pattern(r"mdi:[a-z0-9-]+"),
    "panel_title": _text,
    "panel_admin": _flag,
    "hassio_role": _one_of("default", "homeassistant", "backup", "manager", "admin"),
    "services": _list_of(_pattern(r"(mqtt|mysql):(provide|want|need)")),
    "discovery": _list_of(_text),
    "privileged": _list_of(_one_of(*PRIVILEGES)),
    "apparmor": lambda value: isinstance(value, bool | str),
    "devices": _list_of(_pattern(r"/dev/[^:]+")),
    "map": _list_of(_pattern(rf"({'|'.join(MAPS)})(:rw|:ro)?")),
    "environment": _mapping(_pattern(r"\w+"), lambda value: isinstance(value, str)),
    "ulimits": lambda value: isinstance(value, dict),
    "backup": _one_of("hot", "cold"),
    "backup_pre": _text,
    "backup_post": _text,
    "backup_exclude": _list_of(_text),
    "options": lambda value: isinstance(value, dict),
    "schema": lambda value: value is False or isinstance(value, dict),
    "image": _pattern(r"([a-z0-9.-]+(:\d+)?/)?([-a-z0-9_{}]+/)*[-a-z0-9_{}]+"),
    "timeout": _number(10, 300),
    **dict.fromkeys(_OFF, _flag),
}
REQUIRED = ("name", "version", "slug", "description", "arch")


def find_faults(config: Any) -> list[str]:
    """What is wrong with a parsed config.yaml, a line each."""
    if not isinstance(config, dict):
        return ["not a mapping"]
    faults = [f"{key} is missing" for key in REQUIRED if key not in config]
    for key, value in config.items():
        if key in DEPRECATED:
            faults.append(f"{key} is deprecated")
        elif key not in KEYS:
            faults.append(f"{key} is no key: the Supervisor would drop it without a word")
        elif not KEYS[key](value):
            faults.append(f"{key} is {value!r}")
        elif key in DEFAULTS and DEFAULTS[key] == value and isinstance(DEFAULTS[key], type(value)):
            faults.append(f"{key} repeats its default")
    return faults or list(_find_contradictions(config))


def _find_contradictions(config: Document) -> Iterator[str]:
    if "webui" in config and config.get("ingress"):
        yield "webui beside ingress"
    if "watchdog" in config:
        yield "watchdog: the Dockerfile's HEALTHCHECK is asked today"
    if config.get("ingress_port") == 0 and not config.get("host_network"):
        yield "ingress_port 0 needs host_network"
    if any(key in config for key in ("ingress_port", "ingress_stream", "ingress_entry")) and not config.get("ingress"):
        yield "ingress is off"
    if "hassio_role" in config and not config.get("hassio_api"):
        yield "hassio_role without hassio_api"
    if config.get("full_access"):
        yield "full_access: nobody should need it"
    if config.get("backup") == "cold" and ("backup_pre" in config or "backup_post" in config):
        yield "a cold backup stops the app: nothing can run before it"
    if any(port not in config.get("ports", {}) for port in config.get("ports_description", {})):
        yield "ports_description of a port that is none"
    if any(port not in config.get("ports_description", {}) for port in config.get("ports", {})):
        yield "a port without ports_description"
    named = [entry.partition(":")[0] for entry in config.get("map", [])]
    if len(set(named)) != len(named):
        yield "map names one place twice"
    yield from find_schema_faults(config.get("schema", {}), config.get("options", {}))


def find_schema_faults(schema: Any, options: Document, where: str = "") -> Iterator[str]:
    """Faults of the options' schema, and options that it does not cover."""
    if schema is False:
        return
    for key, value in schema.items():
        yield from _find_type_faults(f"{where}{key}", value, nested=False)
        if key not in options and isinstance(value, str) and not value.endswith("?"):
            yield f"the option {where}{key} must be set before the app starts"
    yield from (f"the option {where}{key} is in no schema" for key in options if key not in schema)


def _find_type_faults(where: str, value: Any, *, nested: bool) -> Iterator[str]:
    if isinstance(value, str):
        if not _SCHEMA_TYPE.fullmatch(value):
            yield f"{where} is of the type {value!r}"
    elif isinstance(value, list):
        if nested or len(value) != 1:
            yield f"{where} is a list of {len(value)} in a list"
        else:
            yield from _find_type_faults(f"{where}[]", value[0], nested=True)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _find_type_faults(f"{where}.{key}", inner, nested=nested)
    else:
        yield f"{where} is {value!r}"


def rate(config: Document, *, own_profile: bool, signed: bool = False) -> int:
    """The security rating, 1 to 8, by the Supervisor's rules. ``own_profile``: an apparmor.txt lies beside it."""
    if config.get("full_access") or config.get("docker_api"):
        return 1
    rating = 5
    rating += 2 if config.get("ingress") else 1 if config.get("auth_api") else 0
    if config.get("apparmor", True) is False:
        rating -= 1
    elif own_profile:
        rating += 1
    rating += signed
    harmless = {"IPC_LOCK", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME"}
    if config.get("kernel_modules") or set(config.get("privileged", [])) - harmless:
        rating -= 1
    rating -= {"manager": 1, "admin": 2}.get(config.get("hassio_role", ""), 0)
    rating -= 1 if config.get("host_network") else 0
    rating -= 2 if config.get("host_pid") else 0
    rating -= 1 if config.get("host_uts") and "SYS_ADMIN" in config.get("privileged", []) else 0
    return max(1, min(8, rating))


def find_translation_faults(config: Document, translation: Any) -> list[str]:
    """Where a file of ``translations/`` says more, less or other than the options and ports there are."""
    if not isinstance(translation, dict) or not set(translation) <= {"configuration", "network"}:
        return ["other sections than configuration and network"]
    faults = []
    options, told = config.get("schema") or {}, translation.get("configuration", {})
    faults += [f"the option {name} is not told" for name in set(options) - set(told)]
    faults += [f"{name} is no option" for name in set(told) - set(options)]
    for name, row in told.items():
        if not isinstance(row, dict) or not set(row) <= {"name", "description", "fields"} or not _text(row.get("name")):
            faults.append(f"{name} has no name, or more than name, description and fields")
        elif not _text(row.get("description")):
            faults.append(f"{name} has no description")
    ports, network = set(config.get("ports", {})), translation.get("network", {})
    faults += [f"the port {port} is not told" for port in ports - set(network)]
    faults += [f"{port} is no port" for port in set(network) - ports]
    faults += [f"{port} is told by {text!r}" for port, text in network.items() if not _text(text)]
    return faults


# --- AppArmor --------------------------------------------------------------------------------------------------------


class Profile:
    """The file rules of a profile without children and without a bare ``file,``: who may do what with which path."""

    def __init__(self, text: str) -> None:
        lines = [
            line.partition("#")[0].strip() if not line.strip().startswith("#include") else ""
            for line in text.splitlines()
        ]
        self.rules = [line for line in lines if line.endswith(",")]
        self.allowed: list[tuple[re.Pattern[str], set[str]]] = []
        self.denied: list[tuple[re.Pattern[str], set[str]]] = []
        for rule in self.rules:
            words = rule.rstrip(",").split()
            target = self.denied if words[0] == "deny" else self.allowed
            words = words[1:] if words[0] in ("deny", "owner") else words
            if words[0].startswith(("/", "@{PROC}")):
                target.append((_glob(words[0].replace("@{PROC}", "/proc")), set(words[1])))

    def allows(self, path: str, access: str) -> bool:
        """Whether every letter of ``access`` is granted and none denied. A folder's path ends with a slash."""
        granted = set().union(*(letters for pattern, letters in self.allowed if pattern.fullmatch(path)))
        taken = set().union(*(letters for pattern, letters in self.denied if pattern.fullmatch(path)))
        return set(access) <= granted - taken


def _glob(pattern: str) -> re.Pattern[str]:
    """AppArmor's globbing: ``*`` stops at a slash, ``**`` does not, ``{a,b}`` is a choice."""
    out, depth = "", 0
    for piece in re.findall(r"\*\*|\*|\?|\{|\}|,|\[[^\]]*\]|[^*?{},\[]+", pattern):
        depth += (piece == "{") - (piece == "}")
        out += {"**": ".+" if out.endswith("/") else ".*", "*": "[^/]*", "?": "[^/]", "{": "(", "}": ")"}.get(
            piece, "|" if piece == "," and depth else piece if piece.startswith("[") else re.escape(piece)
        )
    return re.compile(out)

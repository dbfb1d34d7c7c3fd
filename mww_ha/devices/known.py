"""What the project knows of its satellites: ``devices.yaml``, and the secrets it names.

``devices.yaml`` is the user's to edit: a device is added by appending to it, so comments stay. Keys and passwords stand
in ``esphome/secrets.yaml`` and are named here by ``!secret``.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import difflib
import ipaddress
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mww_ha import store
from mww_ha.errors import ConfigError, InputError
from mww_ha.schema import Device

BACKENDS = ("esphome", "builder", "handoff")
"""The ways to flash, see ``mww_ha.deploy``."""

LONGEST_NAME = 31
"""ESPHome's limit for a host name without a MAC suffix."""

SECRETS_FILE = "secrets.yaml"

_LARGEST_FILE_BYTES = 1 << 20
_LONGEST_TEXT = 120  # bytes: ESPHome's limit for a friendly name
_HEADER = """\
# The satellites of this household, read by mww-ha. Yours to edit: an entry is added at the end, comments stay.
#
# kitchen:                       the host name; <name>.local is where it is looked for
#   template: generic-s3         the kind of board: mww-ha devices templates
#   address: 192.168.1.20        where names do not resolve
#   room: kitchen                rates of false accepts are told by room too
#   api_key: !secret mww_api_encryption_key    a name in esphome/secrets.yaml; "" for an API without encryption
"""


# --- secrets ------------------------------------------------------------------------------------------------------


def read_secrets(path: Path) -> dict[str, Any]:
    """The scalars of a ``secrets.yaml`` as text. Raises ConfigError, which never quotes a line."""
    try:
        # BaseLoader: every scalar as the text it is, so 0123 stays 0123
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506 - builds no objects
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        # the parser's own message would quote the line, and with it a password
        raise ConfigError(f"{path} cannot be read as YAML", hint="write one 'name: \"value\"' per line") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no secrets", hint="write one 'name: \"value\"' per line")
    return document


def secret_values(path: Path) -> list[str]:
    """Everything in a ``secrets.yaml`` that must not be shown."""
    return _scalars(read_secrets(path))


def _scalars(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _scalars(item)]
    if isinstance(value, list):
        return [text for item in value for text in _scalars(item)]
    return [value] if isinstance(value, str) and value else []


def api_key_of(project: store.Project, device: Device) -> str:
    """The encryption key of the device's API, 32 bytes in base64; "" for an API without encryption.

    Raises ConfigError, which names the secret and never its value.
    """
    if not device.api_key:
        return ""
    path = project.esphome_dir / SECRETS_FILE
    if not path.exists():
        raise ConfigError(
            f"the API key of {device.name} is the secret {device.api_key}, and there is no {path}",
            hint=f'write the key its firmware was built with there: {device.api_key}: "..."; '
            "for a board that mww-ha renders whole, mww-ha flash makes the file with a fresh key",
        )
    value = read_secrets(path).get(device.api_key)
    if not isinstance(value, str):
        raise ConfigError(
            f"{path} holds no secret {device.api_key}, which devices.yaml names for {device.name}",
            hint=f'add it as {device.api_key}: "...", or write api_key: "" for an API without encryption',
        )
    if not is_api_key(value):
        raise ConfigError(
            f"the secret {device.api_key} in {path} is no API key",
            hint="a key is 32 bytes in base64, 44 characters; one is made by: openssl rand -base64 32",
        )
    return value


def is_api_key(text: str) -> bool:
    """Whether ``text`` is 32 bytes in base64."""
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except (binascii.Error, ValueError):
        return False


# --- names and addresses ------------------------------------------------------------------------------------------


def clean_host_name(name: str) -> str:
    """``name`` as an ESPHome host name: lower-case letters, digits, hyphens, at most 31. Raises InputError.

    Letters lose their accents, everything else becomes a hyphen; a host name stays as it is. Names become paths, so
    anything that looks like one (a slash, a backslash, NUL, a leading dot, two dots) is refused and not repaired, and
    so is what would overwrite ``secrets.yaml``.
    """
    if any(c in name for c in "/\\\0") or name.strip().startswith(".") or ".." in name:
        raise InputError(f"{name!r} is a path, not a device name", hint="use a name such as kitchen")
    slug = store.slugify(name)
    if slug == store.slugify("") and "wake" not in name.lower():
        raise InputError(f"{name!r} holds no letter or digit of a host name", hint="use a name such as kitchen")
    host = slug.replace("_", "-")
    if len(host) > LONGEST_NAME:
        raise InputError(
            f"the device name {host!r} has {len(host)} characters", hint=f"ESPHome allows {LONGEST_NAME}; shorten it"
        )
    if f"{host}.yaml" == SECRETS_FILE:
        raise InputError(f"{SECRETS_FILE} belongs to the user", hint="choose another device name")
    return host


def is_address(text: str) -> bool:
    """Whether ``text`` is an IP address or a host name, and nothing else: no port, no URL, nothing for a shell."""
    if is_ip_address(text):
        return True
    labels = text.removesuffix(".").split(".")
    return (
        len(text) <= 253
        and all(re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", label, re.ASCII) for label in labels)
        # "1.2.3" and "0x7f" would be read as numbers by the system's resolver
        and not re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]*", labels[-1])
    )


def is_ip_address(text: str) -> bool:
    """Whether ``text`` is an IPv4 or IPv6 address; of a zone (``fe80::1%eth0``) only what interfaces are called."""
    plain, mark, zone = text.partition("%")
    try:
        number = ipaddress.ip_address(plain)
    except ValueError:
        return False
    return not mark or (number.version == 6 and re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", zone) is not None)


# --- devices.yaml -------------------------------------------------------------------------------------------------


def load_devices(project: store.Project) -> dict[str, Device]:
    """Every device of the project by name; raises as ``read_devices`` does."""
    return read_devices(project.devices_path)


def read_devices(path: Path) -> dict[str, Device]:
    """Every device of a ``devices.yaml`` by name, in its order; none when there is no such file.

    Raises ConfigError that names file, line, key and value.
    """
    return _devices(_entries(_read(path), str(path))) if path.exists() else {}


def rooms_of(project: store.Project) -> dict[str, str]:
    """The room of each device that has one; raises as ``read_devices`` does."""
    return {name: device.room for name, device in load_devices(project).items() if device.room}


def find_device(project: store.Project, name: str) -> Device:
    """The device of that name. Raises InputError that names the nearest one, ConfigError on a bad ``devices.yaml``."""
    known = load_devices(project)
    try:
        host = clean_host_name(name)
    except InputError:
        host = ""
    if host in known:
        return known[host]
    if not known:
        raise InputError(
            f"no device is called {name!r}: the project knows none",
            hint=f"add it with: mww-ha devices add NAME --template ...; it is written to {project.devices_path}",
        )
    close = difflib.get_close_matches(host, known, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]}? " if close else ""
    raise InputError(f"no device is called {name!r}", hint=f"{hint}known devices: {', '.join(known)}")


_changing_devices = threading.Lock()
"""Held from the reading of ``devices.yaml`` to its writing: two changes at once would lose one of them."""


def add_device(project: store.Project, device: Device) -> Path:
    """Appends ``device`` to ``devices.yaml``, which is made where there is none. Returns its path.

    What stands there stays as it is, comments included. Raises ConfigError on a value that cannot stand there and on a
    file that cannot be read or appended to, InputError on a name that is taken, StorageError.
    """
    with _changing_devices:
        path = project.devices_path
        entry = _entry_text(device)
        parsed = _devices(_entries(entry, ""))
        if parsed != {device.name: device}:
            raise ConfigError(f"the device {device.name!r} cannot be written as it is", hint="check its values")
        text = _read(path) if path.exists() else _HEADER
        document = _entries(text, str(path))
        known = _devices(document)
        if device.name in known:
            raise InputError(f"{path} has a device {device.name} already", hint="choose another name, or edit the file")
        indent = " " * document.column
        new_line = "\r\n" if "\r\n" in text else "\n"
        head = text if not text or text.endswith("\n") else text + new_line
        made = head + new_line + "".join(f"{indent}{line}{new_line}" for line in entry.splitlines())
        _replace(path, made, {**known, device.name: device}, "it may be written in braces or end with '...'")
        return path


def update_device(project: store.Project, name: str, **changes: Any) -> Device:
    """Sets fields of a device in ``devices.yaml``, each in its place; comments stay. Returns the device as it is now.

    A new value replaces the old one's characters, a new key becomes a line before the entry's first. What is written
    over several lines (a list with a line for each item, a text that goes on) is left to the user: ConfigError.
    Raises as ``find_device`` and ``add_device`` do.
    """
    with _changing_devices:
        path = project.devices_path
        old = find_device(project, name)
        wanted = dataclasses.replace(old, **changes)
        _devices(_entries(_entry_text(wanted), ""))  # names a bad value before anything is moved
        text = _read(path)
        edits = []
        entry = next(e for e in _entries(text, str(path)).entries if clean_host_name(e.name) == old.name)
        here = {key.value: value for key, value in entry.node.value}
        if entry.node.flow_style:
            raise ConfigError(f"{path}: {old.name} is written in braces", hint="change it by hand")
        for key in changes:
            if getattr(wanted, key) == getattr(old, key):
                continue
            value = _value_text(key, getattr(wanted, key))
            if key not in here:
                first = entry.node.start_mark
                edits.append((first.index, first.index, f"{key}: {value}\n{' ' * first.column}"))
            elif here[key].start_mark.line == here[key].end_mark.line:
                edits.append((here[key].start_mark.index, here[key].end_mark.index, value))
            else:
                raise ConfigError(f"{path}: {key} of {old.name} goes over several lines", hint="change it by hand")
        for start, end, value in sorted(edits, reverse=True):
            text = text[:start] + value + text[end:]
        known = load_devices(project)
        _replace(path, text, {**known, old.name: wanted}, "change it by hand")
        return wanted


def remove_device(project: store.Project, name: str) -> Device:
    """Takes a device out of ``devices.yaml``: the lines of its entry. Every other line stays, comments included.

    Returns what it was. Raises as ``find_device`` does, and ConfigError where the entry shares its lines with others.
    """
    with _changing_devices:
        path = project.devices_path
        old = find_device(project, name)
        text = _read(path)
        entry = next(e for e in _entries(text, str(path)).entries if clean_host_name(e.name) == old.name)
        begin = text.rfind("\n", 0, entry.key.start_mark.index) + 1
        end = text.find("\n", _last_index(entry.node)) + 1
        made = text[:begin] + (text[end:] if end else "")
        wanted = {key: device for key, device in load_devices(project).items() if key != old.name}
        _replace(path, made, wanted, "its entry may share a line with another")
        return old


def _last_index(node: yaml.Node) -> int:
    """Where the last thing in ``node`` ends; a block's own mark lies behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_index(last[1] if isinstance(last, tuple) else last)
    return max(node.start_mark.index, node.end_mark.index - 1)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            body = file.read(_LARGEST_FILE_BYTES + 1)
        if len(body) > _LARGEST_FILE_BYTES:
            raise ConfigError(f"{path} is larger than 1 MB", hint="it holds a few lines for each device")
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="check its owner and permissions") from None


def _replace(path: Path, text: str, wanted: dict[str, Device], hint: str) -> None:
    """Puts ``text`` in place if it says what is ``wanted`` and no more."""
    try:
        made = _devices(_entries(text, str(path)))
    except ConfigError:
        made = {}
    if made != wanted:
        raise ConfigError(f"{path} cannot be changed without rewriting it", hint=f"{hint}; edit it yourself")
    store.write_text(path.resolve(), text)  # resolved: a link stays a link


def _entry_text(device: Device) -> str:
    lines = [f"{_yaml_text(device.name)}:"]
    for field in dataclasses.fields(Device):
        value = getattr(device, field.name)
        default = {} if field.name == "substitutions" else field.default
        if field.name != "name" and (field.name == "template" or value != default):
            lines.append(f"  {field.name}: {_value_text(field.name, value)}")
    return "\n".join(lines) + "\n"


def _value_text(key: str, value: Any) -> str:
    if key == "api_key" and value:
        return f"!secret {value}" if _SECRET_NAME.fullmatch(str(value)) else json.dumps(str(value))
    if key == "substitutions":
        return "{" + ", ".join(f"{_yaml_text(k)}: {_quoted(v)}" for k, v in value.items()) + "}"
    if key == "also":
        return "[" + ", ".join(_quoted(item) for item in value) + "]"
    if isinstance(value, bool | int):
        return json.dumps(value)
    return _yaml_text(value)


def _yaml_text(text: str) -> str:
    """``text`` as a YAML scalar: bare where that is safe, else in double quotes."""
    if re.fullmatch(r"[A-Za-z0-9_/]([A-Za-z0-9_./:-]*[A-Za-z0-9_./-])?", text, re.ASCII):
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}str" and node.value == text:
            return text
    return _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps(str(text), ensure_ascii=False)


_TAG = "tag:yaml.org,2002:"
_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")  # a key in its place has 44 characters


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    where: str  # the file, or "" for what is not in one yet
    key: yaml.ScalarNode
    node: yaml.MappingNode

    @property
    def name(self) -> str:
        """As it is written."""
        return str(self.key.value)

    def place(self, node: yaml.Node | None = None) -> str:
        """Where ``node`` stands: ``FILE line 7: device 'kitchen'``."""
        line = (node or self.key).start_mark.line + 1
        return f"{self.where} line {line}: device {_shown(self.name)}" if self.where else f"device {_shown(self.name)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Document:
    column: int  # where its entries begin
    entries: tuple[_Entry, ...]


def _entries(text: str, where: str) -> _Document:
    """The document's structure; nothing of it is constructed, so no tag runs anything and every place has its line."""
    try:
        root = yaml.compose(text.removeprefix("\ufeff"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        # the parser's own message would quote the line, and with it perhaps a key
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{where}{line} is not YAML: {_one_line(error.problem or '')}", hint=_FORM) from None
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"{where} is not YAML", hint=_FORM) from None
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == f"{_TAG}null" and not root.value):
        return _Document(column=0, entries=())
    if not isinstance(root, yaml.MappingNode) or root.tag != f"{_TAG}map":
        raise ConfigError(f"{where} is not a list of devices by name", hint=_FORM)
    entries = []
    for key, value in root.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{where} line {key.start_mark.line + 1}: a device has no name", hint=_FORM)
        entry = _Entry(where=where, key=key, node=value)
        if not isinstance(value, yaml.MappingNode) or value.tag != f"{_TAG}map":
            raise ConfigError(f"{entry.place()} has no keys of a device", hint=_FORM)
        entries.append(entry)
    return _Document(column=root.start_mark.column, entries=tuple(entries))


_FORM = "write 'kitchen:' and below it, indented, 'template: generic-s3'"


def _devices(document: _Document) -> dict[str, Device]:
    made: dict[str, Device] = {}
    spelled: dict[str, str] = {}
    for entry in document.entries:
        try:
            host = clean_host_name(entry.name)
        except InputError as error:
            raise ConfigError(f"{entry.place()}: {error.message}", hint=error.hint) from None
        if host in made:
            same = spelled[host] == entry.name
            raise ConfigError(
                f"{entry.place()} is there twice"
                if same
                else f"{entry.place()} is {host}, as is {_shown(spelled[host])}",
                hint="give one of them another name, or remove it",
            )
        made[host] = _device(entry, host)
        spelled[host] = entry.name
    return made


def _device(entry: _Entry, host: str) -> Device:
    values: dict[str, Any] = {}
    for key, value in entry.node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        if name not in _READERS:
            close = difflib.get_close_matches(name, _READERS, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(
                f"{entry.place(key)} has the key {_shown(name)}, which means nothing",
                hint=f"{hint}known keys: {', '.join(_READERS)}",
            )
        if name in values:
            raise ConfigError(f"{entry.place(key)} has {name} twice", hint="remove one of them")
        try:
            values[name] = _READERS[name](value)
        except _BadValueError as error:
            told = f" {_shown(value.value)}" if error.tell and isinstance(value, yaml.ScalarNode) else ""
            raise ConfigError(f"{entry.place(value)}: {name}{told} {error.problem}", hint=error.hint) from None
    if "template" not in values:
        raise ConfigError(f"{entry.place()} has no template", hint="add 'template: generic-s3', or what board it is")
    if not values.get("friendly_name") and entry.name != host and _is_friendly(entry.name):
        values["friendly_name"] = entry.name
    return Device(name=host, **values)


def _is_friendly(text: str) -> bool:
    return text.isprintable() and len(text.encode()) <= _LONGEST_TEXT


class _BadValueError(Exception):
    def __init__(self, problem: str, hint: str, *, tell: bool = True) -> None:
        super().__init__(problem)
        self.problem, self.hint, self.tell = problem, hint, tell


def _text(node: yaml.Node) -> str:
    """A scalar as it is written: 0123 stays 0123. Not a yes or no, not nothing, not something with a tag."""
    kinds = ("str", "int", "float", "timestamp")
    if not isinstance(node, yaml.ScalarNode) or node.tag not in {_TAG + kind for kind in kinds}:
        raise _BadValueError("is not a text", 'write a text, "" for none', tell=False)
    text = str(node.value)
    if not text.isprintable():
        raise _BadValueError("has characters that cannot be shown", "write one line of plain text")
    if len(text) > 1024:
        raise _BadValueError("is too long", "at most 1024 characters", tell=False)
    return text


def _matching(pattern: str, problem: str, hint: str) -> Callable[[yaml.Node], str]:
    def read(node: yaml.Node) -> str:
        text = _text(node)
        if not re.fullmatch(pattern, text, re.ASCII):
            raise _BadValueError(problem, hint)
        return text

    return read


def _address(node: yaml.Node) -> str:
    text = _text(node)
    if text and not is_address(text):
        hint = (
            "write an IP address such as 192.168.1.20 or a host name such as kitchen.local, without http:// or a port"
        )
        raise _BadValueError("is no address", hint)
    return text


def _port(node: yaml.Node) -> int:
    text = _text(node)
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text, re.ASCII) or int(text) > 65535:
        raise _BadValueError("is no port", "write a number from 1 to 65535; ESPHome's API has 6053")
    return int(text)


def _backend(node: yaml.Node) -> str:
    text = _text(node)
    if text not in BACKENDS:
        close = difflib.get_close_matches(text, BACKENDS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise _BadValueError("is no way to flash", f"{hint}known ways: {', '.join(BACKENDS)}")
    return text


def _secret_name(node: yaml.Node) -> str:
    hint = "write 'api_key: !secret mww_api_encryption_key' and put the key into esphome/secrets.yaml"
    if not isinstance(node, yaml.ScalarNode):
        raise _BadValueError("is no name of a secret", hint, tell=False)
    if node.tag == "!secret":
        if not _SECRET_NAME.fullmatch(node.value):
            raise _BadValueError("names no secret", hint, tell=False)
        return str(node.value)
    if node.tag == f"{_TAG}str" and not node.value:
        return ""
    raise _BadValueError("is not the name of a secret: a key does not stand in this file", hint, tell=False)


def _friendly_name(node: yaml.Node) -> str:
    text = _text(node)
    if len(text.encode()) > _LONGEST_TEXT:
        raise _BadValueError(f"has {len(text.encode())} bytes", f"ESPHome allows {_LONGEST_TEXT}", tell=False)
    return text


def _room(node: yaml.Node) -> str:
    text = _text(node)
    if len(text) > _LONGEST_TEXT:
        raise _BadValueError(f"has {len(text)} characters", f"at most {_LONGEST_TEXT}", tell=False)
    return text


def _yaml_path(node: yaml.Node) -> str:
    text = _text(node)
    if text and (text.startswith("-") or not text.endswith((".yaml", ".yml"))):
        raise _BadValueError(
            "is no YAML file", "name the file of yours that includes the package, such as kitchen.yaml"
        )
    return text


def _substitutions(node: yaml.Node) -> dict[str, str]:
    if not isinstance(node, yaml.MappingNode) or node.tag != f"{_TAG}map":
        raise _BadValueError("is no list of names with their values", "write 'substitutions: {mic_gain: \"4\"}'")
    made: dict[str, str] = {}
    for key, value in node.value:
        name = _text(key)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name, re.ASCII):
            raise _BadValueError(f"has the name {_shown(name)}", "use letters, digits and underscores", tell=False)
        if name in made:
            raise _BadValueError(f"has {name} twice", "remove one of them", tell=False)
        try:
            made[name] = _text(value)
        except _BadValueError:
            raise _BadValueError(f"gives {name} no text", f'write {name}: "value"', tell=False) from None
    return made


def _also(node: yaml.Node) -> tuple[str, ...]:
    hint = "write 'also: [hey_hall-1a2b3c4d]': models of the project, or manifests"
    if not isinstance(node, yaml.SequenceNode) or node.tag != f"{_TAG}seq":
        raise _BadValueError("is no list", hint)
    made = tuple(_text(item) for item in node.value)
    if any(not item or item.startswith("-") for item in made):
        raise _BadValueError("names no model", hint)
    return made


def _vad(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}bool":
        return "vad" if node.value.lower() in ("yes", "true", "on") else ""
    text = _text(node)
    if text not in ("", "vad") and not text.endswith(".json"):
        raise _BadValueError("is no voice activity model", "write true for ESPHome's own, or the path of a manifest")
    return text


def _yes_or_no(node: yaml.Node) -> bool:
    if not isinstance(node, yaml.ScalarNode) or node.tag != f"{_TAG}bool":
        raise _BadValueError("is neither true nor false", "write true or false")
    return node.value.lower() in ("yes", "true", "on")


def _capture_url(node: yaml.Node) -> str:
    text = _text(node)
    match = re.fullmatch(r"http://([0-9.]{7,15})(?::([1-9][0-9]{0,4}))?/[A-Za-z0-9._~/-]*", text, re.ASCII)
    hint = "write http://192.168.1.10:8098/api/captures: the IPv4 address of the machine that runs mww-ha"
    if not text:
        return text
    if not match or (match[2] and int(match[2]) > 65535):
        raise _BadValueError("is no address for captures", hint)
    try:
        host = ipaddress.IPv4Address(match[1])
    except ValueError:
        raise _BadValueError("is no address for captures", hint) from None
    if host.is_unspecified or host.is_multicast or host.is_global:
        raise _BadValueError("is no machine in the home network", hint)
    return text


_READERS: dict[str, Callable[[yaml.Node], Any]] = {
    "template": _matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "is no template", "mww-ha devices templates lists them"),
    "address": _address,
    "port": _port,
    "backend": _backend,
    "serial": _matching(
        r"(/[A-Za-z0-9_./:+@-]{1,200}|COM[0-9]{1,3})?", "is no serial port", "write /dev/ttyUSB0, /dev/ttyACM0 or COM3"
    ),
    "api_key": _secret_name,
    "friendly_name": _friendly_name,
    "yaml": _yaml_path,
    "substitutions": _substitutions,
    "also": _also,
    "vad": _vad,
    "capture_url": _capture_url,
    "near_miss": _yes_or_no,
    "room": _room,
}


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]

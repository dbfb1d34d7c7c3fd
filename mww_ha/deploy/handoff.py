"""What was rendered → another ESPHome's configuration folder, and which button to press there.

``collect_files`` says what a YAML needs of the folder it lies in; ``Handoff`` writes that into a folder that ESPHome
(the add-on's ``/config/esphome``, or a container's) compiles from. A file of the user's, or one that was changed by
hand after it was written, is never overwritten: ``mww_ha/handed_over.json`` in that folder remembers what was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from mww_ha import store
from mww_ha.deploy.backend import Build, Firmware
from mww_ha.deploy.owned import is_untouched
from mww_ha.deploy.preflight import PLACEHOLDERS
from mww_ha.devices.known import SECRETS_FILE, read_secrets
from mww_ha.errors import ConfigError, FlashError, InputError
from mww_ha.schema import Progress, ProgressSink

RECORD_FILE = "mww_ha/handed_over.json"
"""Digests of what was written into a folder, by path; the newest last."""

_RESOLVED_BY_ESPHOME = "<<"
"""Key in a secrets.yaml that brings in the names of another file."""

_OUTSIDE = (".json", ".tflite", ".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """A YAML with everything of its folder that it needs."""

    main: str
    contents: Mapping[str, bytes]  # by path relative to the folder, with slashes; the main YAML comes last
    secrets: tuple[str, ...]  # names it takes from the folder's secrets.yaml
    private: frozenset[str]  # paths that only their owner may read
    ours: bool  # the main YAML is mww-ha's; else it is the user's own that includes ours
    wake_model: str  # what the entity "Wake model" will say; empty: the YAML does not say


def collect_files(yaml_path: Path) -> Files:
    """Everything below ``yaml_path``'s folder that ESPHome reads when it compiles ``yaml_path``, but for secrets.yaml.

    Raises InputError when a file is missing, ConfigError when one cannot be read or lies outside the folder.
    """
    walk = _Walk(yaml_path.parent)
    walk.read_yaml(yaml_path)
    main = walk.relative(yaml_path)
    contents = {path: data for path, data in sorted(walk.contents.items()) if path != main}
    contents[main] = walk.contents[main]
    return Files(
        main=main,
        contents=contents,
        secrets=tuple(sorted(walk.secrets)),
        private=frozenset(walk.private),
        ours=is_untouched(yaml_path, contents[main].decode("utf-8")),
        wake_model=walk.wake_model,
    )


@dataclass(slots=True)
class _Walk:
    """Follows a YAML through includes, components and models."""

    root: Path
    contents: dict[str, bytes] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    wake_model: str = ""

    def relative(self, path: Path) -> str:
        try:
            return path.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError:
            raise ConfigError(
                f"{path} lies outside {self.root}", hint="another ESPHome cannot see it: copy it beside the YAML"
            ) from None

    def add(self, path: Path) -> bool:
        """Takes ``path`` in; False when it is known already."""
        name = self.relative(path)
        if name in self.contents:
            return False
        try:
            self.contents[name] = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}", hint="render the device again") from None
        return True

    def read_yaml(self, path: Path) -> None:
        if not self.add(path):
            return
        try:
            document = yaml.compose(self.contents[self.relative(path)].decode("utf-8"), Loader=yaml.SafeLoader)
        except (UnicodeDecodeError, yaml.YAMLError):
            # the parser's own message would quote the line, and with it perhaps a password
            raise ConfigError(f"{path} cannot be read as YAML", hint="check it with: esphome config") from None
        if document is not None:
            for key, node in _scalars(document):
                self.follow(path, key, node)

    def follow(self, source: Path, key: str, node: yaml.ScalarNode) -> None:
        value = node.value
        if node.tag == "!secret":
            self.note_secret(source, value)
        elif node.tag == "!include" or (key == "!include" and node.tag.endswith(":str")):
            self.read_yaml(source.parent / value)
        elif node.tag.startswith("!include_dir"):
            for path in sorted((source.parent / value).rglob("*.yaml")):
                self.read_yaml(path)
        elif key in ("path", "source"):
            self.take_folder(value)
        elif key == "wake_model_version" and not self.wake_model:
            self.wake_model = value
        elif not node.tag.startswith("!"):
            self.take_file(value)

    def note_secret(self, source: Path, name: str) -> None:
        beside = source.parent / SECRETS_FILE
        if source.parent.resolve() != self.root.resolve() and beside.is_file() and name in read_secrets(beside):
            self.add(beside)
            self.private.add(self.relative(beside))
        else:
            self.secrets.add(name)

    def take_folder(self, value: str) -> None:
        folder = self.root / value
        if not value or not folder.is_dir() or folder.resolve() == self.root.resolve():
            return
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                self.add(path)

    def take_file(self, value: str) -> None:
        """``value`` may be the name of a file: a model's manifest, which names its model in turn."""
        if "\n" in value or not 2 < len(value) < 300 or Path(value).suffix not in _OUTSIDE:
            return
        path = self.root / value
        if path.name == SECRETS_FILE or not path.is_file() or not self.add(path) or path.suffix != ".json":
            return
        try:
            model = json.loads(self.contents[self.relative(path)])["model"]
        except (ValueError, KeyError, TypeError):
            return
        if isinstance(model, str) and (path.parent / model).is_file():
            self.add(path.parent / model)


def _scalars(document: yaml.Node) -> Iterator[tuple[str, yaml.ScalarNode]]:
    """Every scalar with the key it stands under; of ``!include {file: …}`` the file stands under ``!include``."""
    todo: list[tuple[str, yaml.Node]] = [("", document)]
    seen = set[int]()
    while todo:
        key, node = todo.pop()
        if isinstance(node, yaml.ScalarNode):
            yield key, node
        elif id(node) in seen:  # an anchor and its aliases are one node
            continue
        elif isinstance(node, yaml.SequenceNode):
            seen.add(id(node))
            todo += [(key, item) for item in node.value]
        elif isinstance(node, yaml.MappingNode):
            seen.add(id(node))
            for name, item in node.value:
                under = str(name.value) if isinstance(name, yaml.ScalarNode) else ""
                todo.append(("!include" if node.tag == "!include" and under == "file" else under, item))


# --- another ESPHome's folder -------------------------------------------------------------------------------------


class Handoff:
    """A folder that some other ESPHome compiles from. A person presses the last button."""

    name = "handoff"
    delivers = False

    def __init__(self, folder: Path, *, force: bool = False) -> None:
        self.folder = folder
        self.force = force

    def preflight(self, firmware: Firmware, report: ProgressSink) -> None:
        """Raises ConfigError when the folder is none or when a file in it is not ours to overwrite."""
        files = collect_files(firmware.yaml_path)
        report(Progress(stage="preflight", message=f"{len(files.contents)} files for {self.folder}"))
        self._check_folder()
        if not self._is_source(firmware):
            _plan(self.folder, files, force=self.force)

    def compile(self, firmware: Firmware, report: ProgressSink) -> Build:
        """Writes the files; a crash leaves whole files, and running it again finishes the work."""
        self._check_folder()
        for message in self.write(firmware, report):
            report(Progress(stage="handoff", message=message))
        return Build(esphome_version="")

    def upload(self, firmware: Firmware, report: ProgressSink) -> None:
        """Says what is left to do by hand."""
        report(Progress(stage="handoff", message=self.instructions(firmware)))

    def instructions(self, firmware: Firmware) -> str:
        """Which button to press, and how to have it checked."""
        over_the_air = 'choose "Wirelessly" (a device that is new to ESPHome: by cable, once)'
        how = f"choose {firmware.target}" if firmware.device.serial else over_the_air
        return (
            f"open ESPHome (Device Builder) on {self.folder}, find {firmware.yaml_path.name}, press Install and {how}; "
            f"then: mww-ha flash --device {firmware.device.name} --confirm"
        )

    def write(self, firmware: Firmware, report: ProgressSink) -> list[str]:
        """Writes what differs; returns what the user has to know. Raises as ``preflight`` does, and StorageError."""
        files = collect_files(firmware.yaml_path)
        messages: list[str] = []
        if not self._is_source(firmware):
            plan = _plan(self.folder, files, force=self.force)
            for path in sorted(plan.backups):
                target = self.folder / path
                with store.storage_errors(target):
                    shutil.copy2(target, target.with_name(f"{target.name}.bak"))
            _write_record(self.folder, plan.record_before)
            for number, (path, data) in enumerate(plan.writes.items()):
                report(Progress(stage="handoff", message=f"writing {path}", done=number, total=len(plan.writes)))
                _write_file(self.folder / path, data, private=path in files.private)
            _write_record(self.folder, plan.record_after)
            messages += plan.messages
        messages += self._secrets(firmware, files)
        return messages

    def _is_source(self, firmware: Firmware) -> bool:
        """The YAML lies in the folder already."""
        return firmware.yaml_path.parent.resolve() == self.folder.resolve()

    def _check_folder(self) -> None:
        if not self.folder.is_dir():
            raise ConfigError(
                f"{self.folder} is not a folder",
                hint="set flash.handoff_dir to the folder with ESPHome's YAML files, such as /config/esphome",
            )

    def _secrets(self, firmware: Firmware, files: Files) -> list[str]:
        """Makes a secrets.yaml where there is none; of one that is there only the missing names are told."""
        path, source = self.folder / SECRETS_FILE, firmware.yaml_path.parent / SECRETS_FILE
        if not files.secrets or self._is_source(firmware):
            return []
        if not path.exists():
            known = known_secrets(source)
            wanted = {name: known[name] for name in files.secrets if name in known}
            lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in wanted.items()]
            _write_file(path, "".join(["# Made once by mww-ha; yours from now on.\n", *lines]).encode(), private=True)
            return [f"made {path} with {', '.join(wanted) or 'nothing'}", *_absent(path, files, source)]
        return _absent(path, files, source)


def known_secrets(path: Path) -> dict[str, str]:
    """What a secrets.yaml holds for others to take over: what is not filled in yet is not among it."""
    document = read_secrets(path) if path.is_file() else {}
    return {name: value for name, value in document.items() if isinstance(value, str) and value not in PLACEHOLDERS}


def _absent(path: Path, files: Files, source: Path) -> list[str]:
    document = read_secrets(path)
    absent = [name for name in files.secrets if name not in document]
    if not absent or _RESOLVED_BY_ESPHOME in document:
        return []
    return [f"add to {path}, which is yours and was not touched: {', '.join(absent)} (values: {source})"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    writes: dict[str, bytes]
    backups: frozenset[str]
    record_before: dict[str, list[str]]  # what may be found if the work breaks off
    record_after: dict[str, list[str]]
    messages: tuple[str, ...]


def check_ours(
    files: Files, existing: Mapping[str, bytes], record: Mapping[str, list[str]], where: str, *, force: bool
) -> list[str]:
    """Paths of ``files`` to write over ``existing`` files. Raises ConfigError when one of them is not ours.

    The user's own main YAML is left as it is, whatever it says.
    """
    foreign, write = [], []
    for path, data in files.contents.items():
        found = existing.get(path)
        if found == data or (path == files.main and not files.ours and found is not None):
            continue
        write.append(path)
        if (
            found is not None
            and not _may_replace(path, found, record.get(path, []))
            and not path.endswith(SECRETS_FILE)
        ):
            foreign.append(path)
    if foreign and not force:
        raise ConfigError(
            f"{where}: {', '.join(foreign)} {'was' if len(foreign) == 1 else 'were'} changed by hand or not made by "
            "mww-ha, and nothing was written",
            hint="move it away there, or flash with --force",
        )
    return write


def _may_replace(path: str, found: bytes, digests: list[str]) -> bool:
    if hashlib.sha256(found).hexdigest() in digests:
        return True
    try:
        return is_untouched(Path(path), found.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def _plan(folder: Path, files: Files, *, force: bool) -> _Plan:
    existing: dict[str, bytes] = {}
    for path in files.contents:
        target = folder / path
        if target.is_dir():
            raise ConfigError(f"{target} is a folder", hint="move it away")
        for parent in target.parents:
            if parent == folder:
                break
            if parent.exists() and not parent.is_dir():
                raise ConfigError(f"{parent} is a file, and a folder is needed there", hint="move it away")
        if target.exists():
            with store.storage_errors(target):
                existing[path] = target.read_bytes()
    record = read_record(_text(folder / RECORD_FILE))
    paths = check_ours(files, existing, record, str(folder), force=force)
    writes = {path: files.contents[path] for path in paths}
    for path in files.private & set(existing):
        # tokens of other projects' devices may stand in it
        merged = merge_secrets(existing[path], files.contents[path], folder / path)
        writes.pop(path, None)
        if merged != existing[path]:
            writes[path] = merged
    messages = []
    if not files.ours and files.main in existing and existing[files.main] != files.contents[files.main]:
        messages.append(f"{folder / files.main} is yours and differs from the one here; it was left as it is")
    after = extend_record({}, record, writes)
    return _Plan(
        writes=writes,
        backups=frozenset(
            path for path in paths if path in existing and not _may_replace(path, existing[path], record.get(path, []))
        )
        - files.private,
        record_before=extend_record(record, record, writes),
        record_after=after,
        messages=tuple(messages),
    )


def read_record(text: str) -> dict[str, list[str]]:
    """Digests by path; a record that cannot be read holds none, so that nothing is overwritten."""
    try:
        document = json.loads(text)
        return {str(path): [str(digest) for digest in digests] for path, digests in document["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def extend_record(
    keep: Mapping[str, list[str]], others: Mapping[str, list[str]], writes: Mapping[str, bytes]
) -> dict[str, list[str]]:
    """``others`` with the digests of ``writes``, after those in ``keep`` of the same path."""
    made = {path: [*keep.get(path, []), hashlib.sha256(data).hexdigest()] for path, data in writes.items()}
    return {**others, **made}


def record_bytes(record: Mapping[str, list[str]]) -> bytes:
    """The record as a file."""
    document: dict[str, Any] = {"about": "what mww-ha wrote here, by SHA-256", "files": dict(sorted(record.items()))}
    return (json.dumps(document, indent=1) + "\n").encode()


def merge_secrets(found: bytes, new: bytes, where: Path | PurePosixPath) -> bytes:
    """``new`` and those names of ``found`` it lacks."""
    try:
        old = yaml.load(found.decode("utf-8"), Loader=yaml.BaseLoader)  # noqa: S506 - builds no objects
        names = yaml.load(new.decode("utf-8"), Loader=yaml.BaseLoader)  # noqa: S506 - builds no objects
    except (UnicodeDecodeError, yaml.YAMLError):
        raise ConfigError(f"{where} cannot be read as YAML", hint="move it away") from None
    kept = {k: v for k, v in old.items() if k not in (names or {})} if isinstance(old, dict) else {}
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in kept.items()]
    ended = new if new.endswith(b"\n") else new + b"\n"
    return ended + "".join(lines).encode()


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.is_file() else ""


def _write_record(folder: Path, record: Mapping[str, list[str]]) -> None:
    path, data = folder / RECORD_FILE, record_bytes(record)
    if not (path.is_file() and path.read_bytes() == data):
        _write_file(path, data, private=False)


def _write_file(path: Path, data: bytes, *, private: bool) -> None:
    if not private:
        with store.atomic_write(path) as file:
            file.write(data)
        return
    with store.storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)


def same_wake_model(expected: str, found: object, where: str) -> None:
    """Raises FlashError when another ESPHome would build other models than were rendered."""
    if expected and found != expected:
        raise FlashError(
            f"{where} would build the wake model {str(found)!r}, not {expected!r}",
            hint="its files are older than the rendered ones, or its YAML includes another package",
        )

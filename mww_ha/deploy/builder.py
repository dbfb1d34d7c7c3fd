"""A Device Builder or a classic ESPHome dashboard by its address: it compiles and uploads, on whatever machine it runs.

Three generations speak through one address. A *Device Builder* (``/ws``) takes files: what was rendered is sent as one
bundle, which carries the model and the component too. A *classic* dashboard (up to ESPHome 2026.6) takes no binary
files, so its configuration folder has to be shared (``flash.handoff_dir``), or the files have to be there already.
Whichever way they came, the builder is asked what it would build before it builds it, and the hash of the model in that
answer has to be the rendered one.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import tarfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from mww_ha.deploy import handoff
from mww_ha.deploy.backend import Build, Firmware
from mww_ha.deploy.boards import TEMPLATES_MINIMUM_ESPHOME
from mww_ha.deploy.dashboard import OTA, Dashboard, Timeouts, open_dashboard, read_url
from mww_ha.deploy.esphome import read_progress, redact, relevant_lines, version_key
from mww_ha.deploy.handoff import Files, collect_files
from mww_ha.deploy.local import AFTER_ALL_WAS_SENT, failure_of_compile, failure_of_upload
from mww_ha.devices.known import SECRETS_FILE
from mww_ha.errors import ConfigError, FlashError, MwwError, ToolError
from mww_ha.schema import Progress, ProgressSink

_Result = TypeVar("_Result")

_KEPT_LINES = 400
"""Lines of a job that are kept to explain a failure."""


class Builder:
    """A dashboard by URL, with ``user:password@`` where it asks for them. No message ever shows the password.

    ``folder`` is the dashboard's own configuration folder where this machine can write into it. ``force`` overwrites
    files there that were changed by hand.
    """

    name = "builder"
    delivers = True

    def __init__(
        self, url: str, *, folder: Path | None = None, timeouts: Timeouts | None = None, force: bool = False
    ) -> None:
        self._address = read_url(url)
        self._folder = handoff.Handoff(folder, force=force) if folder else None
        self._timeouts = timeouts or Timeouts()
        self._force = force

    def preflight(self, firmware: Firmware, report: ProgressSink) -> None:
        """Asks the dashboard who it is and whether the files can get there; nothing is written."""
        files = collect_files(firmware.yaml_path)

        async def ask(dashboard: Dashboard) -> None:
            report(Progress(stage="preflight", message=f"{dashboard.title} at {self._address.shown}"))
            _check_version(dashboard)
            await _check_target(dashboard, firmware.target)
            await self._check_files(dashboard, firmware, files, report)
            await self._check_secrets(dashboard, firmware, files)

        self._run(ask)

    def compile(self, firmware: Firmware, report: ProgressSink) -> Build:
        """Brings the files there, checks what the dashboard makes of them, and has it compile them."""
        files = collect_files(firmware.yaml_path)

        async def build(dashboard: Dashboard) -> Build:
            await self._deliver(dashboard, firmware, files, report)
            await self._check_resolved(dashboard, firmware, files)
            log = await self._work(dashboard, "compile", firmware, report)
            return _read_build(dashboard.esphome_version, log)

        return self._run(build)

    def upload(self, firmware: Firmware, report: ProgressSink) -> None:
        """Has the dashboard send what it compiled."""

        async def send(dashboard: Dashboard) -> None:
            await self._work(dashboard, "upload", firmware, report)

        self._run(send)

    # --- files --------------------------------------------------------------------------------------------------

    async def _check_files(self, dashboard: Dashboard, firmware: Firmware, files: Files, report: ProgressSink) -> None:
        if self._folder:
            self._folder.preflight(firmware, report)
        elif dashboard.takes_files:
            existing, record = await _read_remote(dashboard, files)
            handoff.check_ours(files, existing, record, self._address.shown, force=self._force)
        elif await dashboard.read_text(files.main) != files.contents[files.main].decode("utf-8"):
            raise ConfigError(
                f"{dashboard.title} at {self._address.shown} takes no models and components, and {files.main} is not "
                "in its configuration folder as it was rendered",
                hint="share that folder with this machine and set flash.handoff_dir to it, "
                "or use ESPHome's Device Builder, which takes files",
            )

    async def _deliver(self, dashboard: Dashboard, firmware: Firmware, files: Files, report: ProgressSink) -> None:
        if self._folder:
            for message in self._folder.write(firmware, report):
                report(Progress(stage="compile", message=message))
            if await dashboard.read_text(files.main) is None:
                raise ConfigError(
                    f"{dashboard.title} at {self._address.shown} does not see {files.main}, which is in "
                    f"{self._folder.folder}",
                    hint="set flash.handoff_dir to the configuration folder of that dashboard",
                )
        elif dashboard.takes_files:
            existing, record = await _read_remote(dashboard, files)
            paths = handoff.check_ours(files, existing, record, self._address.shown, force=self._force)
            await self._send(dashboard, files, paths, existing, record, report)
        else:
            await self._check_files(dashboard, firmware, files, report)
        if not self._folder:
            added = await self._send_secrets(dashboard, firmware, files)
            if added:
                report(Progress(stage="compile", message=f"added {', '.join(added)} to the dashboard's secrets.yaml"))

    async def _send(
        self,
        dashboard: Dashboard,
        files: Files,
        paths: Sequence[str],
        existing: Mapping[str, bytes],
        record: Mapping[str, list[str]],
        report: ProgressSink,
    ) -> None:
        """What differs, and the record of it, as one bundle. The main YAML is always part of a bundle."""
        contents = {path: files.contents[path] for path in paths}
        for path in files.private & set(existing):
            contents[path] = handoff.merge_secrets(existing[path], files.contents[path], PurePosixPath(path))
        if not contents:
            return
        # what may be found there if this breaks off half-way stays in the record until the next time
        contents[handoff.RECORD_FILE] = handoff.record_bytes(handoff.extend_record(record, record, contents))
        replaced = [path for path in contents if path != files.main or files.main in paths]
        contents = {files.main: files.contents[files.main], **contents}
        report(Progress(stage="compile", message=f"sending {len(contents)} files to {self._address.shown}"))
        await dashboard.import_bundle(make_bundle(files.main, contents), replaced)

    # --- secrets and what comes of them -------------------------------------------------------------------------

    async def _check_secrets(self, dashboard: Dashboard, firmware: Firmware, files: Files) -> None:
        """Every secret the YAML needs is there, or is here and can be brought there."""
        there = await dashboard.secret_names()
        absent = [name for name in files.secrets if name not in there]
        folder = self._folder
        can_be_made = not (folder.folder / SECRETS_FILE).exists() if folder else dashboard.takes_files
        if absent and can_be_made:
            known = _secrets_here(firmware)
            absent = [name for name in absent if name not in known]
        if absent:
            raise ConfigError(
                f"the secrets.yaml of {dashboard.title} at {self._address.shown} lacks {', '.join(absent)}",
                hint=f"add them there; the values of this project are in {firmware.yaml_path.parent / SECRETS_FILE}",
            )

    async def _send_secrets(self, dashboard: Dashboard, firmware: Firmware, files: Files) -> list[str]:
        there = await dashboard.secret_names()
        absent = [name for name in files.secrets if name not in there]
        known = _secrets_here(firmware) if absent else {}
        for name in absent:
            if name in known:
                await dashboard.add_secret(name, known[name])
        return [name for name in absent if name in known]

    async def _check_resolved(self, dashboard: Dashboard, firmware: Firmware, files: Files) -> None:
        """What the dashboard would build is what was rendered. Raises FlashError."""
        document, complaint = await dashboard.resolve(files.main)
        if document is None:
            raise FlashError(
                f"{dashboard.title} at {self._address.shown} refuses {files.main}:\n"
                f"{relevant_lines(redact(complaint, firmware.hidden))}",
                hint="open it there, which shows the line; nothing was compiled",
            )
        substitutions = document.get("substitutions")
        found = substitutions.get("wake_model_version") if isinstance(substitutions, dict) else None
        handoff.same_wake_model(files.wake_model, found, f"{dashboard.title} at {self._address.shown}")
        wanted = _secrets_here(firmware).get(firmware.device.api_key) if firmware.device.api_key else None
        key = _deep(document, "api", "encryption", "key")
        if wanted and isinstance(key, str) and key != wanted:
            raise ConfigError(
                f"{firmware.device.api_key} of {dashboard.title} at {self._address.shown} is another key than in "
                f"{firmware.yaml_path.parent / SECRETS_FILE}",
                hint="make the two equal: the device could not be asked what it runs after the upload",
            )

    # --- jobs ---------------------------------------------------------------------------------------------------

    async def _work(self, dashboard: Dashboard, step: str, firmware: Firmware, report: ProgressSink) -> list[str]:
        """Runs a job to its end and returns its lines, redacted. Raises what ``explain`` makes of a failure."""
        lines: list[str] = []
        limit_s = self._timeouts.compile_s if step == "compile" else self._timeouts.upload_s
        splitter = _Splitter()

        def take(text: str) -> None:
            for line in splitter.split(text):
                shown = redact(line, firmware.hidden)
                lines.append(shown)
                if len(lines) > _KEPT_LINES:
                    del lines[0]
                progress = read_progress(shown, step)
                report(progress or Progress(stage=step, message=_short(shown)))

        report(Progress(stage=step, message=f"{step} of {firmware.yaml_path.name} at {self._address.shown}"))
        try:
            async with asyncio.timeout(limit_s):
                code = await dashboard.run(step, firmware.yaml_path.name, firmware.target or OTA, take)
        except TimeoutError:
            raise FlashError(
                f"{dashboard.title} at {self._address.shown} did not finish the {step} within {limit_s:g} s",
                hint="look there whether it still works on it; then flash again",
            ) from None
        take("\n")
        if code != 0 and step == "upload" and AFTER_ALL_WAS_SENT.search("\n".join(lines)):
            report(Progress(stage=step, message="the connection ended after the device had all of it"))
        elif code != 0:
            raise explain(step, lines, f"{dashboard.title} at {self._address.shown}", code, firmware)
        return lines

    def _run(self, work: Callable[[Dashboard], Awaitable[_Result]]) -> _Result:
        async def run() -> _Result:
            async with open_dashboard(self._address, self._timeouts) as dashboard:
                return await work(dashboard)

        return asyncio.run(run())


def _secrets_here(firmware: Firmware) -> dict[str, str]:
    return handoff.known_secrets(firmware.yaml_path.parent / SECRETS_FILE)


def _deep(document: object, *keys: str) -> object:
    for key in keys:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def _check_version(dashboard: Dashboard) -> None:
    if version_key(dashboard.esphome_version) < version_key(TEMPLATES_MINIMUM_ESPHOME):
        raise ToolError(
            f"{dashboard.title} has ESPHome {dashboard.esphome_version}, which is too old: the templates need "
            f"{TEMPLATES_MINIMUM_ESPHOME}",
            hint="update it",
        )


async def _check_target(dashboard: Dashboard, target: str) -> None:
    """A serial port is one of the machine the dashboard runs on, not of this one."""
    if not target.startswith("/") and not re.fullmatch(r"(?i)com\d+", target):
        return
    ports = await dashboard.serial_ports()
    if target not in ports:
        raise ConfigError(
            f"{dashboard.title} has no serial port {target}",
            hint=f"plug the device into the machine it runs on (ports there: {', '.join(ports) or 'none'}), "
            "or flash over the air",
        )


async def _read_remote(dashboard: Dashboard, files: Files) -> tuple[dict[str, bytes], dict[str, list[str]]]:
    """The texts that are there already, and the record of what mww-ha wrote there.

    A dashboard gives out no binary file. A model's name is made of its hash, so one that is there needs no sending.
    """
    existing = {}
    for path, data in files.contents.items():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            manifest = str(PurePosixPath(path).with_suffix(".json"))
            if await dashboard.read_text(manifest) is not None and _named_by_hash(path):
                existing[path] = data
            continue
        text = await dashboard.read_text(path)
        if text is not None:
            existing[path] = text.encode("utf-8")
    return existing, handoff.read_record(await dashboard.read_text(handoff.RECORD_FILE) or "")


def _named_by_hash(path: str) -> bool:
    return re.search(r"-[0-9a-f]{8}\.tflite$", path) is not None


def make_bundle(main: str, contents: Mapping[str, bytes]) -> bytes:
    """An ``esphome bundle`` archive: a gzipped tar with a manifest, the same bytes for the same files."""
    manifest = {
        "manifest_version": 1,
        "esphome_version": TEMPLATES_MINIMUM_ESPHOME,
        "config_filename": main,
        "files": [{"path": path} for path in contents],
        "has_secrets": False,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=6) as archive:
        for path, data in {"manifest.json": json.dumps(manifest).encode(), **contents}.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _read_build(esphome_version: str, lines: Sequence[str]) -> Build:
    text = "\n".join(lines)
    built = re.search(r"build_time_str=(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4})", text)
    used = re.findall(r"^Flash:.*\(used (\d+) bytes", text, re.MULTILINE)
    return Build(
        esphome_version=esphome_version,
        build_time=built[1] if built else "",
        firmware_bytes=int(used[-1]) if used else 0,
    )


class _Splitter:
    """Cuts what a job says into lines, which may come in pieces and end with a carriage return."""

    def __init__(self) -> None:
        self._rest = ""

    def split(self, text: str) -> list[str]:
        *lines, self._rest = re.split(r"[\r\n]+", self._rest + text)
        if len(self._rest) > 8192:
            lines, self._rest = [*lines, self._rest], ""
        return [line for line in lines if line.strip()]


def _short(text: str) -> str:
    text = re.sub(r"^(?:INFO|DEBUG|WARNING|ERROR)\s+", "", text.strip())
    return text if len(text) <= 120 else f"{text[:117]}..."


def explain(step: str, lines: Sequence[str], where: str, code: int, firmware: Firmware) -> MwwError:
    """The error that a failed job's ``lines`` (redacted) stand for; it says that another machine had the failure."""
    output = "\n".join(lines)
    if step == "upload":
        sent = max(
            (progress.done for line in lines if (progress := read_progress(line, step)) and progress.total), default=0
        )
        error = failure_of_upload(output, firmware, sent)
    else:
        error = failure_of_compile(output, code, firmware)
    hint = f"{error.hint}. All this on the machine of the dashboard, not here" if error.hint else ""
    return type(error)(f"{where}: {error.message}", hint=hint)

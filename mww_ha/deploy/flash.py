"""A model onto a device, and the proof that it arrived: preflight → compile → upload → return → verify → record.

Every attempt is a row of the catalogue from its first step on, so a program or a machine that ends in the middle leaves
a row that says where. What a device runs is what its newest *verified* row says; failed attempts do not change that.
The models of earlier rows are kept, in ``models/`` and ``esphome/models/``, for ``rollback``.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict, Unpack

from mww_ha import deploy, store
from mww_ha.deploy import preflight
from mww_ha.deploy.backend import Backend, Build, Firmware
from mww_ha.deploy.esphome import find_esphome
from mww_ha.deploy.local import KEEPS, LocalEsphome, read_project
from mww_ha.deploy.render import RenderResult, hidden_values
from mww_ha.detector import Manifest
from mww_ha.devices import known, network
from mww_ha.errors import (
    ConfigError,
    DataError,
    DeviceError,
    DeviceRefusedError,
    DeviceUnreachableError,
    FlashError,
    JobStoppedError,
    MwwError,
    StorageError,
)
from mww_ha.schema import Device, Flash, Progress, ProgressSink, digest, no_progress
from mww_ha.store import Project

if TYPE_CHECKING:
    from mww_ha.devices.connection import DeviceState

ASK_TIMEOUT_S = 10.0
"""How long a device may take to say what it runs."""

SENSOR_WAIT_S = 15.0
"""How long after its return a device may take to publish its wake model."""

RETRY_PAUSE_S = 5.0
"""Between two attempts at one device: it may be restarting."""


class Render(Protocol):
    """Writes the YAML of a device, as ``deploy.render_device`` does."""

    def __call__(
        self,
        project: Project,
        device: Device,
        *,
        manifest_path: Path | None = None,
        canary: Path | None = None,
        check: bool = True,
        force: bool = False,
        report: ProgressSink = no_progress,
    ) -> RenderResult:
        """Raises an error of ``mww_ha.errors``."""


class How(TypedDict, total=False):
    """What ``Options`` takes, as arguments."""

    backend: Backend | None
    dry_run: bool
    force: bool
    return_timeout_s: float | None
    settle_s: float
    render: Render
    now: Callable[[], str]
    report: ProgressSink


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a flash is done; the settings of a project where one is None."""

    backend: Backend | None = None
    dry_run: bool = False
    force: bool = False
    return_timeout_s: float | None = None
    settle_s: float = 15.0  # a device that answers that long as before has not restarted
    render: Render = deploy.render_device
    now: Callable[[], str] = store.now
    report: ProgressSink = no_progress


def backend_of(project: Project, device: Device, *, force: bool = False) -> Backend:
    """The way ``devices.yaml`` chooses for this device, with the project's settings. Raises ConfigError."""
    settings = project.settings.flash
    folder = Path(settings.handoff_dir).expanduser() if settings.handoff_dir else None
    if device.backend == "esphome":
        return LocalEsphome(find_esphome(settings.esphome))
    if device.backend == "builder":
        if not settings.builder_url:
            raise ConfigError(
                f"{device.name} is flashed by a Device Builder, and flash.builder_url is empty",
                hint="write its address into project.yaml: flash: {builder_url: http://192.168.1.10:6052}",
            )
        from mww_ha.deploy.builder import Builder

        return Builder(settings.builder_url, folder=folder, force=force)
    if device.backend == "handoff":
        if folder is None:
            raise ConfigError(
                f"the firmware of {device.name} is handed over, and flash.handoff_dir is empty",
                hint="write ESPHome's configuration folder into project.yaml: flash: {handoff_dir: /config/esphome}",
            )
        from mww_ha.deploy.handoff import Handoff

        return Handoff(folder, force=force)
    raise ConfigError(
        f"the backend of {device.name} is {device.backend!r}", hint="use esphome, builder or handoff in devices.yaml"
    )


def flash(
    project: Project,
    device: Device,
    *,
    manifest_path: Path | None = None,
    canary: Path | None = None,
    **how: Unpack[How],
) -> Flash:
    """Puts the project's newest model, or that of ``manifest_path``, on ``device``; ``canary`` into its second slot.

    Returns the recorded attempt: ``verified``, or ``handed over`` by a backend that does not deliver. A device that
    already runs exactly this firmware (same build, same wake model) is left alone and counts as verified; ``force``
    sends it again. ``force`` also replaces rendered files that were changed by hand, and flashes a device that does not
    answer, has another name or board than expected, or is not the one that was verified before. ``dry_run`` renders
    and checks, touches no device, records nothing and returns an attempt that is ``planned``.

    Raises what the failed step says; the attempt is recorded as failed, device and earlier rows are as they were
    unless the message says otherwise. JobStoppedError on an interrupt.
    """
    options = Options(**how)
    attempt, error = _attempt(project, device, manifest_path, canary, options)
    if error is not None:
        raise error
    return attempt


def rollback(
    project: Project,
    device: Device,
    **how: Unpack[How],
) -> Flash:
    """Puts the model before the present one back, verified in the same way; a canary is left out.

    The present one is that of the newest verified row, or of a later attempt that may have reached the device. Raises
    DataError when there is nothing earlier or its files are gone, and as ``flash`` does.
    """
    settle_interrupted(project, device.name, now=Options(**how).now)
    manifest_path = find_kept_model(project, earlier_flash(project, device.name).model)
    return flash(project, device, manifest_path=manifest_path, **how)


def flash_all(
    project: Project,
    *,
    devices: Sequence[Device] | None = None,
    manifest_path: Path | None = None,
    retries: int | None = None,
    retry_pause_s: float = RETRY_PAUSE_S,
    **how: Unpack[How],
) -> list[Flash]:
    """``flash`` for every device of ``devices.yaml`` (or ``devices``), one after the other; returns each one's outcome.

    One that fails does not stop the others. It gets ``retries`` more attempts (the project's setting when None) where
    another one can help: the connection dropped, or the device did not come back. Raises DataError when there is no
    device or no model, JobStoppedError on an interrupt.
    """
    options = Options(**how)
    listed = list(known.load_devices(project).values()) if devices is None else list(devices)
    if not listed:
        raise DataError(
            f"{project.devices_path} names no device", hint="add one with: mww-ha devices add NAME --template ..."
        )
    manifest_path = manifest_path or deploy.newest_model(project)
    more = project.settings.flash.retries if retries is None else retries
    outcomes: list[Flash] = []
    for number, device in enumerate(listed):
        options.report(Progress(stage="flash", message=device.name, done=number, total=len(listed), unit="devices"))
        for left in range(more, -1, -1):
            attempt, error = _attempt(project, device, manifest_path, None, options)
            if isinstance(error, JobStoppedError):
                raise error
            if error is None or not left or not _can_help(attempt, error):
                break
            options.report(Progress(stage="flash", message=f"{device.name}: {error.message}; trying again"))
            time.sleep(retry_pause_s)
        outcomes.append(attempt)
    good = sum(attempt.outcome in ("verified", "handed over", "planned") for attempt in outcomes)
    options.report(Progress(stage="flash", message="", done=len(listed), total=len(listed), unit="devices"))
    failed = [f"{attempt.device} ({attempt.step})" for attempt in outcomes if attempt.outcome in ("failed", "stopped")]
    summary = f"{good} of {len(listed)} done" + (f", not: {', '.join(failed)}" if failed else "")
    options.report(Progress(stage="flash", message=summary))
    return outcomes


def confirm(
    project: Project, device: Device, *, now: Callable[[], str] = store.now, report: ProgressSink = no_progress
) -> Flash:
    """Asks the device what it runs and turns its newest attempt into a verified one when that is it.

    For firmware that a person installed after a hand-over, and for attempts that ended after the upload. Raises
    DataError when nothing was recorded, FlashError when the device runs something else, and what asking it raises.
    """
    settle_interrupted(project, device.name, now=now)
    rows = project.catalogue.flashes(device.name)
    if not rows:
        raise _nothing_yet(device.name)
    newest = next((row for row in rows if _may_be_there(row) or row.outcome == "verified"), rows[0])
    report(Progress(stage="verify", message=f"asking {device.name}"))
    state = _ask(project, device, network.resolve(_address(device)))
    if not newest.wake_model or state.wake_model != newest.wake_model:
        raise FlashError(
            f"{device.name} runs {_told(state)}, not {newest.wake_model or newest.model}",
            hint="install the firmware first (ESPHome, Install), or flash it again",
        )
    verified = dataclasses.replace(
        newest,
        outcome="verified",
        step="record",
        message="",
        build_time=state.build_time,
        esphome_version=state.esphome_version,
        mac=state.mac,
    )
    project.catalogue.put_flash(verified)
    return verified


# --- what the rows say --------------------------------------------------------------------------------------------


def current_flash(project: Project, device_name: str) -> Flash | None:
    """The newest verified attempt: what the device runs, as far as the project knows."""
    return next((row for row in project.catalogue.flashes(device_name) if row.outcome == "verified"), None)


def earlier_flash(project: Project, device_name: str) -> Flash:
    """The newest verified attempt with another model than the device has now. Raises DataError when there is none."""
    rows = project.catalogue.flashes(device_name)
    present = next((row for row in rows if row.outcome == "verified" or _may_be_there(row)), None)
    if present is None:
        raise _nothing_yet(device_name)
    for row in rows:
        if row.outcome == "verified" and row.model != present.model:
            return row
    raise DataError(
        f"no earlier model of {device_name} is recorded: {present.model} is the first",
        hint=f"flash the one you want by name: mww-ha flash --device {device_name} --model models/NAME.json",
    )


def _nothing_yet(device_name: str) -> DataError:
    way = f"flash it with: mww-ha flash --device {device_name}"
    return DataError(f"nothing was flashed to {device_name} yet", hint=way)


def _may_be_there(row: Flash) -> bool:
    """An attempt that was not verified, but whose firmware the device may run."""
    if row.outcome == "handed over":
        return True
    if row.outcome == "stopped":
        return row.step in ("upload", "return", "verify")
    return row.outcome == "failed" and row.step in ("return", "verify")


def find_kept_model(project: Project, model: str) -> Path:
    """The manifest of ``<slug>-<sha8>`` as the project kept it, its bytes checked. Raises DataError."""
    for folder in (project.models_dir, project.esphome_dir / "models"):
        path, tflite = folder / f"{model}.json", folder / f"{model}.tflite"
        with contextlib.suppress(OSError):
            sha8 = hashlib.sha256(tflite.read_bytes()).hexdigest()[:8]
            if path.is_file() and sha8 == model.rpartition("-")[2]:
                return path
    raise DataError(
        f"the files of {model} are gone or changed: looked in {project.models_dir} and {project.esphome_dir}/models",
        hint="put its .json and .tflite back, or flash another model: mww-ha flash --model ...",
    )


def settle_interrupted(project: Project, device_name: str, *, now: Callable[[], str] = store.now) -> None:
    """Rows that say ``running`` while nobody runs them become ``stopped``: their program ended without a word."""
    if any(row.outcome == "running" for row in project.catalogue.flashes(device_name)):
        with contextlib.suppress(FlashError), _held(project, device_name, now):
            _settle(project, device_name)


def _settle(project: Project, device_name: str) -> None:
    for row in project.catalogue.flashes(device_name):
        if row.outcome == "running":
            message = f"the program ended without a word during {row.step}; {_left_behind(row.step)}"
            project.catalogue.put_flash(dataclasses.replace(row, outcome="stopped", message=message))


def _left_behind(step: str, serial: bool = False) -> str:
    """What an attempt that ended during ``step`` leaves on the device."""
    if step in ("preflight", "compile"):
        return "the device was not touched"
    if step == "upload" and serial:
        return "a device that was being written by cable may need to be flashed by cable again before it starts"
    if step == "upload":
        return f"{KEEPS}, or starts the new one if it had all of it: it stays bootable either way"
    return "the device has the new firmware; whether it runs it was not verified (mww-ha devices shows it)"


@contextlib.contextmanager
def _held(project: Project, device_name: str, now: Callable[[], str]) -> Iterator[None]:
    """Nobody else of this project flashes the device meanwhile. Raises FlashError naming who does."""
    path = project.root / ".locks" / f"{device_name}.lock"
    with store.storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "unknown"
            raise FlashError(
                f"{device_name} is being flashed already, by {holder}", hint="wait until it has ended, or stop it first"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} since {now()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


# --- one attempt --------------------------------------------------------------------------------------------------


class _Record:
    """The row of an attempt, written at each step. A dry run has none."""

    def __init__(self, project: Project, row: Flash, *, kept: bool) -> None:
        self._project, self.row, self._kept = project, row, kept
        self._began = time.monotonic()
        self._put()

    def note(self, **changes: str) -> None:
        seconds = round(time.monotonic() - self._began, 1)
        self.row = dataclasses.replace(self.row, duration_s=seconds, **changes)
        self._put()

    def _put(self) -> None:
        if self._kept:
            self._project.catalogue.put_flash(self.row)


def _can_help(attempt: Flash, error: MwwError) -> bool:
    return isinstance(error, DeviceUnreachableError) and attempt.step in ("upload", "return")


def _attempt(
    project: Project, device: Device, manifest_path: Path | None, canary: Path | None, options: Options
) -> tuple[Flash, MwwError | None]:
    """One attempt from lock to row. An error comes back beside the row that tells of it."""
    row = Flash(
        id=digest([device.name, options.now(), os.getpid(), time.monotonic_ns()]),
        device=device.name,
        model="",
        wake_model="",
        backend=device.backend,
        started_at=options.now(),
        step="preflight",
    )
    record: _Record | None = None
    try:
        with _held(project, device.name, options.now):
            _settle(project, device.name)
            manifest_path = manifest_path or deploy.newest_model(project)
            models = _check_models(project, device, manifest_path, canary)
            backend = options.backend or backend_of(project, device, force=options.force)
            row = dataclasses.replace(
                row, model=_id_of(models[0]), canary=_id_of(models[1]) if canary else "", backend=backend.name
            )
            record = _Record(project, row, kept=not options.dry_run)
            _flash(project, device, manifest_path, canary, backend, options, record)
            return record.row, None
    except KeyboardInterrupt:
        return _ended(record, row, device, JobStoppedError(f"flashing {device.name} was stopped"))
    except MwwError as error:
        return _ended(record, row, device, error)


def _ended(record: _Record | None, row: Flash, device: Device, error: MwwError) -> tuple[Flash, MwwError]:
    step = record.row.step if record else row.step
    outcome = "failed"
    if isinstance(error, JobStoppedError):
        outcome = "stopped"
        if not error.hint:
            error = JobStoppedError(
                f"{error.message} during {step}",
                hint=f"{_left_behind(step, bool(device.serial))}; run the same command again to go on",
            )
    if record is None:
        return dataclasses.replace(row, outcome=outcome, message=str(error)), error
    with contextlib.suppress(StorageError):  # the disk may be what is full: the error at hand says more
        record.note(outcome=outcome, message=str(error))
    return record.row, error


def _check_models(project: Project, device: Device, manifest_path: Path, canary: Path | None) -> list[Manifest]:
    """The wake word first, then the canary, then the further wake words. Raises all that is wrong with them."""
    paths = [manifest_path, *([canary] if canary else []), *(deploy.find_model(project, name) for name in device.also)]
    manifests: list[Manifest] = []

    def check(path: Path) -> None:
        manifests.append(preflight.check_model(path))

    preflight.run_all(functools.partial(check, path) for path in paths)
    preflight.run_all([lambda: preflight.check_same_step(manifests), lambda: preflight.check_arena(manifests)])
    return manifests


def _id_of(manifest: Manifest) -> str:
    return store.model_file_stem(store.slugify(manifest.wake_word), manifest.model_path.read_bytes())


def _flash(
    project: Project,
    device: Device,
    manifest_path: Path,
    canary: Path | None,
    backend: Backend,
    options: Options,
    record: _Record,
) -> None:
    report = options.report
    report(Progress(stage="flash", message=f"{record.row.model} to {device.name}"))
    over_the_air = backend.delivers and not device.serial
    address, unreachable = _address(device), None
    if over_the_air:
        try:
            address = _find(device)
        except DeviceError as error:
            if not options.dry_run:
                raise
            unreachable = error  # what else is in the way is to be told beside it
    result = options.render(
        project,
        device,
        manifest_path=manifest_path,
        canary=canary,
        force=options.force,
        report=report,
    )
    for message in result.messages:
        report(Progress(stage="render", message=message))
    record.note(wake_model=result.wake_model)
    firmware = Firmware(
        device=device,
        yaml_path=_compiled_yaml(project, device, result),
        target=device.serial or (address if backend.delivers else ""),
        hidden=hidden_values(project.esphome_dir),
    )
    looked: list[DeviceState | None] = []

    def look() -> None:
        if unreachable is not None:
            raise unreachable
        if backend.delivers:
            looked.append(_look(project, device, address, firmware, options))

    preflight.run_all([lambda: backend.preflight(firmware, report), look])
    was = looked[0] if looked else None
    if options.dry_run:
        message = (
            f"would make {firmware.yaml_path} with {backend.name} and send it to {firmware.target or backend.name}"
        )
        record.note(outcome="planned", message=f"{message}; {device.name} now runs {_told(was)}" if was else message)
        return

    record.note(step="compile")
    build = backend.compile(firmware, report)
    record.note(esphome_version=build.esphome_version or result.esphome_version)
    if backend.name == LocalEsphome.name:
        _check_carries(firmware, result)
    if not backend.delivers:
        said: list[str] = []

        def listen(progress: Progress) -> None:
            said.append(progress.message)
            report(progress)

        backend.upload(firmware, listen)
        record.note(step="upload", outcome="handed over", message=said[-1] if said else "")
        return
    if was and not options.force and _is_same(was, build, result):
        report(Progress(stage="flash", message=f"{device.name} already runs this firmware; nothing was sent"))
        record.note(
            step="record",
            outcome="verified",
            message="it already ran this firmware",
            build_time=was.build_time,
            mac=was.mac,
        )
        return

    record.note(step="upload")
    backend.upload(firmware, report)
    record.note(step="return")
    state = _wait(project, device, address, was, options)
    record.note(step="verify")
    report(Progress(stage="verify", message=f"{device.name} runs {_told(state)}"))
    state = _verify(project, device, address, state, was, build, result)
    record.note(
        step="record",
        outcome="verified",
        build_time=state.build_time,
        esphome_version=state.esphome_version,
        mac=state.mac,
    )
    report(Progress(stage="flash", message=f"{device.name} runs {state.wake_model}, build of {state.build_time}"))


def _address(device: Device) -> str:
    return device.address or f"{device.name}.local"


def _find(
    device: Device,
    resolve: Callable[[str], str] = network.resolve,
    find_namesakes: Callable[[str], Sequence[network.Found]] = network.find_namesakes,
) -> str:
    """The IP address to send to. Raises DeviceUnreachableError, and DeviceRefusedError when two go by its name."""
    address = _address(device)
    try:
        found = resolve(address)
    except DeviceUnreachableError as error:
        raise DeviceUnreachableError(error.message, hint=f"{error.hint}; {_BY_CABLE}") from None
    if found != address:
        namesakes = find_namesakes(device.name)
        if len(namesakes) > 1:
            raise DeviceRefusedError(
                f"several devices are called {device.name}: "
                + " and ".join(f"{one.address} ({one.mac})" for one in namesakes),
                hint="write the address of the one you mean into devices.yaml, and give the other another name",
            )
    return found


_BY_CABLE = "a new device is flashed by cable first: --serial /dev/ttyACM0"


def _compiled_yaml(project: Project, device: Device, result: RenderResult) -> Path:
    """The file ESPHome compiles: ours, or the user's that includes our package. Raises ConfigError."""
    if result.yaml_path.parent == project.esphome_dir:
        return result.yaml_path
    if not device.yaml:
        raise ConfigError(
            f"{device.template} is a package for a YAML that exists, and devices.yaml names none for {device.name}",
            hint=f"copy its YAML into {project.esphome_dir}, include under packages: "
            f"{result.yaml_path.relative_to(project.esphome_dir)}, and name it as yaml: in devices.yaml",
        )
    path = project.esphome_dir / device.yaml
    if not path.is_file():
        raise ConfigError(f"{path} is missing, the YAML of {device.name}", hint="copy or link it there")
    return path


def _check_carries(firmware: Firmware, result: RenderResult) -> None:
    """What ESPHome generated from a YAML holds the model's name, so our package is in it. Raises ConfigError."""
    generated = read_project(firmware.yaml_path)
    source = generated.build_folder / "src" / "main.cpp" if generated else None
    if source and source.is_file() and result.wake_model not in source.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(
            f"{firmware.yaml_path} does not bring {result.wake_model} along: the firmware would be without it",
            hint=f"include {result.yaml_path} in it under packages:, and leave its text sensor 'Wake model' as it is",
        )


def _ask(project: Project, device: Device, address: str) -> DeviceState:
    from mww_ha.devices import connection

    key = known.api_key_of(project, device)
    return asyncio.run(connection.read_state(address, port=device.port, api_key=key, timeout_s=ASK_TIMEOUT_S))


def _look(project: Project, device: Device, address: str, firmware: Firmware, options: Options) -> DeviceState | None:
    """What the device runs before it is flashed; None where it need not answer: by cable, or with ``force``.

    Raises what speaks against flashing it.
    """
    try:
        state = _ask(project, device, address)
    except (DeviceUnreachableError, DeviceRefusedError) as error:
        if device.serial or options.force:
            options.report(Progress(stage="preflight", message=f"{device.name} does not say what it runs"))
            return None
        way = (
            "switch it on, and compare its address in devices.yaml"
            if isinstance(error, DeviceUnreachableError)
            else f"put the key of the firmware it runs into secrets.yaml as {device.api_key or 'its API key'}"
        )
        raise type(error)(
            f"{device.name} cannot be asked what it runs: {error.message}",
            hint=f"{way}; {_BY_CABLE}; --force sends the firmware all the same",
        ) from None
    if not options.force and not device.serial:
        generated = read_project(firmware.yaml_path)
        name = generated.name if generated else device.name
        before = current_flash(project, device.name)
        checks: list[preflight.Check] = [
            lambda: preflight.check_is_device(name, state.name, state.mac),
            lambda: preflight.check_is_same(device.name, before.mac if before else "", state.mac),
        ]
        if generated:
            board = preflight.read_board(generated.build_folder)
            checks.append(lambda: preflight.check_board(device.name, board, state.board))
        preflight.run_all(checks)
    return state


def _is_same(was: DeviceState, build: Build, result: RenderResult) -> bool:
    """ESPHome keeps the build time of a configuration that did not change, so equal times mean equal firmware."""
    return bool(build.build_time) and was.build_time == build.build_time and was.wake_model == result.wake_model


def _wait(project: Project, device: Device, address: str, was: DeviceState | None, options: Options) -> DeviceState:
    from mww_ha.devices import connection

    timeout_s = options.return_timeout_s
    if timeout_s is None:
        timeout_s = project.settings.flash.return_timeout_s
    try:
        return asyncio.run(
            connection.wait_until_back(
                address,
                port=device.port,
                api_key=known.api_key_of(project, device),
                timeout_s=timeout_s,
                was=was,
                report=options.report,
                settle_s=options.settle_s,
            )
        )
    except DeviceUnreachableError as error:
        raise DeviceUnreachableError(
            f"{device.name} took the firmware and did not come back within {timeout_s:g} s",
            hint=_way_back(device),
        ) from error


def _way_back(device: Device) -> str:
    if device.serial:
        return (
            "press its reset button, and compare the Wi-Fi in esphome/secrets.yaml (an ESP32 knows 2.4 GHz only); its "
            "log tells more (esphome logs, by cable). If it is in the network and only its name is not found, write "
            f"its number into devices.yaml (address:). Then ask it: mww-ha flash --device {device.name} --confirm"
        )
    return (
        "give it power again: it falls back to the firmware before when the new one does not start. Its log tells more "
        f"(esphome logs, by cable). Then run the same command again, or: mww-ha rollback --device {device.name}"
    )


def _verify(
    project: Project,
    device: Device,
    address: str,
    state: DeviceState,
    was: DeviceState | None,
    build: Build,
    result: RenderResult,
) -> DeviceState:
    """The device runs what was sent: build time and wake model. Raises FlashError saying what it runs instead."""
    name = device.name
    if build.build_time and state.build_time != build.build_time:
        if was is None or state.build_time == was.build_time:
            raise FlashError(
                f"{name} came back with the old model: it runs {_told(state)}, sent was that of {build.build_time}",
                hint="the new firmware may not have started, so that the device went back (esphome logs tells), or the "
                "update went to another device: compare its address in devices.yaml; then run it again",
            )
        raise FlashError(
            f"{name} runs another build than the one sent: {_told(state)}, sent was the build of {build.build_time}",
            hint="something else flashed it meanwhile (Home Assistant, a Device Builder?); run it again",
        )
    if not build.build_time and was and state.build_time == was.build_time and was.wake_model != result.wake_model:
        raise FlashError(
            f"{name} came back with the old model: it still runs {_told(state)}",
            hint="the new firmware may not have started, so that the device went back; its log tells: esphome logs",
        )
    until = time.monotonic() + SENSOR_WAIT_S
    while not state.wake_model and time.monotonic() < until:
        time.sleep(1.0)
        state = _ask(project, device, address)
    if not state.wake_model:
        raise FlashError(
            f"the firmware of {name} has no entity 'Wake model', so nobody can say which model it runs",
            hint="include the package of mww-ha in its YAML (packages:) and leave its text sensor 'Wake model' visible",
        )
    if state.wake_model != result.wake_model:
        raise FlashError(
            f"{name} says it runs {state.wake_model}, sent was {result.wake_model}",
            hint="its YAML may replace the text sensor 'Wake model' or the model: compare it with our package",
        )
    return state


def _told(state: DeviceState) -> str:
    model = state.wake_model or "no model it tells of"
    return f"{model} (build of {state.build_time or 'unknown time'})"

"""ESPHome on this machine, as a child process: compiles, and sends over the air or through a cable.

What ESPHome, its compilers and esptool say when something fails is turned into the true cause and the way out.
Checked against 2026.6.5 and 2026.10.0.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mww_ha.deploy import preflight
from mww_ha.deploy.backend import Build, Firmware
from mww_ha.deploy.esphome import find_esphome, read_progress, redact, relevant_lines, run_esphome
from mww_ha.errors import (
    ConfigError,
    DeviceRefusedError,
    DeviceUnreachableError,
    FlashError,
    JobStoppedError,
    MissingDependencyError,
    MwwError,
    OfflineError,
    StorageError,
    ToolError,
)
from mww_ha.schema import Progress, ProgressSink
from mww_ha.workers import available_memory

COMPILE_TIMEOUT_S = 3600.0
"""The first ESP32 build on a Raspberry Pi takes the better part of an hour."""

UPLOAD_TIMEOUT_S = 900.0
"""Longer than ESPHome 2026.10 needs to give up by itself: three attempts with 160 s of silence each."""

BuildStep = Callable[[Path, str], object]
"""Makes the firmware of the generated source tree: takes the folder of the YAML and the device's name."""

KEEPS = "the device keeps running the firmware it has"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What ESPHome left of a YAML: where its source tree and its firmware are."""

    name: str
    build_folder: Path
    firmware_path: Path
    esphome_version: str
    chip: str = ""  # ESP32S3, or HOST


class LocalEsphome:
    """The backend ``esphome``.

    ``command`` starts ESPHome (searched when None). ``build`` takes the place of ESPHome's own compilers, on a source
    tree that ESPHome generated. ``free_bytes`` and ``free_memory`` tell what this machine has, ``is_reachable`` whether
    a host on the internet answers.
    """

    name = "esphome"
    delivers = True

    def __init__(
        self,
        command: Sequence[str] | None = None,
        build: BuildStep | None = None,
        *,
        compile_timeout_s: float = COMPILE_TIMEOUT_S,
        upload_timeout_s: float = UPLOAD_TIMEOUT_S,
        free_bytes: Callable[[Path], int] | None = None,
        free_memory: Callable[[], int | None] = available_memory,
        is_reachable: Callable[[str], bool] = preflight.answers_soon,
    ) -> None:
        self._given = list(command) if command is not None else None
        self._build = build
        self._compile_timeout_s, self._upload_timeout_s = compile_timeout_s, upload_timeout_s
        self._free_bytes, self._free_memory, self._is_reachable = free_bytes, free_memory, is_reachable

    @property
    def command(self) -> list[str]:
        """How ESPHome is started. Raises MissingDependencyError."""
        command = self._given if self._given is not None else find_esphome()
        if not command:
            raise MissingDependencyError(
                "ESPHome is not installed here",
                hint="get it with: pip install esphome (or name one that is, in the setting flash.esphome); "
                "or let another machine compile (backend: builder, or handoff)",
            )
        return command

    def preflight(self, firmware: Firmware, report: ProgressSink) -> None:
        """Raises, all at once: no ESPHome, no toolchain, no disk, no memory, empty secrets, no port, no room, ..."""
        report(Progress(stage="preflight", message="ESPHome, disk, memory, secrets"))
        checks: list[preflight.Check] = [
            lambda: self.command,
            lambda: preflight.check_secrets(firmware.yaml_path),
            lambda: preflight.check_memory(self._free_memory()),
        ]
        project = read_project(firmware.yaml_path)
        has_tools = self._build is not None or preflight.has_toolchain()
        on_esp32 = self._build is None and project is not None and project.chip.startswith("ESP32")
        if on_esp32 and not has_tools:
            checks.append(lambda: preflight.check_can_fetch(self._is_reachable))
        needed = preflight.NEXT_BUILD_BYTES if has_tools else preflight.FIRST_BUILD_BYTES
        checks.append(lambda: preflight.check_disk(firmware.yaml_path.parent, needed, self._free_bytes))
        if project is not None:
            models = models_of(firmware.yaml_path)
            slot = preflight.read_slot_bytes(project.build_folder)
            checks.append(lambda: preflight.check_models_fit(models, slot))
            if on_esp32:
                checks.append(lambda: preflight.check_build_path(project.build_folder))
        if _is_serial(firmware.target):
            checks.append(lambda: preflight.check_serial_port(firmware.target))
        preflight.run_all(checks)

    def compile(self, firmware: Firmware, report: ProgressSink) -> Build:
        """Makes the firmware. Raises what ``failure_of_compile`` finds in the output, or ToolError on a timeout."""
        yaml_path = firmware.yaml_path
        step = ["compile", "--only-generate"] if self._build else ["compile"]
        report(Progress(stage="compile", message=f"esphome {' '.join(step)} {yaml_path.name}"))
        try:
            code, output = run_esphome(
                [*self.command, *step, yaml_path.name],
                yaml_path.parent,
                self._compile_timeout_s,
                on_line=_progress_sender("compile", report),
                hidden=firmware.hidden,
            )
        except ToolError as error:
            raise ToolError(
                error.message,
                hint="the network may be slow (the first build fetches the ESP32 toolchain); run it again",
            ) from None
        if code != 0:
            raise failure_of_compile(redact(output, firmware.hidden), code, firmware)
        project = read_project(yaml_path)
        if project is None:
            raise ToolError(
                f"ESPHome left nothing of {yaml_path} in {data_dir(yaml_path)}",
                hint="remove that folder and run it again",
            )
        if self._build is not None:
            self._run_build_step(self._build, firmware, project)
        return self._read_build(project, report)

    def _run_build_step(self, build: BuildStep, firmware: Firmware, project: Generated) -> None:
        try:
            build(firmware.yaml_path.parent, project.name)
        except RuntimeError as error:
            raise failure_of_compile(redact(str(error), firmware.hidden), 1, firmware) from None
        except OSError as error:
            raise failure_of_compile(
                redact(f"{error.strerror}: {error.filename}", firmware.hidden), 1, firmware
            ) from None

    def _read_build(self, project: Generated, report: ProgressSink) -> Build:
        if not project.firmware_path.is_file():
            raise ToolError(
                f"ESPHome ended well, but {project.firmware_path} is not there",
                hint=f"remove {project.build_folder} and run it again",
            )
        size = project.firmware_path.stat().st_size
        preflight.check_firmware_fits(size, preflight.read_slot_bytes(project.build_folder))
        build_time = read_build_time(project.build_folder)
        report(Progress(stage="compile", message=f"made {size:,} bytes, build of {build_time}"))
        return Build(esphome_version=project.esphome_version, build_time=build_time, firmware_bytes=size)

    def upload(self, firmware: Firmware, report: ProgressSink) -> None:
        """Sends the firmware to ``firmware.target``, an IP address or a serial port.

        A connection that ends after the device had all of it is no error: whether it starts the firmware is asked
        afterwards. Raises what ``failure_of_upload`` finds in the output, and JobStoppedError on an interrupt.
        """
        report(Progress(stage="upload", message=f"to {firmware.target}", done=0, total=100, unit="%"))
        done = 0.0

        def listen(progress: Progress) -> None:
            nonlocal done
            done = max(done, progress.done)
            report(progress)

        serial = _is_serial(firmware.target)
        arguments = ["--dashboard", "upload", "--device", firmware.target, firmware.yaml_path.name]
        try:
            code, output = run_esphome(
                [*self.command, *arguments],
                firmware.yaml_path.parent,
                self._upload_timeout_s,
                on_line=_progress_sender("upload", listen),
                hidden=firmware.hidden,
            )
        except KeyboardInterrupt:
            raise JobStoppedError(
                f"stopped while sending to {firmware.device.name}, at {done:.0f} %",
                hint=_AFTER_STOP_SERIAL if serial else _AFTER_STOP,
            ) from None
        except ToolError as error:
            raise DeviceUnreachableError(
                f"the upload to {firmware.device.name} stood still at {done:.0f} %: {error.message}",
                hint=_AFTER_STOP_SERIAL if serial else f"{KEEPS}; bring it nearer to the access point and try again",
            ) from None
        if code == 0:
            report(Progress(stage="upload", message="the device has it", done=100, total=100, unit="%"))
            return
        shown = redact(output, firmware.hidden)
        if not serial and AFTER_ALL_WAS_SENT.search(shown):
            report(Progress(stage="upload", message="the connection ended after the device had all of it"))
            return
        raise failure_of_upload(shown, firmware, done)


_AFTER_STOP = (
    f"{KEEPS}, or starts the new one if it had all of it: it stays bootable either way, because firmware is written "
    "beside the running one; run the same command again to go on"
)
_AFTER_STOP_SERIAL = (
    "a device that was being written by cable may not start until it is flashed by cable again, "
    "which its boot loader in ROM always allows; run the same command again"
)

AFTER_ALL_WAS_SENT = re.compile(
    r"may have already committed the update"
    r"|receiving update (?:receive|end) result(?: response)?: (?:Device closed|timed out|\[Errno)"
)
"""What the uploader says when the device had the whole image: only the device knows how that ended."""


def _is_serial(target: str) -> bool:
    return target.startswith("/")


def _progress_sender(stage: str, report: ProgressSink) -> Callable[[str], None]:
    def tell(line: str) -> None:
        progress = read_progress(line, stage)
        if progress is not None:
            report(progress)

    return tell


# --- what ESPHome leaves on the disk ------------------------------------------------------------------------------


def data_dir(yaml_path: Path) -> Path:
    """Where ESPHome keeps what it makes of a YAML, by its own rules."""
    if os.environ.get("ESPHOME_IS_HA_ADDON", "").lower() in ("1", "true"):
        return Path("/data")
    given = os.environ.get("ESPHOME_DATA_DIR")
    return Path(given) if given else yaml_path.parent / ".esphome"


def read_project(yaml_path: Path) -> Generated | None:
    """What ESPHome noted when it last generated ``yaml_path``; None when it never did, or in a way we cannot read."""
    try:
        text = (data_dir(yaml_path) / "storage" / f"{yaml_path.name}.json").read_text(encoding="utf-8")
        document = json.loads(text)
        return Generated(
            name=str(document["name"]),
            build_folder=yaml_path.parent / str(document["build_path"]),
            firmware_path=yaml_path.parent / str(document["firmware_bin_path"]),
            esphome_version=str(document["esphome_version"]),
            chip=str(document.get("esp_platform") or ""),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_build_time(build_folder: Path) -> str:
    """``2026-11-20 16:44:21 +0000``, exactly as the device tells it; empty when ESPHome did not note it.

    It is the moment at which the configuration last changed, not that of the compilation: the same again keeps it.
    """
    try:
        document = json.loads((build_folder / "build_info.json").read_text(encoding="utf-8"))
        return str(document["build_time_str"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def models_of(yaml_path: Path) -> dict[Path, int]:
    """The wake-word models that a YAML and what it includes name, with their sizes in bytes."""
    texts = [yaml_path, *sorted((yaml_path.parent / "mww_ha").glob("**/*.yaml"))]
    names = {
        match
        for path in texts
        if path.is_file()
        for match in re.findall(r"[\w./-]+-[0-9a-f]{8}\.json", path.read_text(encoding="utf-8", errors="replace"))
    }
    models = (yaml_path.parent / name for name in sorted(names))
    files = (path.with_suffix(".tflite") for path in models)
    return {path: path.stat().st_size for path in files if path.is_file()}


# --- what went wrong ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cause:
    """A line of ESPHome's and what it means. ``{name}`` and groups of the pattern are filled in."""

    pattern: str
    error: type[MwwError]
    message: str
    hint: str


_UPLOAD_CAUSES = (
    _Cause(
        r"Authentication invalid|ESP requests password, but no password given",
        DeviceRefusedError,
        "{name} refuses the OTA password",
        "it wants the password of the firmware it runs now: write that one as mww_ota_password into secrets.yaml "
        f"(a new one takes effect after it was flashed), or flash once by cable (serial: /dev/ttyACM0). {KEEPS}",
    ),
    _Cause(
        r"requires an encrypted OTA connection",
        DeviceRefusedError,
        "{name} takes only encrypted updates, and this one has no key",
        "add 'encryption:' with the key the device was flashed with under 'ota: - platform: esphome', or flash once by "
        f"cable. {KEEPS}",
    ),
    _Cause(
        r"(?:OTA|noise) encryption key correct|Noise handshake failed|rejected the (?:noise )?handshake",
        DeviceRefusedError,
        "{name} refuses the encryption key of the update",
        f"use the key of the firmware it runs now, or flash once by cable. {KEEPS}",
    ),
    _Cause(
        r"did not offer encryption; refusing",
        DeviceRefusedError,
        "{name} runs firmware that cannot receive encrypted updates yet",
        "add 'allow_plaintext_upload: true' under 'ota: encryption:' for this one update, then remove it again",
    ),
    _Cause(
        r"OTA encryption requires a newer aioesphomeapi",
        ToolError,
        "this ESPHome cannot send encrypted updates",
        "update it with: pip install --upgrade esphome",
    ),
    _Cause(
        r"OTA partition on the ESP is too small|OTA partition on the ESP couldn't be found",
        FlashError,
        "the firmware does not fit into the partition for updates on {name}",
        "its partition table is older and smaller than what ESPHome writes now: flash once by cable "
        f"(serial: /dev/ttyACM0), which replaces the table, or put fewer wake words on it. {KEEPS}",
    ),
    _Cause(
        r"Couldn't prepare flash memory",
        FlashError,
        "{name} cannot make room for the update",
        f"restart the device and try again; if that does not help, flash once by cable. {KEEPS}",
    ),
    _Cause(
        r"MD5 code mismatch",
        FlashError,
        "the firmware arrived damaged at {name}, which noticed it",
        f"try again, nearer to the access point, or flash by cable. {KEEPS}",
    ),
    _Cause(
        r"Writing OTA data to flash memory failed",
        FlashError,
        "{name} could not write the firmware into its flash memory",
        f"restart the device and try again; if it stays, its flash memory may be worn out: flash by cable. {KEEPS}",
    ),
    _Cause(
        r"Finishing update failed",
        FlashError,
        "{name} refuses to start the firmware it received",
        "it may be made for another chip or board: compare the template in devices.yaml; then restart the device and "
        f"try again. {KEEPS}",
    ),
    _Cause(
        r"signature verification failed",
        DeviceRefusedError,
        "{name} takes only signed firmware",
        f"sign it with the key of the firmware it runs, or flash once by cable. {KEEPS}",
    ),
    _Cause(
        r"downgrade protection",
        DeviceRefusedError,
        "{name} refuses firmware that is not newer than its own (downgrade protection)",
        f"raise the project version in your YAML, or flash once by cable. {KEEPS}",
    ),
    _Cause(
        r"wrong flash size|does not have the requested flash size|wrong board",
        FlashError,
        "the firmware is made for another flash size than {name} has",
        f"choose the board it really is as template in devices.yaml, then flash once by cable. {KEEPS}",
    ),
    _Cause(
        r"press the reset button",
        FlashError,
        "{name} needs a press on its reset button before its first update over the air",
        "press it, then run the same command again",
    ),
    _Cause(
        r"Cannot upload Over the Air|ota configuration is not",
        ConfigError,
        "the YAML of {name} has no 'ota:', so nothing can be sent over the air",
        "add 'ota: - platform: esphome' and flash once by cable; templates of mww-ha bring it along",
    ),
    _Cause(
        r"serial port does not exist|could not open port .*No such file",
        DeviceUnreachableError,
        "the serial port is not there",
        "plug the device in with a cable that carries data, and name its port as serial: in devices.yaml",
    ),
    _Cause(
        r"do not have read or write permission on the selected serial port",
        DeviceUnreachableError,
        "not allowed to use the serial port",
        "add yourself to its group: sudo usermod -a -G dialout $USER, then log in again",
    ),
    _Cause(
        r"port is busy|Resource busy|could not exclusively lock port",
        DeviceUnreachableError,
        "another program uses the serial port",
        "end it (a log window, a serial monitor) and try again",
    ),
    _Cause(
        r"This chip is (\S+?),? not (\S+?)\.",
        DeviceRefusedError,
        "the device at the serial port is an {1}, the firmware is for an {2}",
        "plug in the right device, or choose its template in devices.yaml",
    ),
    _Cause(
        r"Failed to connect to ESP32|No serial data received",
        DeviceUnreachableError,
        "the device at the serial port does not answer",
        "hold its BOOT button while you press and release RESET, then try again; use a cable that carries data",
    ),
    _Cause(
        r"Error resolving IP address|No addresses to connect to",
        DeviceUnreachableError,
        "the name of {name} cannot be resolved",
        "write its IP address as address: into devices.yaml; mww-ha devices shows it when the device is on the network",
    ),
)

_REFUSED_CONNECTION = re.compile(r"[Cc]onnecting to (\S+)(?: port (\d+))? failed: (.*)")
_DROPPED = re.compile(
    r"Device closed connection|Connection reset|Broken pipe|timed out|Connection aborted|caused connection abort"
)


def failure_of_upload(output: str, firmware: Firmware, done_percent: float) -> MwwError:
    """The error that ESPHome's redacted ``output`` of a failed upload stands for."""
    name = firmware.device.name
    known = _match(_UPLOAD_CAUSES, output, name)
    if known:
        return known
    if _DROPPED.search(output) and re.search(r"receiving (?:features|auth)\b", output):
        return DeviceUnreachableError(
            f"{name} ended the connection before it asked for the password",
            hint="firmware of ESPHome 2026.9 or newer that takes only encrypted updates does this to an older ESPHome: "
            f"update the ESPHome used here; else restart the device and try again. {KEEPS}",
        )
    if _DROPPED.search(output) and "Connected to" in output:
        return DeviceUnreachableError(
            f"the connection to {name} dropped while sending, at {done_percent:.0f} %",
            hint=f"{KEEPS}; bring it nearer to the access point and try again",
        )
    if match := _REFUSED_CONNECTION.search(output):
        port = f" port {match[2]}" if match[2] else ""
        return DeviceUnreachableError(
            f"{name} takes no update at {match[1]}{port}: {match[3].strip()}",
            hint="is it switched on and in the Wi-Fi, and is its address in devices.yaml right? "
            "firmware without 'ota:' has to be flashed once by cable",
        )
    if "Failed config" in output or _match(_COMPILE_CAUSES, output, name):
        return failure_of_compile(output, 1, firmware)
    return _unknown("upload", output)


_COMPILE_CAUSES = (
    _Cause(
        r"No space left on device|Disk quota exceeded|\[Errno (?:28|122)\]|File too large",
        StorageError,
        "the disk is full: {name} could not be compiled",
        "free some space (the first build takes about 4 GB) and run it again; the device was not touched",
    ),
    _Cause(
        r"Killed signal terminated|ld terminated with signal 9|virtual memory exhausted|[Oo]ut of memory|"
        r"Cannot allocate memory|std::bad_alloc|MemoryError|fatal error: Killed",
        ToolError,
        "the compiler ran out of memory",
        "end other programs, add swap, or write 'compile_process_limit: 1' under esphome:; the device was not touched",
    ),
    _Cause(
        r"whitespace character in project paths|argument '[^\n]*' to '-fdebug-prefix-map'",
        ConfigError,
        "there is a blank in the path of the ESPHome folder of {name} or of the ESP32 tools, which cannot build there",
        "move the project to a path without blanks, or let another machine compile (backend: builder, or handoff)",
    ),
    _Cause(
        r"program size \((\d+) bytes\) is greater than maximum allowed \((\d+) bytes\)",
        FlashError,
        "the firmware of {name} is too large: {1} bytes, its slot in the flash memory holds {2}",
        "put fewer wake words on the device, or set the flash_size of its board if the chip has more",
    ),
    _Cause(
        r"(?i)app partition is too small|region `?[\w.]+'? overflowed|will not fit in region",
        FlashError,
        "the firmware of {name} is too large for its flash or memory",
        "put fewer wake words on the device, or set the flash_size of its board if the chip has more",
    ),
    _Cause(
        r"still contains the dashboard placeholder value",
        ConfigError,
        "the Wi-Fi in secrets.yaml is not filled in",
        "write your network's name and password there; flashed like this, {name} would be cut off",
    ),
    _Cause(
        r"Secret '([^']*)' not defined",
        ConfigError,
        "secrets.yaml has no {1}, which the YAML of {name} asks for",
        "add it there, or in the panel under Devices",
    ),
    _Cause(
        r"Cannot load models with different features step sizes",
        ConfigError,
        "the wake words of {name} differ in feature_step_size",
        "models on one device must share it; leave one out or train it again",
    ),
    _Cause(
        r"Your ESPHome version is too old|This configuration requires at least version|"
        r"requires at least ESPHome version|minimum ESPHome version",
        ToolError,
        "this ESPHome is too old for the YAML of {name}",
        "update it with: pip install --upgrade esphome (newer than 2026.6 needs Python 3.12); "
        "or name a newer one in the setting flash.esphome",
    ),
    _Cause(
        r"Failed to download|HTTPClientError|InternetIsOffline|Temporary failure in name resolution|"
        r"Name or service not known|Could not resolve host|Network is unreachable|"
        r"Failed to (?:resolve|establish a new connection)|Could not download|unable to access 'http|"
        r"Max retries exceeded|Connection to \S+ timed out|UnknownPackageError|Could not install package",
        OfflineError,
        "something that compiling {name} needs could not be fetched{url}",
        "the first build fetches the ESP32 toolchain (about 4 GB): connect this machine to the internet and run it "
        "again, or let another machine compile (backend: builder)",
    ),
    _Cause(
        r"(?:g\+\+|gcc|clang|cmake|ninja|git|python3-venv|C\+\+ compiler)(?![\w/])[^\n]{0,60}"
        r"(?:not found|not installed|No such file|is missing|could not be found)",
        MissingDependencyError,
        "a program that compiling needs is missing: {0}",
        "install it (on Debian: sudo apt install build-essential git python3-venv); the device was not touched",
    ),
)

_REDEFINED = re.compile(r"ID (\S+) redefined! Check ([^\n]*?)\.?$", re.MULTILINE)
_SOURCE = re.compile(r"^(\S[^\n]*?): \[source ([^\]\n]*?):(\d+)\]", re.MULTILINE)


def failure_of_compile(output: str, code: int, firmware: Firmware) -> MwwError:
    """The error that ESPHome's redacted ``output`` of a failed compilation stands for."""
    if match := _REDEFINED.search(output):
        places = [place for place in _SOURCE.finditer(output) if place.start() < match.start()]
        where = f"{places[-1][2]} line {places[-1][3]} ({places[-1][1]})" if places else firmware.yaml_path.name
        return ConfigError(
            f"the id {match[1]!r} is used twice: in {where} and in {match[2].replace('->', ' → ')}",
            hint="one of the two is mww-ha's (its files lie in mww_ha/ beside the YAML); "
            "give yours another id, or leave out what our package brings along",
        )
    return _match(_COMPILE_CAUSES, output, firmware.device.name) or _unknown("compile", output, code)


def _match(causes: Sequence[_Cause], output: str, name: str) -> MwwError | None:
    for cause in causes:
        match = re.search(cause.pattern, output)
        if match:
            address = _fetched_address(output)
            found = {"name": name, "0": match[0].strip(), "url": f": {address}" if address else ""}
            found |= {str(i): g for i, g in enumerate(match.groups(), 1)}
            return cause.error(_fill(cause.message, found), hint=_fill(cause.hint, found))
    return None


def _fetched_address(output: str) -> str:
    """What could not be fetched, as far as ``output`` tells: not an address that it only refers to for help."""
    if match := re.search(r"(HTTPS?)ConnectionPool\(host='([^']+)'[^\n]{0,80}? url: ([^\s'\"),;]+)", output):
        return f"{match[1].lower()}://{match[2]}{match[3]}"
    plain = r"(https?://[^\s'\"),;]+)"
    found = re.search(rf"(?:Installing|[Dd]ownload)[^\n]*?\n?[^\n]*?{plain}", output) or re.search(plain, output)
    return found[1].rstrip(".:") if found else ""


def _fill(text: str, found: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: found.get(match[1], match[0]), text)


def _unknown(step: str, output: str, code: int = 1) -> MwwError:
    if code < 0 or code == 137:
        return ToolError(
            f"ESPHome was ended from outside during {step} (signal {abs(code) if code < 0 else 9})",
            hint="this machine may be out of memory: end other programs, add swap, then run it again",
        )
    kind = FlashError if step == "upload" else ToolError
    last = "\n".join(relevant_lines(output, limit=10_000).splitlines()[-15:])
    return kind(
        f"ESPHome failed during {step} (exit code {code}):\n{last}",
        hint=KEEPS if step == "upload" else "the device was not touched",
    )

"""What would make a flash fail and can be known before: each check raises the true cause and the way out.

ESPHome reports many of these late, or as another fault ("invalid option", a traceback, a device that is simply gone).
``run_all`` runs a list of checks and tells all that failed at once. Whether ESPHome is new enough for the models and
the templates is checked by ``render``, before it writes anything.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import socket
import stat
import threading
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mww_ha.detector import Manifest, load_manifest, read_model
from mww_ha.devices.known import read_secrets
from mww_ha.errors import (
    ConfigError,
    DeviceRefusedError,
    DeviceUnreachableError,
    FlashError,
    ManifestError,
    ModelFileError,
    MwwError,
    OfflineError,
    StorageError,
    ToolError,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

FIRST_BUILD_BYTES = 4 * GIB
"""Disk for the first ESP32 build: ESP-IDF, compilers, a Python environment, objects. As users report it; not measured
here, where no toolchain can be fetched."""

NEXT_BUILD_BYTES = 700 * MIB
"""Disk for a build once the toolchain is there: the objects of one device and its images."""

BUILD_MEMORY_BYTES = GIB
"""Memory and swap that must be free: below about 1 GB the compiler gets killed (esphome/issues #3488, #3976)."""

SMALLEST_FIRMWARE_BYTES = 1 * MIB
"""A firmware with Wi-Fi, the native API, a voice assistant and the TFLite interpreter is never smaller: a bound that
catches a model that cannot fit, no estimate. What really was built is measured after the compilation."""

SMALLEST_PSRAM_BYTES = 2 * MIB
"""The least PSRAM of an ESP32-S3 module (the R2 variants)."""

ARENA_PROBES = 2
"""ESPHome tries the arena at 1, 1.5 and 2 times the manifest's value (``streaming_model.cpp``)."""

TOOLCHAIN_HOST = "github.com"
"""Where ESPHome 2026.6 and 2026.10 fetch the ESP32 toolchain from. 2026.6 tries for a minute before it says so."""

PLACEHOLDERS = frozenset(
    {"your-wifi-name", "your-wifi-password", "REPLACE_WITH_YOUR_WIFI_NETWORK", "REPLACE_WITH_YOUR_WIFI_PASSWORD"}
)
"""Values that stand for "not filled in yet", by mww-ha and by ESPHome's own assistant."""

Check = Callable[[], object]


def run_all(checks: Iterable[Check]) -> None:
    """Runs every check. Raises the error of the one that failed, or one error that lists all of them.

    The joint error is of the first failure's class, so that its exit code is that one's; what was joint already is
    taken apart.
    """
    failed: list[MwwError] = []
    for check in checks:
        try:
            check()
        except MwwError as error:
            failed += error.parts or (error,)
    if not failed:
        return
    if len(failed) == 1:
        raise failed[0]
    lines = [f"{len(failed)} things are in the way:"]
    for number, one in enumerate(failed, 1):
        lines.append(f"  {number}. {one.message}" + (f"\n     {one.hint}" if one.hint else ""))
    joint = type(failed[0])("\n".join(lines))
    joint.parts = tuple(failed)
    raise joint


# --- the model ----------------------------------------------------------------------------------------------------


def check_model(manifest_path: Path) -> Manifest:
    """The manifest, as strictly as ESPHome reads it, and its model. Raises ManifestError, ModelFileError."""
    manifest = load_manifest(manifest_path)
    read_model(manifest.model_path)
    return manifest


def check_same_step(manifests: Sequence[Manifest]) -> None:
    """All models of a device share one step. Raises ManifestError."""
    for other in manifests[1:]:
        if other.step_ms != manifests[0].step_ms:
            raise ManifestError(
                f"{other.path} has a step of {other.step_ms} ms, {manifests[0].path} one of {manifests[0].step_ms} ms",
                hint="models on one device must share feature_step_size; leave one out or train it again",
            )


def read_slot_bytes(build_folder: Path) -> int:
    """Size of the smallest firmware slot of a generated source tree; 0 when it has none (a device without flash).

    ESPHome's own tables of 2026.6 and 2026.10 keep 0x80000 bytes for the system and halve the rest: 0x7C0000 bytes a
    slot of 16 MB, 0x3C0000 of 8 MB, 0x1C0000 of 4 MB. A device keeps the table of its first flash by cable, which may
    be an older and smaller one; only the upload tells that.
    """
    sizes = []
    for line in _text_of(build_folder / "partitions.csv").splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) >= 5 and cells[1] == "app" and cells[2].startswith("ota_"):
            sizes.append(_partition_size(cells[4]))
    return min(sizes, default=0)


def _partition_size(text: str) -> int:
    unit = {"K": KIB, "M": MIB}.get(text[-1:].upper(), 1)
    try:
        return int(text.rstrip("kKmM"), 0) * unit
    except ValueError:
        return 0


def check_models_fit(models: Mapping[Path, int], slot: int) -> None:
    """``models``: file → bytes. Raises ModelFileError when they cannot share a firmware slot of ``slot`` bytes."""
    total = sum(models.values())
    if not slot or total + SMALLEST_FIRMWARE_BYTES <= slot:
        return
    largest = max(models, key=lambda path: models[path])
    raise ModelFileError(
        f"the models are too large for the device: {_size(total)} ({largest} alone {_size(models[largest])}), "
        f"while its firmware slot holds {_size(slot)}",
        hint="put fewer wake words on it or smaller models (this project's have about 60 KiB)",
    )


def check_firmware_fits(firmware_bytes: int, slot: int) -> None:
    """A built firmware against the slot of its own partition table. Raises FlashError."""
    if slot and firmware_bytes > slot:
        raise FlashError(
            f"the firmware is too large: {_size(firmware_bytes)}, its slot in the flash memory holds {_size(slot)}",
            hint="put fewer wake words on the device, or set the flash_size of its board if the chip has more",
        )


def check_arena(manifests: Sequence[Manifest], memory_bytes: int = SMALLEST_PSRAM_BYTES) -> None:
    """The models' working memory against the device's. Raises ManifestError naming the greediest one."""
    total = ARENA_PROBES * sum(manifest.tensor_arena_bytes for manifest in manifests)
    if total > memory_bytes:
        worst = max(manifests, key=lambda manifest: manifest.tensor_arena_bytes)
        raise ManifestError(
            f"{worst.path}: micro.tensor_arena_size is {worst.tensor_arena_bytes}; ESPHome may take "
            f"{ARENA_PROBES} times that, with all models {_size(total)}, and the device has {_size(memory_bytes)}",
            hint="such a model loads nowhere; write what the model needs (this project's take about 30 000)",
        )


# --- this machine -------------------------------------------------------------------------------------------------


def has_toolchain() -> bool:
    """Whether an ESP32 toolchain was already fetched, by ESPHome itself or by PlatformIO."""
    home = Path.home()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    idf = Path(os.environ.get("ESPHOME_ESP_IDF_PREFIX", "").strip() or cache / "esphome" / "idf")
    platformio = Path(os.environ.get("PLATFORMIO_CORE_DIR", "").strip() or home / ".platformio")
    return any((idf / "frameworks").glob("*")) or any((platformio / "packages").glob("toolchain-xtensa*"))


def check_build_path(build_folder: Path) -> None:
    """PlatformIO's ESP-IDF builder refuses paths with blanks, after it fetched everything (esphome#16771).

    ESPHome 2026.10 builds without PlatformIO. Raises ConfigError.
    """
    if (build_folder / "platformio.ini").is_file() and re.search(r"\s", str(build_folder.resolve())):
        raise ConfigError(
            f"there is a blank in the path {build_folder}, and the tools for the ESP32 do not build there",
            hint="move the project to a path without blanks, or let another machine compile (backend: builder, or "
            "handoff)",
        )


def check_can_fetch(is_reachable: Callable[[str], bool] | None = None) -> None:
    """The toolchain is not there, so it has to be fetched. Raises OfflineError."""
    if not (is_reachable or answers_soon)(TOOLCHAIN_HOST):
        raise OfflineError(
            f"no ESP32 toolchain is here, and {TOOLCHAIN_HOST}, where ESPHome fetches it, does not answer",
            hint="connect this machine to the internet for the first compilation (about 4 GB), or let another machine "
            "compile (backend: builder, or handoff)",
        )


def answers_soon(host: str, timeout_s: float = 3.0) -> bool:
    """Whether ``host`` takes HTTPS connections; True behind a proxy, which alone knows. Takes ``timeout_s`` at most."""
    if urllib.request.getproxies().keys() & {"http", "https", "all"}:
        return True
    answer: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection((host, 443), timeout=timeout_s).close()
        except OSError:
            answer.put(False)
        else:
            answer.put(True)

    # a daemon: the system's resolver cannot be stopped, and nobody waits for it
    threading.Thread(target=connect, daemon=True).start()
    try:
        return answer.get(timeout=timeout_s)
    except queue.Empty:
        return False


def check_disk(folder: Path, needed_bytes: int, free_bytes: Callable[[Path], int] | None = None) -> None:
    """Room to compile in ``folder`` and where the toolchain goes. Raises StorageError."""
    ask = free_bytes or (lambda path: shutil.disk_usage(path).free)
    for place, what in ((folder, needed_bytes), (Path.home(), needed_bytes)):
        existing = next(path for path in (place, *place.parents) if path.exists())
        free = ask(existing)
        if free < what:
            raise StorageError(
                f"too little disk to compile: {_size(free)} free at {existing}, about {_size(what)} needed",
                hint="the first build fetches the ESP32 toolchain (about 4 GB), later ones need less: free some space, "
                "or let another machine compile (backend: builder)",
            )


def check_memory(available: int | None, needed_bytes: int = BUILD_MEMORY_BYTES) -> None:
    """Memory to compile. Raises ToolError."""
    if available is not None and available < needed_bytes:
        raise ToolError(
            f"too little memory to compile: {_size(available)} free with swap, about {_size(needed_bytes)} needed",
            hint="end other programs or add swap; 'compile_process_limit: 1' under esphome: takes less and longer; "
            "or let another machine compile (backend: builder)",
        )


def check_secrets(yaml_path: Path) -> None:
    """The secrets beside a YAML are filled in: a device flashed with placeholders never finds the Wi-Fi again.

    Raises ConfigError.
    """
    path = yaml_path.parent / "secrets.yaml"
    if not path.exists():
        return  # a YAML of the user's may do without
    document = read_secrets(path)
    empty = sorted(name for name, value in document.items() if isinstance(value, str) and value in PLACEHOLDERS)
    if empty:
        raise ConfigError(
            f"{', '.join(empty)} in {path} {'is' if len(empty) == 1 else 'are'} not filled in",
            hint="write your Wi-Fi there; a device flashed like this would be cut off from the network",
        )


# --- the device ---------------------------------------------------------------------------------------------------


def list_serial_ports(dev: Path = Path("/dev")) -> list[tuple[str, str]]:
    """Serial ports of USB devices, with what the device calls itself where the system tells (udev's links)."""
    titles: dict[Path, str] = {}
    for link in sorted(dev.glob("serial/by-id/*")):
        name = re.sub(r"^usb-|-if\d+(-port\d+)?$", "", link.name).replace("_", " ")
        titles.setdefault(link.resolve(), " ".join(name.split()))
    ports = sorted(path for pattern in ("ttyUSB*", "ttyACM*", "cu.usb*") for path in dev.glob(pattern))
    return [(str(path), titles.get(path.resolve(), "")) for path in ports]


def check_serial_port(port: str) -> None:
    """A serial port that can be opened. Raises DeviceUnreachableError."""
    path = Path(port)
    if not path.exists():
        near = [path for path, _ in list_serial_ports()]
        found = f"; there {'are' if len(near) > 1 else 'is'} {', '.join(near)}" if near else ""
        raise DeviceUnreachableError(
            f"the serial port {port} is not there{found}",
            hint="plug the device in with a cable that carries data, not only power, and name its port: --serial PORT",
        )
    if not stat.S_ISCHR(path.stat().st_mode):
        raise DeviceUnreachableError(f"{port} is not a serial port", hint="name one such as /dev/ttyACM0")
    if not os.access(path, os.R_OK | os.W_OK):
        raise DeviceUnreachableError(
            f"not allowed to use the serial port {port}",
            hint="add yourself to its group: sudo usermod -a -G dialout $USER, then log in again",
        )


def check_is_device(name: str, told_name: str, told_mac: str) -> None:
    """The device at the address is the one that is meant. Raises DeviceRefusedError.

    ``name_add_mac_suffix`` of a vendor's firmware appends half the MAC address; that is still the same device.
    """
    suffix = re.sub(r"[^0-9a-f]", "", told_mac.lower())[-6:]
    if told_name and told_name not in (name, f"{name}-{suffix}"):
        raise DeviceRefusedError(
            f"the device that answers is {told_name!r}, not {name!r}",
            hint="correct the address in devices.yaml; if it is the right device and is to get this name, use --force",
        )


def check_is_same(name: str, mac_before: str, told_mac: str) -> None:
    """The device is the one that was verified before: two may have one name. Raises DeviceRefusedError."""
    if mac_before and told_mac and mac_before.lower() != told_mac.lower():
        raise DeviceRefusedError(
            f"another device than before answers as {name}: its MAC address is {told_mac}, that of the one flashed "
            f"last was {mac_before}",
            hint="write the address of the one you mean into devices.yaml; if it took the other's place, use --force",
        )


def read_board(build_folder: Path) -> str:
    """The board of a generated source tree as the device will tell it; empty when there is no tree."""
    defines = _text_of(build_folder / "src" / "esphome" / "core" / "defines.h")
    match = re.search(r'^#define ESPHOME_BOARD "([^"]*)"', defines, re.MULTILINE)
    return match[1] if match else ""


def check_board(name: str, built_for: str, told: str) -> None:
    """Firmware for another board is not sent. Raises DeviceRefusedError."""
    if built_for and told and built_for != told:
        raise DeviceRefusedError(
            f"the firmware is for the board {built_for!r}, but {name} says it is {told!r}",
            hint="choose its template in devices.yaml (mww-ha devices lists them); if the device only runs another "
            "maker's firmware and you are sure, use --force",
        )


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _size(count: int) -> str:
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"

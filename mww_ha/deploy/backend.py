"""What the ways to a device have in common: a firmware to make and to deliver, and who can do it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mww_ha.schema import Device, ProgressSink


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """A rendered YAML and where it is to go."""

    device: Device
    yaml_path: Path  # the file ESPHome compiles: ours, or the user's that includes ours
    target: str  # IP address or serial port; empty: not needed yet (compile only, hand-off)
    hidden: tuple[str, ...] = ()  # values that must not appear in any output


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What a compilation left."""

    esphome_version: str
    build_time: str = ""  # as the device will tell it over the native API; empty: unknown to this backend
    firmware_bytes: int = 0  # 0: unknown


class Backend(Protocol):
    """A way to make and deliver firmware. Every method raises an error of ``mww_ha.errors`` with the way out."""

    name: str  # esphome | builder | handoff
    delivers: bool  # False: a person presses the last button, so there is nothing to wait for and to verify

    def preflight(self, firmware: Firmware, report: ProgressSink) -> None:
        """Raises what would make ``compile`` or ``upload`` fail and can be known now."""

    def compile(self, firmware: Firmware, report: ProgressSink) -> Build:
        """Makes the firmware; the device is not touched."""

    def upload(self, firmware: Firmware, report: ProgressSink) -> None:
        """Sends the firmware; returns when the device has taken it and is about to start it.

        A backend that does not deliver says in its last progress which button is left to press.
        """

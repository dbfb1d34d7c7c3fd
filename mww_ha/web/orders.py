"""What a job can be: a closed list of kinds, each a dataclass that knows its command line.

A user's text reaches a command line only through a field with a pattern, and always as ``--option=value`` or behind
``--``: it is never an option of its own.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from mww_ha.errors import InputError
from mww_ha.store import Project
from mww_ha.web.wire import Number, Text

DeviceName = Annotated[str, Text(pattern="[a-z0-9][a-z0-9-]{0,30}", longest=31)]
ModelId = Annotated[str, Text(pattern="[a-z0-9_]{1,64}-[0-9a-f]{8}", longest=73)]
Backend = Literal["esphome", "builder", "handoff"]
SerialPort = Annotated[str, Text(pattern="(/[A-Za-z0-9_./:+@-]{1,200})?", longest=201)]
Stage = Literal["synthesize", "prepare", "train", "evaluate", "export"]

STAGES, ESPHOME = "stages", "esphome"
"""What two jobs must not touch at the same time: the stages' files, and what is rendered and compiled."""


class Order(Protocol):
    """One kind of job."""

    heavy: ClassVar[bool]  # takes the machine: one of them at a time
    touches: ClassVar[str]  # two jobs that touch the same never run together

    @property
    def kind(self) -> str:
        """Its name in the API."""

    @property
    def guarded(self) -> bool:
        """Whether behind Home Assistant only those who may change devices may ask for it."""

    def arguments(self, project: Project) -> list[str]:
        """What follows ``mww-ha``. Raises InputError when a device or a model is not there."""


class _StageOrder:
    heavy: ClassVar[bool] = True
    touches: ClassVar[str] = STAGES
    guarded: ClassVar[bool] = False

    kind: str

    def arguments(self, project: Project) -> list[str]:  # noqa: ARG002
        """What follows ``mww-ha``: the stage's own name, where there is no more to say."""
        return [self.kind]


@dataclass(frozen=True, kw_only=True)
class SynthesizeOrder(_StageOrder):
    """Make speech: the phrase, what sounds like it, sentences."""

    kind: Literal["synthesize"] = "synthesize"


@dataclass(frozen=True, kw_only=True)
class PrepareOrder(_StageOrder):
    """Split by voice, place in running background, compute features."""

    kind: Literal["prepare"] = "prepare"


@dataclass(frozen=True, kw_only=True)
class TrainOrder(_StageOrder):
    """Train on the newest features."""

    kind: Literal["train"] = "train"
    seed: Annotated[int, Number(least=0, most=2**31 - 1)] | None = None

    def arguments(self, project: Project) -> list[str]:  # noqa: ARG002
        """What follows ``mww-ha``."""
        return ["train", *([] if self.seed is None else [f"--seed={self.seed}"])]


@dataclass(frozen=True, kw_only=True)
class EvaluateOrder(_StageOrder):
    """Measure the newest training."""

    kind: Literal["evaluate"] = "evaluate"


@dataclass(frozen=True, kw_only=True)
class ExportOrder(_StageOrder):
    """Make the model file, once it has passed all checks."""

    guarded: ClassVar[bool] = True

    kind: Literal["export"] = "export"


@dataclass(frozen=True, kw_only=True)
class RunOrder:
    """Run whatever is out of date, in order, up to and with ``until``."""

    heavy: ClassVar[bool] = True
    touches: ClassVar[str] = STAGES

    kind: Literal["run"] = "run"
    until: Stage | None = None

    @property
    def guarded(self) -> bool:
        """As its last stage is."""
        return self.until in (None, "export")

    def arguments(self, project: Project) -> list[str]:  # noqa: ARG002
        """What follows ``mww-ha``."""
        return ["run", *([] if self.until is None else [f"--until={self.until}"])]


@dataclass(frozen=True, kw_only=True)
class RetrainOrder(_StageOrder):
    """Learn from what was judged, compare with the current model, and offer what is not worse."""

    guarded: ClassVar[bool] = True

    kind: Literal["retrain"] = "retrain"
    force: bool = False
    fresh: bool | None = None

    def arguments(self, project: Project) -> list[str]:  # noqa: ARG002
        """What follows ``mww-ha``."""
        start = [] if self.fresh is None else ["--fresh" if self.fresh else "--warm"]
        return ["retrain", *_flag("--force", given=self.force), *start]


class _DeviceOrder:
    heavy: ClassVar[bool] = True
    touches: ClassVar[str] = ESPHOME
    guarded: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class RenderOrder(_DeviceOrder):
    """Write ESPHome YAML for a board and have ESPHome check it."""

    heavy: ClassVar[bool] = False

    name: DeviceName
    kind: Literal["render"] = "render"
    board: Annotated[str, Text(pattern="[a-z0-9][a-z0-9._-]{0,63}", longest=64)] = "generic-s3"
    model: ModelId | None = None
    check: bool = True

    def arguments(self, project: Project) -> list[str]:
        """What follows ``mww-ha``. Raises InputError."""
        checked = [] if self.check else ["--no-check"]
        return ["render", f"--board={self.board}", f"--name={self.name}", *_model(project, self.model), *checked]


@dataclass(frozen=True, kw_only=True)
class FlashOrder(_DeviceOrder):
    """Flash a model onto a satellite, or with ``every`` onto all of them, and prove that it arrived.

    ``serial``: by this cable, "" over the air, null as devices.yaml says. ``all_the_same``: also a model that is not
    offered, or that learned from sound which was deleted since.
    """

    kind: Literal["flash"] = "flash"
    device: DeviceName | None = None
    every: bool = False
    model: ModelId | None = None
    backend: Backend | None = None
    serial: SerialPort | None = None
    dry_run: bool = False
    force: bool = False
    all_the_same: bool = False

    def arguments(self, project: Project) -> list[str]:
        """What follows ``mww-ha``. Raises InputError."""
        if (self.device is None) != self.every:
            raise InputError("flash needs a device, or every: true, and not both", hint='write "device": "kitchen"')
        if self.model is not None and not (self.all_the_same or self.force):
            _refuse_doubtful(project, self.model)
        target = ["--all"] if self.device is None else _device(project, self.device)
        if self.serial is not None:
            target.append(f"--serial={self.serial}")
        flags = [*_flag("--dry-run", given=self.dry_run), *_flag("--force", given=self.force)]
        return ["flash", *target, *_model(project, self.model), *_backend(self.backend), *flags]


@dataclass(frozen=True, kw_only=True)
class ConfirmOrder(_DeviceOrder):
    """Only ask a satellite what it runs, after a hand-off."""

    heavy: ClassVar[bool] = False

    device: DeviceName
    kind: Literal["confirm"] = "confirm"

    def arguments(self, project: Project) -> list[str]:
        """What follows ``mww-ha``. Raises InputError."""
        return ["flash", *_device(project, self.device), "--confirm"]


@dataclass(frozen=True, kw_only=True)
class RollbackOrder(_DeviceOrder):
    """Take a satellite back to the model it ran before."""

    device: DeviceName
    kind: Literal["rollback"] = "rollback"
    backend: Backend | None = None
    dry_run: bool = False

    def arguments(self, project: Project) -> list[str]:
        """What follows ``mww-ha``. Raises InputError."""
        dry_run = _flag("--dry-run", given=self.dry_run)
        return ["rollback", *_device(project, self.device), *_backend(self.backend), *dry_run]


@dataclass(frozen=True, kw_only=True)
class CanaryOrder(_DeviceOrder):
    """Let a satellite hear with the next model too: it counts and captures, and never wakes."""

    device: DeviceName
    model: ModelId
    kind: Literal["canary"] = "canary"
    backend: Backend | None = None
    dry_run: bool = False

    def arguments(self, project: Project) -> list[str]:
        """What follows ``mww-ha``. Raises InputError."""
        dry_run = _flag("--dry-run", given=self.dry_run)
        target = [*_device(project, self.device), *_model(project, self.model)]
        return ["canary", *target, *_backend(self.backend), *dry_run]


@dataclass(frozen=True, kw_only=True)
class VoiceOrder:
    """Fetch a Piper voice: the one named, or the one recommended for the language."""

    heavy: ClassVar[bool] = False
    touches: ClassVar[str] = ""
    guarded: ClassVar[bool] = False

    kind: Literal["download_voice"] = "download_voice"
    name: Annotated[str, Text(pattern="[a-z]{2,3}_[A-Z]{2}-[A-Za-z0-9_]{1,60}-[a-z_]{3,8}", longest=80)] | None = None

    def arguments(self, project: Project) -> list[str]:  # noqa: ARG002
        """What follows ``mww-ha``."""
        return ["voices", "download", *([] if self.name is None else ["--", self.name])]


@dataclass(frozen=True, kw_only=True)
class InstallTrainingOrder:
    """Fetch what training needs, where it is not part of the installation: TensorFlow and the speech engines."""

    heavy: ClassVar[bool] = True
    touches: ClassVar[str] = STAGES
    guarded: ClassVar[bool] = True

    kind: Literal["install_training"] = "install_training"

    def arguments(self, project: Project) -> list[str]:  # noqa: ARG002
        """What follows ``mww-ha``."""
        return ["training", "install"]


AnyStage = SynthesizeOrder | PrepareOrder | TrainOrder | EvaluateOrder | ExportOrder | RunOrder | RetrainOrder
AnyFlash = RenderOrder | FlashOrder | ConfirmOrder | RollbackOrder | CanaryOrder
AnyOrder = AnyStage | AnyFlash | VoiceOrder | InstallTrainingOrder

KINDS: dict[str, type[Any]] = {
    typing.get_args(typing.get_type_hints(kind)["kind"])[0]: kind for kind in typing.get_args(AnyOrder)
}
"""Every kind of job by its name in the API."""


def _refuse_doubtful(project: Project, id: str) -> None:
    """Raises InputError for a model that nobody should flash by accident."""
    document = next((model for model in project.catalogue.models() if model["id"] == id), {})
    if not document.get("offered", True):
        reason = str(document.get("comparison", {}).get("reason", "")).strip()
        raise InputError(f"{id} is not offered: {reason}".rstrip(": "), hint='say "all_the_same": true to flash it')
    if document.get("deleted"):
        raise InputError(
            f"{id} learned from sound that was deleted since",
            hint='make a new model, or say "all_the_same": true to flash it',
        )


def _flag(option: str, *, given: bool) -> list[str]:
    return [option] if given else []


def _backend(backend: str | None) -> list[str]:
    return [] if backend is None else [f"--backend={backend}"]


def _device(project: Project, name: str) -> list[str]:
    from mww_ha.devices.known import find_device

    return [f"--device={find_device(project, name).name}"]


def _model(project: Project, id: str | None) -> list[str]:
    return [] if id is None else [f"--model={find_manifest(project, id)}"]


def find_manifest(project: Project, id: str) -> Path:
    """The manifest of one of the project's models. Raises InputError."""
    known = [str(document["id"]) for document in project.catalogue.models()]
    path = project.models_dir / f"{id}.json"
    if id not in known or not path.is_file():
        have = ", ".join(known[:5]) if known else "none yet; the stage export makes one"
        raise InputError(f"the project has no model {id}", hint=f"models: {have}")
    return path.resolve()

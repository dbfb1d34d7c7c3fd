"""Every way to a microphone, wired up: who asks the satellite, who takes its sound in, where a take goes.

The terminal uses ``open_microphone`` as it is; a service passes its own ``ask`` and takes uploads in itself.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

from mww_ha.capture import review
from mww_ha.capture.receive import Intake
from mww_ha.capture.tokens import admit_rendered
from mww_ha.devices.connection import Connection
from mww_ha.devices.known import api_key_of, find_device
from mww_ha.errors import InputError
from mww_ha.ha.connection import Access
from mww_ha.record.people import find_person
from mww_ha.record.sessions import (
    PLACES,
    Ask,
    ClipKeeper,
    Heard,
    Keeper,
    Microphone,
    Outcome,
    Told,
    Wish,
    begin_sitting,
    make_plan,
    record_session,
)
from mww_ha.record.takes import Doubt, TakeReport, make_doubt
from mww_ha.record.transcribe import make_transcriber
from mww_ha.schema import Device, Session, Verdict
from mww_ha.similar import find_near_duplicates
from mww_ha.store import Project

Via = Literal["satellite", "home-assistant"]

UPLOAD_PATH = "/api/captures"
BY = "guided session"


class CaptureKeeper:
    """Takes that arrive as captures: judged at once, and made clips as every judged capture is, at the end."""

    def __init__(self) -> None:
        self._good: list[str] = []

    def settle(self, project: Project, session: Session, heard: Heard, report: TakeReport) -> str:
        """See Keeper. A refused take stays a discarded capture until it expires, as long as that can be taken back."""
        if report.good:
            review.cut_word(heard.samples, -1.0)  # as ``apply_verdicts`` will: what it cannot cut is asked for again
        verdict = Verdict.WAKE if report.good else Verdict.DISCARD
        review.judge(project, [heard.capture], verdict, by=BY, person=session.person)
        self._good += [heard.capture] if report.good else []
        return ""

    def finish(self, project: Project) -> list[str]:
        """See Keeper."""
        if not self._good:
            return []
        applied = review.apply_verdicts(project, find_copies=find_near_duplicates)
        notes = [f"one take cannot be used: {why}" for id, why in applied.unusable if id in self._good]
        return notes + [f"one take is a copy of {other}" for id, other in applied.duplicates if id in self._good]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What ``record_session`` wants."""

    microphone: Microphone
    keeper: Keeper


@contextlib.asynccontextmanager
async def open_microphone(
    ask: Ask, device_name: str, via: Via, *, access: Access | None = None, take_uploads: bool = True
) -> AsyncIterator[Opened]:
    """A satellite that can be asked for takes, until the block ends.

    ``satellite``: one of ``devices.yaml`` with our component. ``home-assistant``: any that Home Assistant knows, by
    name; ``access`` says where Home Assistant is. ``take_uploads``: when nothing listens where the satellite sends its
    sound, listen there meanwhile. Raises InputError, DeviceError, HomeAssistantError.
    """
    async with contextlib.AsyncExitStack() as stack:
        if via == "home-assistant":
            if access is None:
                raise InputError("it is not known where Home Assistant is", hint="set home_assistant.url and its token")
            yield Opened(microphone=await _open_assist(stack, ask, device_name, access), keeper=ClipKeeper())
            return
        from mww_ha.record.satellite import WakeMicrophone

        device, api_key = await ask(partial(_find_device, name=device_name))
        if not device.capture_url:
            raise InputError(
                f"{device.name} has no capture_url in devices.yaml: it cannot send takes",
                hint="set it and flash, or record by way of Home Assistant",
            )
        if take_uploads:
            await _listen(stack, ask, device)
        connection = await stack.enter_async_context(
            Connection(device.address or f"{device.name}.local", port=device.port, api_key=api_key)
        )
        microphone = await stack.enter_async_context(WakeMicrophone(ask, connection, device.name))
        yield Opened(microphone=microphone, keeper=CaptureKeeper())


async def record(
    ask: Ask,
    *,
    device: str,
    via: Via,
    person: str,
    takes: int = 20,
    places: Sequence[str] = PLACES,
    sitting: str = "",
    access: Access | None = None,
    take_uploads: bool = True,
    tell: Callable[[Told], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    ready: Callable[[Wish], Awaitable[None]] | None = None,
) -> Outcome:
    """A whole guided session on a satellite: what ``mww-ha record`` does. ``sitting``: one to go on with.

    The microphone is opened before anything is noted. Raises as ``open_microphone``, ``begin_sitting`` and
    ``record_session``.
    """
    settings = await ask(lambda project: project.settings)
    known = await ask(lambda project: find_person(project, person))
    transcribe = make_transcriber(settings.record.stt, settings.language)
    doubt = await ask(find_doubt)
    async with open_microphone(ask, device, via, access=access, take_uploads=take_uploads) as opened:
        microphone = opened.microphone
        if not sitting:
            sitting = await ask(
                lambda project: begin_sitting(
                    project,
                    person=known.name,
                    device=microphone.device,
                    audio_path=microphone.audio_path,
                    plan=make_plan(takes, places),
                )
            )
        return await record_session(
            ask,
            microphone,
            sitting=sitting,
            tell=tell,
            stop=stop,
            transcribe=transcribe,
            doubt=doubt,
            keeper=opened.keeper,
            ready=ready,
        )


async def _open_assist(stack: contextlib.AsyncExitStack, ask: Ask, device_name: str, access: Access) -> Microphone:
    from mww_ha.ha.client import Client
    from mww_ha.record.satellite import AssistMicrophone

    client = await stack.enter_async_context(Client(access))
    satellite = await client.find_satellite(device_name)
    settings = await ask(lambda project: project.settings.record)
    return AssistMicrophone(client=client, satellite=satellite, question=settings.question, again=settings.again)


def _find_device(project: Project, name: str) -> tuple[Device, str]:
    device = find_device(project, name)
    return device, api_key_of(project, device)


def _make_intake(project: Project) -> Intake:
    admit_rendered(project)
    return Intake(project)


async def _listen(stack: contextlib.AsyncExitStack, ask: Ask, device: Device) -> None:
    """Takes uploads in where the satellite sends them, unless the service does already."""
    from mww_ha.web.intake import make_device_app
    from mww_ha.web.sockets import Listener, make_runner

    parts = urlsplit(device.capture_url)
    if parts.path != UPLOAD_PATH:
        return  # another program takes them, and puts them into this project as it likes
    intake = await stack.enter_async_context(await ask(_make_intake))
    runner = make_runner(make_device_app(intake))
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    listener = Listener(runner)
    stack.push_async_callback(listener.close)
    try:
        await listener.open(None, parts.port or 80)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return  # the service runs
        raise InputError(
            f"cannot listen on port {parts.port or 80}, where {device.name} sends its sound: {error.strerror}",
            hint="start mww-ha serve where its capture_url points to, and try again",
        ) from None


def find_doubt(project: Project) -> Doubt | None:
    """The doubt of the newest model that is offered, None where there is none to be asked."""
    from mww_ha.errors import ManifestError, ModelFileError

    for model in project.catalogue.models():
        if model.get("offered", True):
            try:
                return make_doubt(project.root / str(model["manifest_path"]))
            except (ManifestError, ModelFileError):
                return None
    return None

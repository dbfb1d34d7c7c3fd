"""An upload is acknowledged when it is safe on the disk, once however often it is sent; nothing else is believed."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upload_kit import headers_of, noise, pieces, wav_of

from mww_ha import audio
from mww_ha.capture import exposure, keep, receive, review, tokens
from mww_ha.capture.receive import Intake, UploadError
from mww_ha.config import CaptureSettings, resolve
from mww_ha.errors import InputError
from mww_ha.record import people
from mww_ha.schema import CaptureKind, Flash, Verdict
from mww_ha.store import Catalogue, Project

TOKEN = "t" * 43


class Clock:
    """Time that stands still until it is told to pass."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.day = datetime.now(UTC)

    def pass_by(self, **span: float) -> None:
        self.seconds += timedelta(**span).total_seconds()
        self.day += timedelta(**span)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_intake(project: Project, clock: Clock | None = None, **changes: object) -> Intake:
    clock = clock or Clock()
    row = dataclasses.replace(project.settings.capture, **changes)
    changed = dataclasses.replace(project, settings=dataclasses.replace(project.settings, capture=row))
    return Intake(changed, clock=lambda: clock.day, monotonic=lambda: clock.seconds)


async def send(
    intake: Intake,
    samples: np.ndarray | None = None,
    *,
    token: str = TOKEN,
    peer: str = "192.0.2.7",
    body: bytes | None = None,
    **named: str,
) -> receive.Receipt:
    content = body if body is not None else wav_of(noise(1) if samples is None else samples)
    return await intake.take(headers_of(token, **named), pieces(content), peer=peer)


async def refused(awaitable: object) -> UploadError:
    with pytest.raises(UploadError) as caught:
        await awaitable
    return caught.value


@pytest.fixture
def kitchen(project: Project) -> Project:
    """A project that has let in the satellite ``kitchen``."""
    tokens.admit_token(project, "kitchen", TOKEN)
    return project


# ---- one upload -----------------------------------------------------------------------------------------------------


async def test_an_upload_becomes_a_capture_with_its_sound_unchanged(kitchen: Project, clock: Clock):
    taken = []
    samples = noise(7, 3.0)
    clock.day = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
    async with make_intake(kitchen, clock) as intake:
        intake._taken = taken.append
        receipt = await send(
            intake,
            samples,
            capture="0a-1",
            kind="near_miss",
            wake_word=quote("hey küche (near miss)"),
            model=quote("hey_hall 11111111, hey_kuche 1a2b3c4d, canary hey_kuche 5e6f7a8b"),
            firmware="2026.10.0",
            gain="4",
            trigger_sample="32000",
            age_ms="1500",
        )
    [capture] = kitchen.catalogue.captures()
    assert taken == [capture]
    assert (receipt.status, receipt.id, receipt.device) == (201, capture.id, "kitchen")
    assert np.array_equal(audio.read_samples(keep.sound_path(kitchen, capture.id)), samples)
    assert capture.captured_at == "2026-11-20T11:59:58.500+00:00"
    assert capture.received_at == "2026-11-20T12:00:00.000+00:00"
    assert (capture.kind, capture.wake_word) == (CaptureKind.NEAR_MISS, "hey küche (near miss)")
    assert (capture.model, capture.firmware, capture.gain) == ("hey_kuche-1a2b3c4d", "2026.10.0", 4.0)
    assert (capture.trigger_s, capture.duration_s, capture.verdict) == (2.0, 3.0, Verdict.UNDECIDED)
    assert capture.bytes == keep.sound_path(kitchen, capture.id).stat().st_size
    assert keep.check_consistency(kitchen).ok


async def test_a_satellite_is_who_its_token_says_and_files_have_names_made_here(kitchen: Project):
    async with make_intake(kitchen) as intake:
        await send(intake, device="bathroom", capture="..", session=quote("../../etc/passwd"))
    [capture] = kitchen.catalogue.captures()
    assert capture.device == "kitchen"
    assert capture.path == f"captures/{capture.sha256[:2]}/{capture.sha256}.flac"
    assert {p.name for p in kitchen.root.rglob("*") if p.is_file() and "captures" in p.parts} == {
        f"{capture.sha256}.flac"
    }


async def test_a_retried_upload_is_the_same_capture_with_the_same_answer(kitchen: Project):
    async with make_intake(kitchen) as intake:
        first = await send(intake, capture="a-1")
        assert await send(intake, capture="a-1", age_ms="60000") == first
    assert len(kitchen.catalogue.captures()) == 1
    async with make_intake(kitchen) as intake:  # and after a restart
        assert await send(intake, capture="a-1") == first
    assert len(kitchen.catalogue.captures()) == 1


async def test_a_retry_that_overtakes_the_first_attempt_is_still_one_capture(kitchen: Project):
    content = wav_of(noise(1))
    half_way, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield content[:1000]
        half_way.set()
        await go_on.wait()
        yield content[1000:]

    async with make_intake(kitchen) as intake:
        first = asyncio.create_task(intake.take(headers_of(TOKEN, capture="a-1"), slow(), peer="192.0.2.7"))
        await half_way.wait()
        answer = await send(intake, body=content, capture="a-1")
        go_on.set()
        assert await first == answer
        many = [send(intake, body=content, capture="a-2") for _ in range(8)]
        assert len(set(await asyncio.gather(*many))) == 1
    assert [c.upload for c in kitchen.catalogue.captures()].count("a-2") == 1
    assert len(kitchen.catalogue.captures()) == 2


async def test_two_services_on_one_project_take_an_upload_once(kitchen: Project):
    async with make_intake(kitchen) as one, make_intake(kitchen) as other:
        both = await asyncio.gather(*(send(intake, capture="a-1") for intake in (one, other)))
    assert both[0] == both[1]
    assert len(kitchen.catalogue.captures()) == 1


async def test_other_sound_under_a_known_name_is_refused_and_the_first_kept(kitchen: Project):
    async with make_intake(kitchen) as intake:
        await send(intake, noise(1), capture="a-1")
        assert (await refused(send(intake, noise(2), capture="a-1"))).status == 409
    [capture] = kitchen.catalogue.captures()
    assert np.array_equal(audio.read_samples(kitchen.root / capture.path), noise(1))
    assert keep.check_consistency(kitchen).ok


async def test_two_satellites_may_use_the_same_name(kitchen: Project):
    other = tokens.make_token(kitchen, "hall")
    async with make_intake(kitchen) as intake:
        await send(intake, noise(1), capture="a-1")
        await send(intake, noise(1), capture="a-1", token=other)
    assert {c.device for c in kitchen.catalogue.captures()} == {"kitchen", "hall"}
    assert len({c.path for c in kitchen.catalogue.captures()}) == 1


async def test_a_false_wake_may_come_without_sound_when_it_names_its_detection(kitchen: Project):
    async with make_intake(kitchen) as intake:
        await send(intake, np.zeros(0, np.int16), capture="a-2", kind="false_wake", session="a-1", trigger_sample="0")
        error = await refused(send(intake, np.zeros(0, np.int16), capture="a-3", kind="false_wake"))
        assert error.status == 400
        assert (await refused(send(intake, np.zeros(0, np.int16), capture="a-4"))).status == 400
    [capture] = kitchen.catalogue.captures()
    assert (capture.path, capture.session, capture.bytes) == ("", "a-1", 0)
    with pytest.raises(InputError, match="no sound"):
        keep.sound_path(kitchen, capture.id)


async def test_a_trigger_beyond_the_end_is_no_reason_to_lose_the_sound(kitchen: Project):
    async with make_intake(kitchen) as intake:
        await send(intake, noise(1), capture="a", trigger_sample="16000")
        await send(intake, noise(1), capture="b", trigger_sample="16001")
        await send(intake, noise(1), capture="c")
    assert {c.upload: c.trigger_s for c in kitchen.catalogue.captures()} == {"a": 1.0, "b": -1.0, "c": -1.0}


async def test_a_client_that_goes_away_leaves_nothing(kitchen: Project):
    async def broken() -> AsyncIterator[bytes]:
        yield wav_of(noise(1))[:9000]
        raise ConnectionResetError

    async with make_intake(kitchen) as intake:
        with pytest.raises(ConnectionResetError):
            await intake.take(headers_of(TOKEN), broken(), peer="192.0.2.7")
        await send(intake)
    assert len(kitchen.catalogue.captures()) == 1
    assert keep.check_consistency(kitchen).ok


# ---- headers and sound are hostile ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "status"),
    [
        ({"protocol": "2"}, 400),
        ({"protocol": ""}, 400),
        ({"capture": ""}, 400),
        ({"capture": "a/b"}, 400),
        ({"capture": "x" * 65}, 400),
        ({"kind": "wake"}, 400),
        ({"kind": "DETECTION"}, 400),
        ({"wake_word": "%"}, 400),
        ({"wake_word": "%zz"}, 400),
        ({"wake_word": "%ff%fe"}, 400),
        ({"wake_word": "%00"}, 400),
        ({"wake_word": "a%0d%0aX-Mww-Kind: detection"}, 400),
        ({"wake_word": "%e2%80%ae"}, 400),  # turns the text around
        ({"wake_word": "%ed%a0%80"}, 400),  # half a character
        ({"wake_word": "ü"}, 400),
        ({"wake_word": "x" * 257}, 400),
        ({"session": "x" * 2000}, 400),
        ({"gain": "-1"}, 400),
        ({"gain": "nan"}, 400),
        ({"trigger_sample": "-1"}, 400),
        ({"trigger_sample": "1e3"}, 400),
        ({"trigger_sample": "18446744073709551615"}, 400),
        ({"age_ms": "99999999999"}, 400),
        ({"listening_s": "٣"}, 400),
        ({"dropped": "0x10"}, 400),
        ({"content_type": "text/html"}, 415),
    ],
)
async def test_headers_that_no_satellite_sends_are_refused_and_nothing_is_kept(
    kitchen: Project, named: dict[str, str], status: int
):
    async with make_intake(kitchen) as intake:
        assert (await refused(send(intake, **named))).status == status
    assert kitchen.catalogue.captures() == []
    assert list(kitchen.root.glob("captures/**/*.flac")) == []


def test_a_header_that_is_there_twice_is_refused():
    with pytest.raises(UploadError, match="twice"):
        receive.parse_headers([*headers_of(TOKEN), ("x-mww-kind", "prompt")])


@given(st.text(alphabet=st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=128))
@settings(deadline=None)
def test_any_text_that_can_be_shown_comes_through_the_encoding(text: str):
    parsed = receive.parse_headers(headers_of(TOKEN, wake_word=quote(text, safe=""), session=quote(text)))
    assert parsed.session.strip() == text.strip()


@given(
    st.lists(st.tuples(st.sampled_from([n for n, _ in headers_of(TOKEN)]) | st.text(max_size=20), st.text(max_size=40)))
)
@settings(deadline=None)
def test_no_header_does_anything_but_parse_or_be_refused(headers: list[tuple[str, str]]):
    for parse in (receive.parse_headers, receive.parse_bearer):
        for given_headers in (headers, [*headers_of(TOKEN), *headers], [*headers, *headers_of(TOKEN)]):
            try:
                parse(given_headers)
            except UploadError as error:
                assert 400 <= error.status < 500


@given(st.integers(0, 400))
@settings(deadline=None)
def test_the_one_form_of_wav_gives_its_samples(count: int):
    samples = np.arange(count, dtype=np.int16)
    assert np.array_equal(receive.parse_wav(wav_of(samples)), samples)


_GOOD = wav_of(np.arange(100, dtype=np.int16))


@given(st.integers(0, 43), st.integers(1, 255))
@settings(deadline=None)
def test_one_wrong_byte_in_the_header_of_a_wav_is_found(place: int, change: int):
    content = bytearray(_GOOD)
    content[place] ^= change
    with pytest.raises(UploadError) as caught:
        receive.parse_wav(bytes(content))
    assert caught.value.status in (400, 413, 415)


@given(st.integers(0, len(_GOOD) - 1) | st.binary(min_size=1, max_size=5))
@settings(deadline=None)
def test_a_wav_that_was_cut_off_or_goes_on_is_refused(change: int | bytes):
    content = _GOOD[:change] if isinstance(change, int) else _GOOD + change
    with pytest.raises(UploadError):
        receive.parse_wav(content)


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_any_bytes_are_refused_or_read(content: bytes):
    for body in (content, _GOOD[:44] + content, b"RIFF" + struct.pack("<I", len(content)) + b"WAVEfmt " + content):
        try:
            assert receive.parse_wav(body).dtype == np.int16
        except UploadError as error:
            assert error.status in (400, 413, 415)


async def test_ten_seconds_are_taken_and_a_sample_more_is_not(kitchen: Project):
    async with make_intake(kitchen) as intake:
        await send(intake, noise(1, 10.0), capture="a")
        assert (await refused(send(intake, noise(1, 10.0001), capture="b"))).status == 413
    async with make_intake(kitchen, longest_s=2.0) as intake:
        await send(intake, noise(1, 2.0), capture="c")
        assert (await refused(send(intake, noise(1, 2.1), capture="d"))).status == 413


async def test_a_body_without_end_is_left_at_the_limit():
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 10_000_000:
            read += 1000
            yield bytes(1000)

    assert (await refused(receive.read_body(endless(), 320_044))).status == 413
    assert read <= 322_000


async def test_a_body_that_stands_still_is_given_up_and_may_come_again():
    async def stuck() -> AsyncIterator[bytes]:
        yield b"RIFF"
        await asyncio.sleep(60)

    assert (await refused(receive.read_body(stuck(), 1000, timeout_s=0.05))).status == 503


# ---- who may, and how often -----------------------------------------------------------------------------------------


async def test_without_a_token_in_force_nothing_is_taken(kitchen: Project):
    async with make_intake(kitchen) as intake:
        for header in ("", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN} x", "Bearer ümlaut"):
            rest = [pair for pair in headers_of(TOKEN) if pair[0] != "Authorization"]
            error = await refused(intake.take([*rest, ("Authorization", header)], pieces(b""), peer="192.0.2.1"))
            assert error.status == 401
        assert (await refused(send(intake, token="u" * 43))).status == 401
        assert tokens.revoke_tokens(kitchen, "kitchen") == 1
        assert (await refused(send(intake))).status == 403
    assert kitchen.catalogue.captures() == []


def test_a_token_is_kept_as_a_hash_and_let_in_again_without_a_change(project: Project):
    made = tokens.make_token(project, "kitchen")
    [row] = tokens.list_tokens(project)
    assert len(made) >= 43
    assert made.encode() not in project.catalogue.path.read_bytes()
    assert (row.device, row.scope, row.revoked_at) == ("kitchen", "device:kitchen:append", "")
    assert tokens.admit_token(project, "kitchen", made) == row
    assert tokens.find_token(project.catalogue, made) == row
    assert tokens.find_token(project.catalogue, made[:-1]) is None
    with pytest.raises(InputError, match="that of kitchen"):
        tokens.admit_token(project, "hall", made)
    tokens.revoke_tokens(project, "kitchen")
    with pytest.raises(InputError, match="revoked"):
        tokens.admit_token(project, "kitchen", made)
    for weak in ("", "short", "x" * 30, "with a space" * 5, "ü" * 50):
        with pytest.raises(InputError):
            tokens.admit_token(project, "kitchen", weak)


def test_a_revoked_satellite_keeps_no_other_from_being_let_in(kitchen: Project):
    folder = kitchen.esphome_dir / "mww_ha" / "capture"
    folder.mkdir(parents=True)
    secret = {name: (name * 50)[:43] for name in ("attic", "hall")}
    (folder / "secrets.yaml").write_text("".join(f'{name}: "{text}"\n' for name, text in secret.items()))
    assert tokens.admit_rendered(kitchen) == []
    tokens.revoke_tokens(kitchen, "attic")
    (folder / "secrets.yaml").write_text(f'attic: "{secret["attic"]}"\nporch: "{"p" * 43}"\nshed: "short"\n')
    attic, shed = tokens.admit_rendered(kitchen)
    assert "the capture token of attic was revoked" in attic.message
    assert "the capture token of shed is not 40" in shed.message
    assert {token.device for token in tokens.list_tokens(kitchen) if not token.revoked_at} >= {"hall", "porch"}


async def test_the_last_use_of_a_token_is_noted_to_the_hour(kitchen: Project, clock: Clock):
    clock.day = datetime(2031, 5, 6, 7, 59, tzinfo=UTC)
    async with make_intake(kitchen, clock) as intake:
        await send(intake, capture="a")
        assert tokens.list_tokens(kitchen)[0].last_used_at == "2031-05-06T07:00:00+00:00"
        clock.pass_by(minutes=2)
        await send(intake, capture="b")
        assert tokens.list_tokens(kitchen)[0].last_used_at == "2031-05-06T08:00:00+00:00"


async def test_a_satellite_that_sends_too_often_has_to_wait_and_the_others_do_not(kitchen: Project, clock: Clock):
    other = tokens.make_token(kitchen, "hall")
    async with make_intake(kitchen, clock, uploads_per_minute=3.0) as intake:
        for number in range(3):
            await send(intake, capture=f"a-{number}")
        error = await refused(send(intake, capture="a-3"))
        assert (error.status, error.retry_after_s) == (429, pytest.approx(20))
        await send(intake, token=other)
        clock.pass_by(seconds=21)
        await send(intake, capture="a-3")


async def test_an_address_that_sends_too_often_has_to_wait_whatever_its_tokens(kitchen: Project, clock: Clock):
    async with make_intake(kitchen, clock, address_uploads_per_minute=2.0) as intake:
        await send(intake, capture="a", peer="2001:db8::1")
        await send(intake, capture="b", peer="2001:db8::2")
        assert (await refused(send(intake, capture="c", peer="2001:db8::3"))).status == 429
        await send(intake, capture="c", peer="2001:db8:0:1::3")
        await send(intake, capture="d", peer="::ffff:192.0.2.9")


async def test_wrong_tokens_lock_an_address_out_but_not_who_was_in_before(kitchen: Project, clock: Clock):
    other = tokens.make_token(kitchen, "hall")
    async with make_intake(kitchen, clock, failures=4, lockout_minutes=5.0) as intake:
        await send(intake, capture="a")
        for number in range(4):
            assert (await refused(send(intake, token=f"{number}" * 43))).status == 401
        error = await refused(send(intake, token="z" * 43))
        assert (error.status, error.retry_after_s) == (429, pytest.approx(300))
        assert (await refused(send(intake, token=other))).status == 429  # even a right one, if it is new there
        await send(intake, capture="b")
        await send(intake, token=other, peer="192.0.2.8")
        clock.pass_by(minutes=5, seconds=1)
        await send(intake, token=other, capture="b")


def test_limits_forget_who_was_quiet_and_stay_small(clock: Clock):
    buckets = receive.Buckets(1.0, clock=lambda: clock.seconds, keys=10)
    lockout = receive.Lockout(1, 5.0, clock=lambda: clock.seconds, keys=10)
    for number in range(100):
        buckets.take(str(number))
        lockout.fail(str(number))
        lockout.succeed(str(number), "x")
    assert len(buckets._levels) == len(lockout._failed) == len(lockout._good) == 10
    assert buckets.take("99") > 0
    assert lockout.wait_s("99", "y") > 0


async def test_more_uploads_at_once_than_allowed_are_sent_away_for_a_moment(kitchen: Project):
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        await go_on.wait()
        yield wav_of(noise(1))

    async with make_intake(kitchen, uploads_at_once=2) as intake:
        waiting = [
            asyncio.create_task(intake.take(headers_of(TOKEN, capture=f"a-{n}"), slow(), peer="192.0.2.7"))
            for n in range(2)
        ]
        async with asyncio.timeout(10):
            while intake._reading < 2:  # noqa: ASYNC110  it is the intake's own count that is waited for
                await asyncio.sleep(0.001)
        assert (await refused(send(intake, capture="b"))).status == 503
        go_on.set()
        await asyncio.gather(*waiting)
        await send(intake, capture="b")


# ---- room -----------------------------------------------------------------------------------------------------------


async def test_the_oldest_that_nobody_judged_makes_room_and_what_was_judged_stays(kitchen: Project, clock: Clock):
    async with make_intake(kitchen, clock, max_mb=0.35) as intake:
        ids = []
        for number in range(4):
            ids.append((await send(intake, noise(number, 3.0), capture=f"a-{number}")).id)
            clock.pass_by(seconds=10)
            if number == 0:
                review.judge(kitchen, ids, Verdict.FALSE_ACCEPT, by="anna")
        left = [capture.id for capture in kitchen.catalogue.captures()]
        assert left[0] == ids[0]
        assert left[-1] == ids[3]
        assert ids[1] not in left
        assert kitchen.catalogue.capture_bytes() <= 350_000
        review.judge(kitchen, left, Verdict.OTHER, by="anna")
        for number in range(9):
            try:
                review.judge(
                    kitchen, [(await send(intake, noise(9, 3.0), capture=f"b-{number}")).id], Verdict.WAKE, by="anna"
                )
            except UploadError as error:
                assert error.status == 507
                assert "max_mb" in error.hint
                break
            clock.pass_by(seconds=10)
        else:
            pytest.fail("there was always room")
    assert keep.check_consistency(kitchen).ok


async def test_what_nobody_judged_in_time_is_deleted_and_what_was_judged_is_not(kitchen: Project, clock: Clock):
    async with make_intake(kitchen, clock) as intake:
        judged = await send(intake, noise(1), capture="a")
        await send(intake, noise(2), capture="b")
        review.judge(kitchen, [judged.id], Verdict.WAKE, by="anna")
        assert keep.expire(kitchen, at=clock.day + timedelta(days=13.9)) == 0
        assert keep.expire(kitchen, at=clock.day + timedelta(days=14.1)) == 1
    assert [c.id for c in kitchen.catalogue.captures()] == [judged.id]
    assert len(list(kitchen.root.glob("captures/*/*.flac"))) == 1
    assert keep.check_consistency(kitchen).ok


async def test_sound_that_two_captures_share_stays_until_the_last_goes(kitchen: Project):
    async with make_intake(kitchen) as intake:
        ids = [(await send(intake, noise(1), capture=name)).id for name in ("a", "b")]
    people.delete_captures(kitchen, ids[:1])
    assert keep.sound_path(kitchen, ids[1]).exists()
    people.delete_captures(kitchen, ids)
    assert list(kitchen.root.glob("captures/*/*")) == []


def test_a_full_disk_is_answered_with_507_and_leaves_nothing_half(kitchen: Project):
    # The system itself refuses: files of this child may not grow beyond 60 kB. 5 s of noise need more.
    script = textwrap.dedent(
        f"""
        import asyncio, resource, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from upload_kit import headers_of, noise, pieces, wav_of
        from mww_ha.capture.receive import Intake, UploadError
        from mww_ha.store import open_project
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        async def main():
            project = open_project(Path({str(kitchen.root)!r}))
            async with Intake(project) as intake:
                # then a short sound fits, but not its row
                for most, seconds in ((60_000, 5.0), (3000, 0.02)):
                    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
                    try:
                        await intake.take(headers_of({TOKEN!r}), pieces(wav_of(noise(1, seconds))), peer="192.0.2.7")
                    except UploadError as error:
                        print(error.status, len(list(project.captures_dir.rglob("*.*"))))
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                again = await intake.take(headers_of({TOKEN!r}), pieces(wav_of(noise(1, 5.0))), peer="192.0.2.7")
                print(again.status)
        asyncio.run(main())
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent
    )
    assert done.stdout.split() == ["507", "0", "507", "0", "201"], done.stderr
    assert len(kitchen.catalogue.captures()) == 1
    assert keep.check_consistency(kitchen).ok


# ---- crashes --------------------------------------------------------------------------------------------------------


def _survives(project: Project, kills: int) -> None:
    """Kills a process that takes uploads and verdicts under load, again and again; then compares promises and rows."""
    promised = project.root.parent / "promised"
    promised.touch()
    script = Path(__file__).parent / "upload_kit.py"
    command = [sys.executable, str(script), str(project.root), str(promised), TOKEN, str(kills), "17"]
    environment = {**os.environ, "PYTHONPATH": str(script.parent.parent), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in promised.read_text().splitlines()]
    taken = {id for what, id, _ in lines if what == "taken"}
    verdicts = {id: verdict for what, id, verdict in lines if what == "judged"}
    assert len(taken) > kills
    assert len(verdicts) > kills / 2
    found = keep.check_consistency(project)
    assert found.catalogue == found.missing == ()
    rows = {capture.id: capture for capture in project.catalogue.captures()}
    assert taken <= rows.keys()
    for id, verdict in verdicts.items():
        # the one after it may have been written and not yet promised
        assert rows[id].verdict is Verdict(verdict) or rows[id].verdict is not Verdict.UNDECIDED
        assert any(entry.verdict is Verdict(verdict) for entry in review.list_history(project, id))
    for capture in rows.values():
        assert audio.samples_digest(audio.read_samples(project.root / capture.path)) == capture.sha256
    keep.check_consistency(project, repair=True)
    assert keep.check_consistency(project).ok
    assert list(project.captures_dir.rglob("*.part")) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children that it forks")
def test_twenty_kills_under_load_lose_no_promised_capture_and_no_promised_verdict(kitchen: Project):
    _survives(kitchen, 20)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children that it forks")
def test_fifty_kills_under_load_lose_nothing_either(kitchen: Project):
    _survives(kitchen, 50)


async def test_a_file_without_a_row_is_found_and_cleaned_and_a_row_without_a_file_is_named(kitchen: Project):
    async with make_intake(kitchen) as intake:
        lost, _kept = [await send(intake, noise(n), capture=f"a-{n}") for n in range(2)]
    keep.sound_path(kitchen, lost.id).unlink()
    for stray in ("captures/00/orphan.flac", "captures/00/.half.flac.x.part"):
        (kitchen.root / stray).parent.mkdir(exist_ok=True)
        (kitchen.root / stray).write_bytes(b"x")
    found = keep.check_consistency(kitchen)
    assert found.stray == ("captures/00/.half.flac.x.part", "captures/00/orphan.flac")
    assert len(found.missing) == 1
    again = keep.check_consistency(kitchen, repair=True)
    assert again == found
    assert keep.check_consistency(kitchen) == keep.Consistency(missing=found.missing)


def test_a_deletion_that_was_interrupted_is_finished_by_the_next(kitchen: Project):
    path = kitchen.captures_dir / "aa" / "x.flac"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    kitchen.catalogue.remove_file("captures/aa/x.flac")  # noted with the rows, then the power went
    assert keep.check_consistency(kitchen).unfinished == ("captures/aa/x.flac",)
    keep.expire(kitchen)
    assert not path.exists()
    assert keep.check_consistency(kitchen).ok


# ---- listening time -------------------------------------------------------------------------------------------------

A, B = "hey_kitchen-1a2b3c4d", "hey_kitchen-5e6f7a8b"
START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


def listen(project: Project, hours: float, listening_s: float, *models: str, dropped: int = 0) -> None:
    reading = exposure.Reading(
        device="kitchen",
        models=models or (A,),
        listening_s=listening_s,
        dropped=dropped,
        at=START + timedelta(hours=hours),
    )
    exposure.note_reading(project.catalogue, reading, known_since=START)


def listened(project: Project) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in project.catalogue.exposure():
        found[row.model] = round(found.get(row.model, 0) + row.listening_s)
    return found


def test_the_counter_of_a_satellite_becomes_hours_of_each_of_its_models(project: Project):
    listen(project, 1, 3000, A, B)
    listen(project, 2, 6000, A, B)
    assert listened(project) == {"": 6000, A: 6000, B: 6000}


def test_hours_before_the_satellite_was_let_in_do_not_count(project: Project):
    listen(project, 1, 500_000)
    assert listened(project) == {"": 3600, A: 3600}


def test_a_counter_that_lost_its_last_minutes_counts_nothing_and_one_that_was_erased_starts_anew(project: Project):
    listen(project, 1, 3600)
    listen(project, 2, 3100)
    assert listened(project)[A] == 3600
    listen(project, 3, 6000)
    assert listened(project)[A] == 6500
    listen(project, 4, 100, dropped=2)
    assert listened(project)[A] == 6600


def test_nothing_counts_twice_or_more_than_the_time_that_passed(project: Project):
    listen(project, 1, 3600)
    listen(project, 1, 3600)
    listen(project, 1.5, 90_000)
    assert listened(project)[A] == 5400


def test_hours_are_written_to_the_days_they_were_listened_on(project: Project):
    listen(project, 0.001, 0)
    listen(project, 24, 12 * 3600)
    rows = {row.day: round(row.listening_s) for row in project.catalogue.exposure() if row.model == A}
    assert rows == {"2026-11-20": pytest.approx(8 * 3600, abs=5), "2026-11-21": pytest.approx(4 * 3600, abs=5)}


@pytest.mark.parametrize("flashed", [True, False])
def test_a_new_model_shares_the_hours_at_the_flash_or_gets_none(project: Project, flashed: bool):
    listen(project, 0.5, 1800)
    if flashed:
        flash = Flash(
            id="f", device="kitchen", model=B, wake_model="", backend="esphome", outcome="verified",
            started_at=(START + timedelta(hours=1.5)).isoformat(),
        )  # fmt: skip
        project.catalogue.put_flash(flash)
    listen(project, 4.5, 1800 + 4 * 3600, B)
    expected = {A: 1800 + 3600, B: 3 * 3600} if flashed else {A: 1800}
    assert listened(project) == {"": 1800 + 4 * 3600, **expected}


def test_captures_that_the_satellite_lost_are_counted_once(project: Project):
    listen(project, 1, 100, dropped=2)
    listen(project, 2, 200, dropped=2)
    listen(project, 3, 300, dropped=5)
    assert sum(row.lost for row in project.catalogue.exposure() if row.model == A) == 5


def test_a_satellite_that_sends_nothing_is_read_by_its_entities(kitchen: Project):
    def read(hours: float, **values: object) -> exposure.Reading | None:
        shown = {"listening_hours": hours, "captures_dropped": 0.0, "wake_model": "hey_kitchen 1a2b3c4d", **values}
        return exposure.read_entities(kitchen.catalogue, "kitchen", shown, START + timedelta(hours=30))

    first = read(20.0)
    assert first == exposure.Reading(
        device="kitchen", models=(A,), listening_s=72_000.0, dropped=0, at=START + timedelta(hours=30)
    )
    exposure.note_reading(kitchen.catalogue, first, known_since=START)
    assert listened(kitchen) == {"": 72_000, A: 72_000}
    assert read(20.0) is None, "nothing new"
    assert read(19.99) is None, "shown a moment before the last upload"
    assert read(19.0) is not None, "it was restarted"
    later = read(21.0, wake_model=None, captures_dropped=2.0)
    assert later is not None
    assert (later.models, later.dropped) == ((A,), 2), "the models it had"
    for nonsense in (None, "12", True, float("nan"), float("inf"), -1.0, 1e9):
        assert read(0.0, listening_hours=nonsense) is None


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 200_000), st.integers(0, 9)), max_size=8),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_whatever_a_satellite_says_its_hours_never_exceed_the_time(readings: list[tuple[float, int, int]], two: bool):
    catalogue = Catalogue(Path(":memory:"))
    for hours, listening_s, dropped in sorted(readings):
        reading = exposure.Reading(
            device="kitchen", models=(A, B) if two else (A,), listening_s=float(listening_s), dropped=dropped,
            at=START + timedelta(hours=hours),
        )  # fmt: skip
        exposure.note_reading(catalogue, reading, known_since=START)
    last = max((hours for hours, _, _ in readings), default=0)
    totals: dict[str, float] = {}
    for row in catalogue.exposure():
        assert row.listening_s >= 0
        totals[row.model] = totals.get(row.model, 0) + row.listening_s
    assert all(total <= last * 3600 + 1 for total in totals.values())
    catalogue.close()


def test_models_are_read_from_what_the_satellite_shows():
    text = "hey_kitchen 1a2b3c4d, hey_hall 99aabbcc, canary hey_kitchen 5e6f7a8b"
    choose: Callable[..., str] = exposure.choose_model
    assert choose(text, CaptureKind.DETECTION, "hey kitchen") == "hey_kitchen-1a2b3c4d"
    assert choose(text, CaptureKind.DETECTION, "Hey Hall") == "hey_hall-99aabbcc"
    assert choose(text, CaptureKind.NEAR_MISS, "hey kitchen (near miss)") == "hey_kitchen-1a2b3c4d"
    assert choose(text, CaptureKind.CANARY, "hey kitchen (canary)") == "hey_kitchen-5e6f7a8b"
    assert choose("hey_kitchen-1a2b3c4d", CaptureKind.PROMPT, "") == "hey_kitchen-1a2b3c4d"
    assert choose("../../x 12345678, HEY 1a2b3c4d", CaptureKind.DETECTION, "hey") == ""


def test_settings_of_captures_stand_in_the_project_file():
    assert CaptureSettings().keep_days == 14
    changed = resolve({"phrase": "hey kitchen", "capture": {"keep_days": 3, "max_mb": 50}}, where="here").capture
    assert (changed.keep_days, changed.max_mb) == (3.0, 50.0)

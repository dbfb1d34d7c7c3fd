"""Results on standard output, all else on standard error, an exit code by the kind of error, never a traceback."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import yaml

from mww_ha import __version__, doctor, pipeline
from mww_ha import cli as command_line
from mww_ha.devices.known import clean_host_name
from mww_ha.errors import DataError, MwwError
from mww_ha.progress import PLAIN_EVERY_S, JsonView, LiveView, PlainView, duration
from mww_ha.schema import Clip, Label, Origin, Progress
from mww_ha.store import Project
from mww_ha.web.service import STATE_DIR, StateFolder

ROOT = Path(__file__).parent.parent


class Answer(NamedTuple):
    code: int
    out: str
    err: str


Ask = Callable[..., Answer]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Runs one command line in this process, in an empty folder."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Answer:
        with pytest.raises(SystemExit) as ended:
            command_line.main(list(arguments))
        assert isinstance(ended.value.code, int)
        return Answer(ended.value.code, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def failing() -> Iterator[Callable[[BaseException], None]]:
    """Adds a command ``fail`` that raises what it is given."""

    def add(error: BaseException) -> None:
        @command_line.cli.command("fail")
        def fail() -> None:
            raise error

    yield add
    command_line.cli.commands.pop("fail", None)


def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mww_ha", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, env=environment, text=True, **options)


def write_wavs(folder: Path, count: int, seconds: float = 0.5) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        with wave.open(str(folder / f"{number:05}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            samples = [(number * 37 + 101 * i * i) % 4001 - 2000 for i in range(int(16000 * seconds))]
            file.writeframes(b"".join(s.to_bytes(2, "little", signed=True) for s in samples))


def test_help_is_instant_and_loads_nothing_heavy():
    script = (
        "import sys\n"
        "from mww_ha.cli import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n"
        "    heavy = {'tensorflow', 'keras', 'numpy', 'scipy', 'soundfile', 'rich', 'onnxruntime', 'ai_edge_litert',"
        " 'aiohttp'}\n"
        "    print(*sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    times = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
        times.append(time.monotonic() - began)
        assert done.stderr.strip() == ""
        assert "quickstart" in done.stdout
    assert min(times) < 1.0


def test_the_version_is_said(ask: Ask):
    assert ask("--version") == (0, f"mww-ha, version {__version__}\n", "")


def test_every_command_takes_the_common_options_and_has_a_help():
    def commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
        for name, command in group.commands.items():
            yield (*path, name), command
            if isinstance(command, click.Group):
                yield from commands(command, (*path, name))

    found = dict(commands(command_line.cli, ()))
    work = {"new", "import", "synthesize", "prepare", "train", "evaluate", "export", "render", "run", "quickstart"}
    assert {(name,) for name in work | {"runs", "listen", "doctor"}} <= found.keys()
    assert {("voices", "list"), ("voices", "download"), ("corpora", "list"), ("corpora", "download")} <= found.keys()
    for path, command in found.items():
        options = {name for parameter in command.params for name in parameter.opts}
        assert {"--project", "--set", "--json"} <= options, path
        assert command.help, path


def test_the_common_options_stand_before_or_after_the_command(ask: Ask, project: Project):
    before = ask("--project", str(project.root), "--json", "runs")
    after = ask("runs", "--project", str(project.root), "--json")
    assert before == after
    assert json.loads(before.out) == {"type": "result", "result": []}


def test_the_project_is_found_from_a_folder_below_it(ask: Ask, project: Project, monkeypatch: pytest.MonkeyPatch):
    (project.root / "below").mkdir()
    monkeypatch.chdir(project.root / "below")
    assert ask("runs").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs"], ["no project.yaml", "mww-ha new"]),
        (["rnus"], ["rnus", "mww-ha --help"]),
        (["import"], ["folder", "--manifest"]),
        (["import", "x"], ["--label"]),
        (["listen"], ["--model"]),
        (["evaluate", "--wake", "x"], ["--model"]),
        (["new", "hey", "--effort", "huge"], ["huge", "quick"]),
        (["--set", "effort", "runs"], ["effort", "key=value"]),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong_and_the_way_out(ask: Ask, arguments: list[str], words: list[str]):
    answer = ask(*arguments)
    assert (answer.code, answer.out) == (2, "")
    for word in words:
        assert word in answer.err
    assert "Traceback" not in answer.err


def test_no_command_shows_the_help_on_standard_error(ask: Ask):
    answer = ask()
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("Usage: mww-ha")


def test_an_unknown_setting_names_its_nearest_known_one(ask: Ask, project: Project):
    answer = ask("runs", "--project", str(project.root), "--set", "synthesize.wake_clip=5")
    assert answer.code == 2
    assert "did you mean synthesize.wake_clips?" in answer.err


@pytest.mark.parametrize("kind", MwwError.__subclasses__())
def test_the_exit_code_tells_the_class_of_an_error(
    ask: Ask, failing: Callable[[BaseException], None], kind: type[MwwError]
):
    failing(kind("what is wrong", hint="the way out"))
    answer = ask("fail")
    assert (answer.code, answer.out) == (kind.exit_code, "")
    assert answer.err == "mww-ha: what is wrong\n  the way out\n"


def test_an_error_is_a_json_line_too(ask: Ask, failing: Callable[[BaseException], None]):
    failing(DataError("too few speakers", hint="import more"))
    answer = ask("fail", "--json")
    assert json.loads(answer.out) == {
        "type": "error",
        "error": "DataError",
        "message": "too few speakers",
        "hint": "import more",
        "exit_code": 3,
    }


def test_a_wrong_command_line_is_a_json_line_too(ask: Ask):
    assert json.loads(ask("--json", "rnus").out)["exit_code"] == 2


def test_ctrl_c_says_how_to_go_on(ask: Ask, failing: Callable[[BaseException], None]):
    failing(KeyboardInterrupt())
    assert ask("fail") == (130, "", "mww-ha: stopped; run the same command again to go on\n")


def test_a_defect_of_ours_is_one_line_and_its_traceback_is_in_a_file(
    ask: Ask, failing: Callable[[BaseException], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failing(ZeroDivisionError("division by zero"))
    answer = ask("fail")
    assert answer.code == 1
    assert "Traceback" not in answer.err
    [log] = tmp_path.glob("mww-ha-crash-*.log")
    assert str(log) in answer.err
    assert "ZeroDivisionError: division by zero" in log.read_text()


@pytest.mark.parametrize("place", ["/dev/null/x", "/proc/x"])
def test_a_place_where_no_folder_can_be_is_the_users_to_mend(ask: Ask, place: str):
    answer = ask("new", "hey kitchen", "--project", place)
    assert (answer.code, f"cannot write {place}/project.yaml: " in answer.err) == (8, True)
    assert "name another place" in answer.err


def test_settings_that_may_not_be_read_are_the_users_to_mend(
    ask: Ask, project: Project, monkeypatch: pytest.MonkeyPatch
):
    whole = Path.read_text

    def read_text(path: Path, *args: str, **options: str) -> str:
        if path.name == "project.yaml":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
    for command in (["run"], ["clips"]):
        answer = ask(*command, "--project", str(project.root))
        assert answer.code == 2
        assert f"{project.root / 'project.yaml'} cannot be read: Permission denied" in answer.err
        assert "check owner and permissions" in answer.err
    told = ask("doctor", "--project", str(project.root))
    assert told.code == 1
    assert "project.yaml cannot be read" in told.out
    assert not list(project.root.glob("mww-ha-crash-*"))


@pytest.mark.parametrize("content", [b"no database, but a text\n" * 1000, None])
def test_a_catalogue_that_is_damaged_leads_to_the_doctor(ask: Ask, project: Project, content: bytes | None):
    project.catalogue.close()
    for path in project.root.glob("catalogue.sqlite-*"):
        path.unlink()
    path = project.root / "catalogue.sqlite"
    path.write_bytes(content or path.read_bytes()[:4096] + b"\xff" * 90_000)  # found only when rows are read
    for command in (["clips"], ["run"]):
        answer = ask(*command, "--project", str(project.root))
        assert answer.code == 8
        assert f"{path} is damaged: " in answer.err
        assert "mww-ha doctor" in answer.err
    assert ask("doctor", "--project", str(project.root)).code == 1
    assert not list(project.root.glob("mww-ha-crash-*"))


def test_what_the_system_denies_is_named(ask: Ask, failing: Callable[[BaseException], None]):
    failing(PermissionError(errno.EACCES, "Permission denied", "/somewhere/a.wav"))
    answer = ask("fail")
    assert (answer.code, "cannot use /somewhere/a.wav: Permission denied" in answer.err) == (8, True)


def test_a_missing_part_names_the_extra_that_brings_it(ask: Ask, failing: Callable[[BaseException], None]):
    failing(ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow.python"))
    answer = ask("fail")
    assert answer.code == 4
    assert "pip install '.[train]'" in answer.err


def test_a_reader_that_goes_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    process = start("--help", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_said():
    with Path("/dev/full").open("w") as full:
        process = start("doctor", "--json", stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 8
    assert "no space left" in err
    assert "Traceback" not in err


_SLOW_IMPORT = """
import sys, time
from mww_ha import cli
from mww_ha.record import files

def slowly(*given, whole=files._import_file):
    time.sleep(0.02)
    return whole(*given)

files._import_file = slowly
cli.main(sys.argv[1:])
"""
"""Twelve seconds for 600 files: who stops it may be late."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_import_keeps_what_it_has_and_goes_on_when_started_again(
    project: Project, tmp_path: Path, number: signal.Signals
):
    write_wavs(tmp_path / "clips", 600, seconds=0.3)
    arguments = ["import", str(tmp_path / "clips"), "--label", "noise", "--project", str(project.root), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_IMPORT, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("done", 0) > 0:
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out.splitlines()[-1])["type"] == "error"
    assert "run the same command again" in err
    assert "Traceback" not in err
    before = {clip.id for clip in project.catalogue.clips()}
    assert len(before) < 600
    again = subprocess.run(
        [sys.executable, "-m", "mww_ha", *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    result = json.loads(again.stdout.splitlines()[-1])["result"]
    assert result["added"] + result["known"] == 600
    assert before <= {clip.id for clip in project.catalogue.clips()}
    assert len(project.catalogue.clips()) == 600


_WAITING = """
import os, sys, time
from pathlib import Path
from mww_ha import cli, workers

def wait_in(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(120)

@cli.cli.command("wait")
def wait():
    for _ in workers.run_tasks(wait_in, [(sys.argv[1],)] * 2, processes=2):
        pass

if __name__ == "__main__":
    cli.main(["wait"])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_does_not_wait_for_what_the_workers_are_at(tmp_path: Path, number: signal.Signals):
    (tmp_path / "waiting.py").write_text(_WAITING)
    at_work = tmp_path / "at work"
    at_work.mkdir()
    process = subprocess.Popen(
        [sys.executable, tmp_path / "waiting.py", at_work],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while len(list(at_work.iterdir())) < 2 and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=100)
    assert (len(list(at_work.iterdir())), process.returncode, out) == (2, 130, "")
    assert err == "mww-ha: stopped; run the same command again to go on\n"
    assert time.monotonic() - began < 30


def test_new_makes_a_project_in_a_folder_named_after_the_phrase(ask: Ask, tmp_path: Path):
    answer = ask("new", "Hey  Küche", "--language", "de")
    assert answer.code == 0
    assert "Hey Küche" in answer.out
    assert "language: de" in (tmp_path / "hey_kuche" / "project.yaml").read_text()


def test_new_says_that_a_project_exists_already_and_with_what(ask: Ask, tmp_path: Path):
    assert "exists already" not in ask("new", "Hey Küche", "--language", "de", "--effort", "good").out
    again = ask("new", "Hey Küche")
    assert "exists already, with language de and effort good" in again.out
    assert json.loads(ask("new", "Hey Küche", "--json").out)["result"]["existed"] is True
    refused = ask("new", "Hey Küche", "--effort", "best")
    assert (refused.code, refused.out) == (2, "")
    assert "effort good, and best is asked for" in refused.err
    assert "--set effort=best" in refused.err
    assert "effort: good" in (tmp_path / "hey_kuche" / "project.yaml").read_text()


def test_new_keeps_what_is_set_and_changes_no_project_that_exists(ask: Ask, tmp_path: Path):
    place = tmp_path / "hey_kitchen"
    for wrong in ("train.stepz=1", "train.steps=-4"):
        assert ask("new", "hey kitchen", "--set", wrong).code == 2
    assert not place.exists()
    assert ask("new", "hey kitchen", "--set", "effort=good", "--set", "train.steps=5000").code == 0
    kept = (place / "project.yaml").read_text()
    assert yaml.safe_load(kept) == {
        "phrase": "hey kitchen", "language": "en", "effort": "good", "train": {"steps": 5000}
    }  # fmt: skip
    refused = ask("new", "hey kitchen", "--set", "train.steps=10")
    assert (refused.code, refused.out) == (2, "")
    assert "exists already, and train.steps=10 is asked for" in refused.err
    assert (place / "project.yaml").read_text() == kept


def test_new_refuses_a_phrase_with_nothing_to_say(ask: Ask, tmp_path: Path):
    assert ask("new", "  ").code == 2
    assert ask("new", "?!").code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_a_run_says_how_to_get_into_the_project(ask: Ask, project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipeline, "run", lambda *_, **__: {"export": {"manifest_path": "models/m.json"}})
    told = ask("run", "--project", str(project.root))
    assert told.out.splitlines()[-1].startswith("next: cd project, then mww-ha devices add kitchen")
    monkeypatch.chdir(project.root)
    assert ask("run").out.splitlines()[-1].startswith("next: mww-ha devices add kitchen")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--board", "nope"], ["no board is called 'nope'", "known boards: generic-s3"]),
        (["--board", "generic-s33"], ["did you mean generic-s3?"]),
        (["--board", "own"], ["the board own needs mic_id", "--substitute mic_id=..."]),
        (["--board", "own", "--substitute", "mic_id=a", "--substitute", "mic_gian=4"], ["did you mean mic_gain?"]),
        (["--name", "../x"], ["is a path, not a device name"]),
        (["--name", ""], ["holds no letter or digit"]),
        (["--name", "a" * 32], ["32 characters", "ESPHome allows 31"]),
        (["--set", "train.steps=0"], ["--set: train.steps is 0"]),
    ],
)
def test_quickstart_says_what_is_wrong_with_the_device_before_it_makes_anything(
    ask: Ask, tmp_path: Path, options: list[str], words: list[str]
):
    answer = ask("quickstart", "hey kitchen", *options)
    assert (answer.code, answer.out) == (2, "")
    for word in words:
        assert word in answer.err
    assert list(tmp_path.iterdir()) == []


def test_the_device_of_a_quickstart_is_named_after_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = {
        tmp_path / "hey_kitchen": "hey-kitchen",
        tmp_path / "Küche Süd": "kuche-sud",
        tmp_path / "a_very_long_phrase_for_a_kitchen_and_more": "a-very-long-phrase-for-a-kitche",
        tmp_path / "123456789_123456789_123456789__x": "123456789-123456789-123456789-x",
        tmp_path / "厨房": "wake-word",
    }
    assert {root: command_line._device_name(root) for root in names} == names
    assert all(clean_host_name(name) == name for name in names.values())
    (tmp_path / "hall").mkdir()
    monkeypatch.chdir(tmp_path / "hall")
    assert command_line._device_name(Path()) == "hall"


def test_runs_are_listed_and_two_are_compared_by_what_differs(ask: Ask, project: Project):
    for id, steps, recall in (("aaaa1111", 2000, 0.5), ("bbbb2222", 4000, 0.75)):
        document = {
            "id": id,
            "started_at": f"2026-11-0{steps // 2000}T00:00:00+00:00",
            "seed": 1,
            "steps": steps,
            "outcome": "done",
            "duration_s": 75.4,
            "metrics": {"recall": recall},
            "config": {"train": {"steps": steps, "batch": 128}},
        }
        project.catalogue.put_run(id, document["started_at"], document)
    listed = ask("runs", "--project", str(project.root)).out.splitlines()
    assert [line.split()[0] for line in listed] == ["id", "bbbb2222", "aaaa1111"]
    assert "1 min 15 s" in listed[1]
    assert "recall 0.75" in listed[1]
    compared = ask("runs", "compare", "aaaa", "bbbb", "--project", str(project.root)).out
    assert [line.split()[0] for line in compared.splitlines()[1:]] == [
        "config.train.steps",
        "id",
        "metrics.recall",
        "started_at",
        "steps",
    ]
    assert ask("runs", "compare", "a", "c", "--project", str(project.root)).code == 2


@pytest.fixture
def manifest() -> str:
    """A model that somebody else made, with its manifest."""
    package = pytest.importorskip("pymicro_wakeword")
    [path] = Path(package.__file__).parent.rglob("alexa.json")
    return str(path)


def test_evaluate_writes_its_report_to_the_file_that_json_names(ask: Ask, tmp_path: Path, manifest: str):
    write_wavs(tmp_path / "clips", 2)
    answer = ask("evaluate", "--model", manifest, "--wake", "clips", "--json", "out.json")
    assert answer.code == 0
    assert answer.out.startswith("'Alexa'")
    assert json.loads((tmp_path / "out.json").read_text())["wake_clips"] == 2
    lines = ask("evaluate", "--model", manifest, "--wake", "clips", "--json").out.splitlines()
    assert {json.loads(line)["type"] for line in lines[:-1]} == {"progress"}
    assert json.loads(lines[-1])["result"]["wake_clips"] == 2


def test_listen_needs_no_project_and_says_how_near_it_was(ask: Ask, tmp_path: Path, manifest: str):
    write_wavs(tmp_path / "clips", 1, seconds=2.0)
    answer = ask("listen", "clips/00000.wav", "--model", manifest)
    assert answer.code == 0
    assert "no detection in 2.0 s; highest score" in answer.out
    assert json.loads(ask("listen", "clips/00000.wav", "--model", manifest, "--json").out.splitlines()[-1])["result"]
    assert ask("listen", "clips/nothing.wav", "--model", manifest).code == 2


# --- Progress --------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_the_start_the_end_and_a_line_every_ten_seconds():
    clock, stream = Clock(), io.StringIO()
    view = PlainView(stream, clock)
    for done in range(101):
        view(Progress(stage="train", done=done * 10, total=1000, unit="steps"))
        clock.now += 0.5
    view.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train: 0/1,000 steps (0 %)"
    assert lines[-1] == "train: 1,000/1,000 steps, 20 steps/s, done in 50 s"
    assert len(lines) == 2 + int((50 - 0.5) / PLAIN_EVERY_S)
    assert lines[1] == "train: 200/1,000 steps (20 %), 20 steps/s, 40 s left"


def test_work_found_done_does_not_count_into_the_rate():
    clock, stream = Clock(), io.StringIO()
    view = PlainView(stream, clock)
    view(Progress(stage="prepare", done=900, total=1000, unit="clips"))
    clock.now += 10
    view(Progress(stage="prepare", done=950, total=1000, unit="clips"))
    assert stream.getvalue().splitlines()[-1] == "prepare: 950/1,000 clips (95 %), 5 clips/s, 10 s left"


def test_the_last_count_of_a_stage_is_said_when_the_next_begins_or_all_ends():
    stream = io.StringIO()
    view = PlainView(stream, Clock())
    view(Progress(stage="one", done=0, unit="files"))
    view(Progress(stage="one", done=7, unit="files"))
    view(Progress(stage="two", done=0, unit="files"))
    view(Progress(stage="two", done=8, unit="files"))
    view.close()
    assert stream.getvalue().splitlines() == ["one: 0 files", "one: 7 files", "two: 0 files", "two: 8 files"]


def test_a_message_without_a_count_is_said_once():
    stream = io.StringIO()
    view = PlainView(stream, Clock())
    for _ in range(3):
        view(Progress(stage="synthesize", message="looking for voices"))
    assert stream.getvalue() == "synthesize: looking for voices\n"


def test_a_json_line_is_a_whole_progress():
    stream = io.StringIO()
    JsonView(stream)(Progress(stage="train", message="best so far", done=5, total=10, unit="steps"))
    [line] = stream.getvalue().splitlines()
    assert json.loads(line) == {
        "type": "progress",
        "stage": "train",
        "message": "best so far",
        "done": 5,
        "total": 10,
        "unit": "steps",
    }


def test_a_terminal_gets_a_bar_with_count_rate_and_message():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    view = LiveView(stream)
    view(Progress(stage="train", message="looking [around]"))
    for done in (0, 5, 10):
        view(Progress(stage="train", message="at [work]", done=done, total=10, unit="steps"))
    view(Progress(stage="export", done=1, unit="checks"))
    view.close()
    text = stream.getvalue()
    for word in ("train", "looking [around]", "at [work]", "10/10 steps", "1 checks"):
        assert word in text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (75, "1 min 15 s"), (7260, "2 h 1 min")])
def test_a_duration_reads_well(seconds: float, text: str):
    assert duration(seconds) == text


# --- Doctor ----------------------------------------------------------------------------------------------------------


def states(items: list[doctor.Item]) -> dict[str, str]:
    return {item.name: item.state for item in items}


def test_doctor_finds_what_is_here_and_says_what_to_do_about_each_gap(ask: Ask):
    answer = ask("doctor", "--json")
    items = {item["name"]: item for item in json.loads(answer.out)["result"]}
    assert items["mww-ha"]["found"].startswith(__version__)
    assert items["Python"]["state"] == "ok"
    assert {"GPU", "voices", "disk", "memory", "esphome", "tensorflow", "tflite-micro"} <= items.keys()
    for item in items.values():
        assert item["state"] == "ok" or item["way_out"]
    assert answer.code == int(any(item["state"] == "broken" for item in items.values()))


def test_doctor_does_not_load_tensorflow():
    script = "import sys; from mww_ha.doctor import examine; examine(None); sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_doctor_sees_an_esphome_that_lives_in_an_environment_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = doctor.importlib.metadata.version

    def version(name: str) -> str:
        if name in ("esphome", "tensorflow"):
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert states(doctor.examine(None))["esphome"] == "gap"
    (tmp_path / "esphome").write_text("#!/bin/sh\n")
    (tmp_path / "esphome").chmod(0o755)
    monkeypatch.setenv("MWW_HA_TRAINING_DIR", str(tmp_path / "training"))
    found = {item.name: item for item in doctor.examine(None)}
    assert found["esphome"].found == f"{tmp_path}/esphome, in an environment of its own"
    assert "mww-ha training install" in found["tensorflow"].way_out


def test_doctor_notices_a_lost_and_a_stray_sound_file(project: Project):
    (project.audio_dir / "ab").mkdir(parents=True)
    for name in ("kept", "stray"):
        (project.audio_dir / "ab" / f"{name}.flac").write_bytes(b"sound")
    clip = {"sha256": "0", "label": Label.WAKE, "origin": Origin.RECORDED, "duration_s": 1.0}
    project.catalogue.add_clips(Clip(id=name, path=f"audio/ab/{name}.flac", **clip) for name in ("kept", "lost"))
    found = {item.name: item for item in doctor.examine(project.root)}
    assert found["catalogue"].state == "ok"
    assert found["sound files"].state == "broken"
    assert "lost.flac" in found["sound files"].found
    assert "stray.flac" in found["stray files"].found


def test_doctor_reads_the_devices_and_names_what_is_wrong_with_one(project: Project):
    assert "devices" not in {item.name for item in doctor.examine(project.root)}
    project.devices_path.write_text("kitchen:\n  template: generic-s3\n")
    [item] = [item for item in doctor.examine(project.root) if item.name == "devices"]
    assert (item.state, item.found) == ("ok", f"{project.devices_path}: kitchen")
    project.devices_path.write_text("kitchen:\n  template: generic-s3\n  adress: 192.0.2.1\n")
    [item] = [item for item in doctor.examine(project.root) if item.name == "devices"]
    assert item.state == "broken"
    assert "adress" in item.found
    assert "address" in item.way_out


def test_doctor_notices_a_lost_and_a_stray_capture(project: Project):
    (project.captures_dir / "ab").mkdir(parents=True)
    (project.captures_dir / "ab" / "stray.wav").write_bytes(b"sound")
    found = {item.name: item for item in doctor.examine(project.root)}
    assert "stray.wav" in found["stray files"].found


def test_doctor_notices_a_damaged_queue_of_the_service(project: Project):
    assert "service" not in states(doctor.examine(project.root))
    state = StateFolder(project.root / STATE_DIR)
    state.open().close()
    state.close()
    assert states(doctor.examine(project.root))["service"] == doctor.OK
    path = project.root / STATE_DIR / "service.sqlite"
    path.write_bytes(path.read_bytes()[:5000] + bytes(100_000))
    broken = next(item for item in doctor.examine(project.root) if item.name == "service")
    assert broken.state == doctor.BROKEN
    assert "mww-ha serve makes a new token" in broken.way_out


def test_doctor_notices_a_damaged_catalogue_and_exits_with_1(ask: Ask, project: Project):
    project.catalogue.close()
    for path in project.root.glob("catalogue.sqlite-*"):
        path.unlink()
    path = project.root / "catalogue.sqlite"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    answer = ask("doctor", "--project", str(project.root))
    assert answer.code == 1
    assert "broken catalogue" in answer.out
    assert "keep a copy" in answer.out


def test_doctor_tells_a_missing_project_that_was_named(ask: Ask, tmp_path: Path):
    assert "broken" not in ask("doctor").out
    for place, says in (("nowhere", "there is no folder nowhere"), (".", "no project.yaml in .")):
        answer = ask("doctor", "--project", place)
        assert answer.code == 1
        assert f"broken project: {says}\n" in answer.out
        assert f'mww-ha new "hey kitchen" --project {place}' in answer.out
    assert "project" not in states(doctor.examine(tmp_path)), "the service may have none yet"


@pytest.mark.parametrize("code", ["SQLITE_READONLY_DIRECTORY", "SQLITE_CANTOPEN"])
def test_doctor_tells_a_missing_permission_from_damage(project: Project, monkeypatch: pytest.MonkeyPatch, code: str):
    state = StateFolder(project.root / STATE_DIR)
    state.open().close()
    state.close()

    def connect(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = getattr(sqlite3, code)
        raise error

    monkeypatch.setattr(sqlite3, "connect", connect)
    found = {item.name: item for item in doctor.examine(project.root)}
    for name in ("catalogue", "service"):
        assert found[name].state == "broken"
        assert "was not looked at" in found[name].found
        assert "nothing is known to be damaged; run it as " in found[name].way_out


def test_doctor_names_a_folder_that_it_may_not_look_into(project: Project, monkeypatch: pytest.MonkeyPatch):
    whole = Path.is_file

    def is_file(path: Path) -> bool:
        if path.is_relative_to(project.root):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    [item] = [item for item in doctor.examine(project.root) if item.name == "project"]
    assert (item.state, item.found) == ("broken", f"{project.root} may not be looked into")

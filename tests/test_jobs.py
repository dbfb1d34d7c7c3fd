"""What is asked for is done once, in order, outlives a restart of the service, and leaves no process behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mww_ha.cli import Session, cli
from mww_ha.errors import InputError
from mww_ha.export.manifest import write_manifest
from mww_ha.schema import Device
from mww_ha.store import Project, open_project
from mww_ha.web import orders
from mww_ha.web.joblog import JobLog, Reader, last_id, segments
from mww_ha.web.jobs import (
    FINISHED_KEPT,
    LONGEST_QUEUE,
    Job,
    JobNotFoundError,
    Jobs,
    JobStateError,
    QueueFullError,
    mww_ha_command,
    read_order,
)
from mww_ha.web.state import FINISHED, Row, State
from mww_ha.web.wire import plain, read

ROOT = Path(__file__).parent.parent
LEASH = ROOT / "mww_ha" / "web" / "leash.py"

SAY = """import json, os, time
def say(**line): print(json.dumps(line), flush=True)
def wait_for(path):
    end = time.monotonic() + 15
    while not os.path.exists(path) and time.monotonic() < end: time.sleep(0.01)
"""


class Bench:
    """A queue whose jobs run little programs: each kind of job the one that stands under its name."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project, self.folder = project, folder
        self.programs: dict[str, str] = {}
        self.told: list[tuple[Job, bool]] = []
        self.state = State(folder / "service.sqlite")
        self.jobs = self.make()

    def make(self) -> Jobs:
        return Jobs(
            self.state,
            self.folder / "jobs",
            self.open,
            notify=lambda job, logged: self.told.append((job, logged)),
            command=self.command,
            grace_s=1.0,
        )

    @contextlib.contextmanager
    def open(self) -> Iterator[Project]:
        project = open_project(self.project.root)
        yield project
        project.catalogue.close()

    def command(self, order: orders.Order, project: Project) -> list[str]:
        if order.kind not in self.programs:
            return mww_ha_command(order, project)
        return [sys.executable, "-c", SAY + textwrap.dedent(self.programs[order.kind])]

    def wait(self, id: str, *states: str, within_s: float = 60.0) -> Job:
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            job = self.jobs.get(id)
            if job.state in (states or FINISHED):
                return job
            time.sleep(0.01)
        raise AssertionError(f"{job} after {within_s} s")

    def log(self, id: str, type: str) -> list[dict[str, object]]:
        return [line.data for line in self.jobs.reader(id).read(10_000) if line.type == type]


@pytest.fixture
def bench(project: Project, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(project, tmp_path / "service")
    made.jobs.start()
    yield made
    made.jobs.close()
    made.state.close()


def wait_until(true: Callable[[], bool], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, f"not within {within_s} s"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# --- running ---------------------------------------------------------------------------------------------------------


def test_a_stage_runs_as_a_child_and_its_error_class_hint_and_exit_code_arrive(bench: Bench):
    job = bench.wait(bench.jobs.add(orders.EvaluateOrder()).id)
    assert (job.state, job.exit_code, job.error) == ("failed", 3, "DataError")
    assert "train has not run" in job.message
    assert "mww-ha run" in job.hint
    assert bench.log(job.id, "error")[0]["error"] == "DataError"


def test_a_rendering_asked_for_here_is_the_one_of_the_command_line(bench: Bench):
    bench.project.models_dir.mkdir()
    (bench.project.models_dir / "toy-01234567.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(1000))
    manifest = bench.project.models_dir / "toy-01234567.json"
    write_manifest(
        manifest,
        phrase="hey kitchen",
        model_file="toy-01234567.tflite",
        author="the tests",
        website="",
        languages=["en"],
        probability_cutoff=0.9,
        sliding_window=5,
        tensor_arena_bytes=30_000,
    )
    bench.project.catalogue.put_model("toy-01234567", {"id": "toy-01234567"})
    order = orders.RenderOrder(name="kitchen", model="toy-01234567", check=False)
    job = bench.wait(bench.jobs.add(order).id)
    assert (job.state, job.exit_code) == ("done", 0), job
    assert Path(job.result["yaml_path"]).is_file()
    assert not job.heavy


def test_the_result_and_progress_of_a_child_are_kept(bench: Bench):
    bench.programs["train"] = """
        say(type="progress", stage="train", message="", done=1, total=2, unit="steps")
        say(type="result", result={"id": "abc"})
    """
    job = bench.wait(bench.jobs.add(orders.TrainOrder()).id)
    assert (job.state, job.result, job.progress) == ("done", {"id": "abc"}, None)
    assert [line["done"] for line in bench.log(job.id, "progress")] == [1.0]
    assert any(told.progress is not None and told.progress.done == 1 for told, _ in bench.told)


def test_a_job_that_ends_while_it_is_asked_for_is_told_as_one_that_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    go_on = bench.folder / "go on"
    bench.programs["train"] = f"""
        say(type="progress", stage="train", message="", done=1, total=2, unit="steps")
        wait_for({str(go_on)!r})
        say(type="result", result=1)
    """
    known_finish, known_job = bench.state.finish_job, bench.state.job
    seen: list[Job] = []

    def finish(id: str, state: str, **outcome: object) -> None:
        known_finish(id, state, **outcome)  # type: ignore[arg-type]
        if not seen:
            seen.append(bench.jobs.get(id))  # its row has ended, and it is among the running still

    monkeypatch.setattr(bench.state, "finish_job", finish)
    id = bench.jobs.add(orders.TrainOrder()).id
    bench.wait(id, "running")

    def job(id: str) -> Row | None:
        row = known_job(id)
        if threading.current_thread() is threading.main_thread() and row is not None and row.state == "running":
            go_on.touch()
            wait_until(lambda: any(told.state in FINISHED for told, _ in bench.told))
        return row

    monkeypatch.setattr(bench.state, "job", job)
    assert bench.jobs.get(id).state == "done"
    assert [(one.state, one.progress) for one in seen] == [("done", None)]


def test_an_error_that_nobody_thought_of_ends_the_job_and_not_the_queue(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    known = bench.programs
    bench.programs["prepare"] = "say(type='result', result=1)"

    class Broken(dict[str, str]):
        def __contains__(self, kind: object) -> bool:
            if kind == "train" and threading.current_thread() is not threading.main_thread():  # not when added
                raise ZeroDivisionError("nobody thought of it")
            return kind in known

        def __getitem__(self, kind: str) -> str:
            return known[kind]

    monkeypatch.setattr(bench, "programs", Broken())
    first = bench.wait(bench.jobs.add(orders.TrainOrder()).id)
    assert (first.state, first.error, first.message) == (
        "failed",
        "ZeroDivisionError",
        "unexpected: nobody thought of it",
    )
    assert bench.wait(bench.jobs.add(orders.PrepareOrder()).id).state == "done"


def test_one_heavy_job_runs_at_a_time_and_a_light_one_beside_it(bench: Bench, toy_device: str):
    beside = str(bench.folder / "beside")
    waits = f"""
        began = time.time(); time.sleep(0.4); wait_for({beside!r})
        say(type="result", result=[began, time.time()])
    """
    times = f"""
        began = time.time(); open({beside!r}, "w").close()
        say(type="result", result=[began, time.time()])
    """
    bench.programs = {"prepare": waits, "flash": waits, "download_voice": times}
    asked = (orders.PrepareOrder(), orders.FlashOrder(device=toy_device), orders.VoiceOrder())
    ids = [bench.jobs.add(order).id for order in asked]
    prepare, flash, voice = (bench.wait(id).result for id in ids)
    assert prepare[1] <= flash[0]
    assert voice[0] < prepare[1]


def test_two_jobs_that_touch_the_same_files_never_run_together(bench: Bench, toy_device: str):
    times = """
        began = time.time(); time.sleep(0.3)
        say(type="result", result=[began, time.time()])
    """
    bench.programs = {"flash": times, "render": times}
    flash = bench.jobs.add(orders.FlashOrder(device=toy_device)).id
    render = bench.jobs.add(orders.RenderOrder(name="hall")).id
    assert bench.wait(flash).result[1] <= bench.wait(render).result[0]


@pytest.fixture
def toy_device(bench: Bench) -> str:
    from mww_ha.devices.known import add_device

    add_device(bench.project, Device(name="kitchen", template="generic-s3"))
    return "kitchen"


def test_progress_in_floods_is_thinned_and_its_end_is_not_lost(bench: Bench):
    bench.programs["train"] = """
        for step in range(20_001):
            print(json.dumps(dict(type="progress", stage="train", message="", done=step, total=20_000, unit="steps")))
    """
    job = bench.wait(bench.jobs.add(orders.TrainOrder()).id)
    done = [line["done"] for line in bench.log(job.id, "progress")]
    assert done[0] == 0
    assert done[-1] == 20_000
    assert len(done) < 100


def test_what_a_child_says_beside_the_protocol_is_in_the_log_without_control_characters(bench: Bench):
    bench.programs["train"] = r"""
        import sys
        print("plain \x1b[31mred"); print('{"type": "progress", "stage": 7}'); print("x" * 3_000_000)
        print("on stderr", file=sys.stderr); sys.exit(1)
    """
    job = bench.wait(bench.jobs.add(orders.TrainOrder()).id)
    said = [str(line.get("text", line.get("message"))) for line in bench.log(job.id, "log")]
    assert "plain \N{REPLACEMENT CHARACTER}[31mred" in said
    assert "on stderr" in said
    assert all(len(text) < 70_000 for text in said)
    assert (job.state, job.exit_code) == ("failed", 1)
    assert "on stderr" in job.message


def test_a_child_that_the_system_kills_is_told_as_that(bench: Bench):
    bench.programs["train"] = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    job = bench.wait(bench.jobs.add(orders.TrainOrder()).id)
    assert (job.state, job.exit_code, job.error) == ("failed", 137, "Killed")
    assert "memory" in job.hint


# --- the queue -------------------------------------------------------------------------------------------------------


def test_the_same_words_are_queued_once(bench: Bench):
    bench.programs = {"train": "time.sleep(30)", "prepare": "time.sleep(30)"}
    running = bench.jobs.add(orders.TrainOrder())
    bench.wait(running.id, "running")
    assert bench.jobs.add(orders.PrepareOrder()).id == bench.jobs.add(orders.PrepareOrder()).id
    assert bench.jobs.add(orders.TrainOrder()).id != running.id


def test_a_queue_that_nobody_will_wait_for_is_refused(bench: Bench):
    bench.programs = {"train": "time.sleep(30)"}
    for seed in range(LONGEST_QUEUE):
        bench.jobs.add(orders.TrainOrder(seed=seed))
    with pytest.raises(QueueFullError):
        for seed in range(LONGEST_QUEUE, LONGEST_QUEUE + 2):
            bench.jobs.add(orders.TrainOrder(seed=seed))


def test_a_device_or_model_that_is_not_there_is_refused_when_asked_for(bench: Bench, toy_device: str):
    with pytest.raises(InputError, match=f"did you mean {toy_device}"):
        bench.jobs.add(orders.FlashOrder(device="kitchn"))
    with pytest.raises(InputError, match="no model hey-01234567"):
        bench.jobs.add(orders.FlashOrder(device=toy_device, model="hey-01234567"))
    with pytest.raises(InputError, match="a device"):
        bench.jobs.add(orders.FlashOrder())
    assert bench.jobs.list() == []


def test_only_the_newest_jobs_are_remembered(project: Project, tmp_path: Path):
    bench = Bench(project, tmp_path / "service")
    for number in range(FINISHED_KEPT + 5):
        bench.state.add_job(f"{number:012x}", str(project.root), {"kind": "train", "seed": None}, "", "")
        bench.state.finish_job(f"{number:012x}", "done")
    JobLog(tmp_path / "service" / "jobs" / f"{0:012x}").append("state", {})
    bench.jobs.start()
    assert len(bench.jobs.list(limit=1000)) == FINISHED_KEPT
    assert not (tmp_path / "service" / "jobs" / f"{0:012x}").exists()
    with pytest.raises(JobNotFoundError):
        bench.jobs.get(f"{0:012x}")
    bench.jobs.close()


# --- ending ----------------------------------------------------------------------------------------------------------


def test_a_cancelled_stage_is_asked_first_and_ends_in_order(bench: Bench):
    bench.programs["train"] = """
        try:
            say(type="progress", stage="train", message="at work")
            time.sleep(60)
        except KeyboardInterrupt:
            say(type="error", error="JobStoppedError", message="stopped", hint=""); raise SystemExit(130)
    """
    bench.jobs._grace_s = 30.0  # it ends when it has been asked, however long that takes
    id = bench.jobs.add(orders.TrainOrder()).id
    wait_until(lambda: bool(bench.log(id, "progress")))
    assert bench.jobs.cancel(id).stopping
    job = bench.wait(id)
    assert (job.state, job.exit_code) == ("cancelled", 130)
    assert bench.log(id, "error")[0]["error"] == "JobStoppedError"
    with pytest.raises(JobStateError):
        bench.jobs.cancel(id)


def test_what_ignores_the_request_is_killed_after_the_grace_time_with_all_its_children(bench: Bench):
    bench.programs["train"] = """
        import os, signal, subprocess, sys
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        deaf = "import time, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
        children = [subprocess.Popen([sys.executable, "-c", deaf], start_new_session=own) for own in (False, True)]
        say(type="progress", stage="train", message=" ".join(str(p) for p in [os.getpid(), *(c.pid for c in children)]))
        time.sleep(60)
    """
    id = bench.jobs.add(orders.TrainOrder()).id
    wait_until(lambda: bool(bench.log(id, "progress")))
    pids = [int(pid) for pid in str(bench.log(id, "progress")[0]["message"]).split()]
    assert all(is_alive(pid) for pid in pids)
    began = time.monotonic()
    bench.jobs.cancel(id)
    assert bench.wait(id).state == "cancelled"
    assert 0.9 < time.monotonic() - began < 10
    wait_until(lambda: not any(is_alive(pid) for pid in pids), 10)


def test_a_waiting_job_can_be_cancelled_and_never_runs(bench: Bench, tmp_path: Path):
    bench.programs = {"train": "time.sleep(60)", "prepare": f"open({str(tmp_path / 'ran')!r}, 'w')"}
    train, prepare = bench.jobs.add(orders.TrainOrder()).id, bench.jobs.add(orders.PrepareOrder()).id
    assert bench.jobs.cancel(prepare).state == "cancelled"
    bench.jobs.cancel(train)
    bench.wait(train)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(JobNotFoundError):
        bench.jobs.cancel("0" * 12)


def test_a_finished_job_can_be_queued_again_and_forgotten(bench: Bench):
    bench.programs["train"] = "raise SystemExit(3)"
    first = bench.wait(bench.jobs.add(orders.TrainOrder(seed=5)).id)
    bench.programs["train"] = "pass"
    again = bench.jobs.retry(first.id)
    assert (again.retry_of, again.order) == (first.id, first.order)
    assert bench.wait(again.id).state == "done"
    bench.jobs.remove(first.id)
    with pytest.raises(JobNotFoundError):
        bench.jobs.get(first.id)
    assert not (bench.folder / "jobs" / first.id).exists()


def test_an_orderly_end_marks_what_runs_and_keeps_what_waits(bench: Bench):
    bench.programs = {"train": "time.sleep(60)", "prepare": "pass"}
    train = bench.jobs.add(orders.TrainOrder()).id
    bench.wait(train, "running")
    prepare = bench.jobs.add(orders.PrepareOrder()).id
    bench.jobs.close()
    assert bench.jobs.get(train).state == "interrupted"
    assert bench.jobs.get(prepare).state == "queued"
    bench.jobs = bench.make()
    bench.jobs.start()
    assert bench.wait(prepare).state == "done"
    bench.programs["train"] = "pass"
    assert bench.wait(bench.jobs.retry(train).id).state == "done"


def test_an_end_waits_for_the_last_word_of_a_job(project: Project, tmp_path: Path):
    bench = Bench(project, tmp_path / "service")
    bench.programs["train"] = "pass"
    telling, told = threading.Event(), list[str]()

    def slowly(job: Job, logged: bool) -> None:
        if logged and job.state == "done":
            telling.set()
            time.sleep(0.3)
            told.append(job.id)

    bench.jobs = Jobs(bench.state, bench.folder / "jobs", bench.open, notify=slowly, command=bench.command)
    bench.jobs.start()
    id = bench.jobs.add(orders.TrainOrder()).id
    assert telling.wait(30)
    bench.jobs.close()
    bench.state.close()
    assert told == [id]


HOST = """
import contextlib, sys, time
from pathlib import Path
from mww_ha.store import open_project
from mww_ha.web import orders
from mww_ha.web.jobs import Jobs
from mww_ha.web.state import State
root, folder = Path(sys.argv[1]), Path(sys.argv[2])
jobs = Jobs(State(folder / "service.sqlite"), folder / "jobs", lambda: contextlib.nullcontext(open_project(root)),
            notify=lambda job, logged: print(job.id, job.state, bool(job.progress), flush=True), grace_s=2.0)
jobs.start()
jobs.add(orders.RunOrder(until="synthesize"))
jobs.add(orders.EvaluateOrder())
time.sleep(60)
"""


def test_a_killed_service_leaves_no_process_and_the_next_one_goes_on(tmp_path: Path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "project.yaml").write_text(
        "phrase: hey kitchen\nsynthesize: {engines: [espeak], wake_clips: 100000}\n"
    )
    folder = tmp_path / "service"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOST, str(tmp_path / "project"), str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        for line in service.stdout:
            if line.split()[1:] == ["running", "True"]:  # the real stage is at work
                break
        stages = [pid for pid, arguments in processes() if f"--project={tmp_path / 'project'}" in arguments]
        assert len(stages) >= 2, "a leash and a stage"
        service.kill()
    project = open_project(tmp_path / "project")
    bench = Bench(project, folder)
    bench.jobs.start()
    # The next service's first job waits until the last one's is gone: never two at the same files.
    queued = next(job for job in bench.jobs.list() if job.kind == "evaluate")
    assert bench.wait(queued.id).exit_code == 3
    assert not any(is_alive(pid) for pid in stages)
    ran = next(job for job in bench.jobs.list() if job.kind == "run")
    assert (ran.state, ran.hint) == ("interrupted", "queue it again: it goes on where it stopped")
    assert bench.log(ran.id, "state")[-1]["state"] == "interrupted"
    again = bench.jobs.retry(ran.id)
    bench.wait(again.id, "running")
    bench.jobs.close()
    assert bench.jobs.get(again.id).state == "interrupted"
    project.catalogue.close()


def test_nothing_starts_before_the_children_of_a_killed_service_are_gone(project: Project, tmp_path: Path):
    bench = Bench(project, tmp_path / "service")
    bench.programs["train"] = "pass"
    (tmp_path / "service" / "jobs").mkdir()
    with (tmp_path / "service" / "jobs" / "leashed.lock").open("ab") as leash:
        fcntl.flock(leash, fcntl.LOCK_SH)  # as every leash holds it for as long as it lives
        bench.jobs.start()
        id = bench.jobs.add(orders.TrainOrder()).id
        time.sleep(0.3)
        assert bench.jobs.get(id).state == "queued"
    assert bench.wait(id).state == "done"
    bench.jobs.close()


def processes() -> list[tuple[int, list[str]]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append((int(path.parent.name), path.read_text().split("\0")))
    return found


def parent_of(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def test_a_killed_leash_takes_its_command_along(tmp_path: Path):
    script = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    command = [sys.executable, "-I", "-S", str(LEASH), "30", "-1", "--", sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as leash:
        wait_until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
        leash.kill()
    wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())), 10)


@pytest.mark.parametrize(("program", "code"), [("pass", 0), ("raise SystemExit(7)", 7), ("import os; os.abort()", 134)])
def test_a_leash_tells_the_exit_code_of_its_command(program: str, code: int):
    command = [sys.executable, "-I", "-S", str(LEASH), "1", "-1", "--", sys.executable, "-I", "-S", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as leash:
        assert leash.wait(30) == code


def test_a_signal_for_the_leash_is_ignored_from_the_moment_its_command_runs(tmp_path: Path):
    slow = tmp_path / "leash.py"  # a busy machine: the command is at work before the leash goes on
    text = LEASH.read_text()
    assert text.count("    for number in ignored:") == 1
    slow.write_text(text.replace("    for number in ignored:", "    time.sleep(1)\n    for number in ignored:"))
    script = f"import time; open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(2); raise SystemExit(7)"
    command = [sys.executable, "-I", "-S", str(slow), "30", "-1", "--", sys.executable, "-I", "-S", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as leash:
        wait_until((tmp_path / "up").exists)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            leash.send_signal(number)
        assert leash.wait(30) == 7


def test_sigint_for_the_service_alone_does_not_reach_the_command(bench: Bench):
    told = bench.folder / "told"
    bench.programs["train"] = f"say(type='progress', stage='train', message='up'); wait_for({str(told)!r})"
    id = bench.jobs.add(orders.TrainOrder()).id
    wait_until(lambda: bool(bench.log(id, "progress")))
    ours = [pid for pid, arguments in processes() if str(LEASH) in arguments and parent_of(pid) == os.getpid()]
    assert ours
    for pid in ours:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
    time.sleep(0.3)
    told.touch()
    assert bench.wait(id).state == "done"


# --- orders ----------------------------------------------------------------------------------------------------------


@given(st.data())
def test_a_text_of_a_user_is_never_an_option(data: st.DataObject):
    texts = (
        st.sampled_from(["--force", "-x", "--", "a b", "a\n", "../x", "kitchen;ls", "$(ls)", "ä", "", "k\0"])
        | st.text()
    )
    kind = data.draw(st.sampled_from(["render", "confirm", "rollback", "canary", "flash", "download_voice"]))
    field = {"render": "name", "download_voice": "name"}.get(kind, "device")
    text = data.draw(texts)
    try:
        order = read(
            {"kind": kind, field: text} | ({"model": "hey-01234567"} if kind == "canary" else {}), orders.AnyOrder, "it"
        )
    except InputError:
        return
    value = getattr(order, field)
    assert value == text
    assert value.isascii()
    assert not value.startswith("-")
    assert value.isprintable()
    assert not set(value) & set("/\\ ;$")


def every_order() -> list[orders.Order]:
    return [
        orders.SynthesizeOrder(),
        orders.PrepareOrder(),
        orders.TrainOrder(seed=7),
        orders.EvaluateOrder(),
        orders.ExportOrder(),
        orders.RunOrder(),
        orders.RunOrder(until="train"),
        orders.RetrainOrder(),
        orders.RetrainOrder(force=True, fresh=True),
        orders.RetrainOrder(fresh=False),
        orders.RenderOrder(name="kitchen", board="generic-s3", model="toy-01234567", check=False),
        orders.FlashOrder(device="kitchen", model="toy-01234567", backend="builder", dry_run=True, force=True),
        orders.FlashOrder(every=True),
        orders.ConfirmOrder(device="kitchen"),
        orders.RollbackOrder(device="kitchen", backend="esphome", dry_run=True),
        orders.CanaryOrder(device="kitchen", model="toy-01234567", backend="handoff", dry_run=True),
        orders.VoiceOrder(),
        orders.VoiceOrder(name="en_US-lessac-medium"),
        orders.InstallTrainingOrder(),
    ]


def test_every_kind_of_job_is_a_command_line_that_mww_ha_takes(bench: Bench, toy_device: str):
    bench.project.models_dir.mkdir()
    (bench.project.models_dir / "toy-01234567.json").write_text("{}")
    bench.project.catalogue.put_model("toy-01234567", {"id": "toy-01234567"})
    assert {order.kind for order in every_order()} == set(orders.KINDS)
    for order in every_order():
        command = mww_ha_command(order, bench.project)
        json_flag, project_option, *rest = command[command.index("mww_ha") + 1 :]
        assert (json_flag, project_option) == ("--json", f"--project={bench.project.root.resolve()}")
        found: click.Command = cli
        while isinstance(found, click.Group) and rest:
            found = found.commands[rest.pop(0)]
        with found.make_context("it", rest, obj=Session()):  # raises for what the command does not take
            pass


def test_an_order_reads_back_as_it_was_written():
    for order in every_order():
        assert read_order(json.loads(json.dumps(plain(order)))) == order
    with pytest.raises(InputError, match="no job is of the kind"):
        read_order({"kind": "rm"})


# --- the log ---------------------------------------------------------------------------------------------------------


def test_the_log_is_bounded_and_a_late_reader_sees_where_it_begins(tmp_path: Path):
    log = JobLog(tmp_path / "log", segment_bytes=2000)
    early = Reader(tmp_path / "log")
    for number in range(500):
        log.append("log", {"text": f"line {number + 1}"})
        if number == 10:
            assert [line.id for line in early.read(5)] == [1, 2, 3, 4, 5]
    assert sum(path.stat().st_size for path in segments(tmp_path / "log")) <= 4100
    assert len(segments(tmp_path / "log")) == 2
    late = [line.id for line in early.read(1000)]
    assert late[0] > 6
    assert late == list(range(late[0], 501))
    assert [line.id for line in Reader(tmp_path / "log", after=490).read()] == list(range(491, 501))
    log.close()


def test_reading_while_it_is_written_gives_every_line_once(tmp_path: Path):
    log, seen = JobLog(tmp_path / "log", segment_bytes=100_000), list[int]()

    def write() -> None:
        for number in range(1000):
            log.append("log", {"text": str(number)})

    writer = threading.Thread(target=write)
    reader = Reader(tmp_path / "log")
    writer.start()
    while len(seen) < 1000:
        seen += [line.id for line in reader.read(37)]
    writer.join()
    log.close()
    assert seen == list(range(1, 1001))


def test_a_line_torn_by_a_kill_is_passed_over_and_the_next_writer_goes_on(tmp_path: Path):
    log = JobLog(tmp_path / "log")
    log.append("log", {"text": "whole"})
    log.close()
    with segments(tmp_path / "log")[-1].open("ab") as file:
        file.write(b'{"id": 2, "at": "20')
    assert [line.id for line in Reader(tmp_path / "log").read()] == [1]
    assert last_id(tmp_path / "log") == 1
    after = JobLog(tmp_path / "log")
    after.append("state", {"state": "interrupted"})
    after.close()
    assert [(line.id, line.type) for line in Reader(tmp_path / "log").read()] == [(1, "log"), (2, "state")]


def test_a_project_of_a_newer_version_of_the_queue_is_refused(tmp_path: Path):
    import sqlite3

    from mww_ha.errors import ProjectError

    with contextlib.closing(sqlite3.connect(tmp_path / "service.sqlite")) as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(ProjectError, match="newer"):
        State(tmp_path / "service.sqlite")


def test_the_queues_folder_is_nobody_elses(bench: Bench):
    assert bench.folder.stat().st_mode & 0o077 == 0
    assert (bench.folder / "service.sqlite").stat().st_mode & 0o077 == 0

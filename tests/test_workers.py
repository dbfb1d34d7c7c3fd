"""Work that is spread over processes gives what one process gives, and no process is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mww_ha.errors import AudioFileError, StorageError, ToolError
from mww_ha.workers import count_processes, run_tasks

_prepared: list[str] = []


def square(number: int) -> int:
    return number * number


def prepare(text: str) -> None:
    _prepared.append(text)


def read_prepared(number: int) -> str:
    return f"{_prepared[-1]} {number}"


def complain(name: str) -> None:
    raise AudioFileError(f"{name} is not sound", hint="convert it")


def fail_to_prepare(path: str) -> None:
    raise StorageError(f"no space left to write {path}", hint="free some space")


def vanish(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def wait_in(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(120)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_task_gives_its_result(processes: int) -> None:
    tasks = [(n,) for n in range(20)]
    assert sorted(run_tasks(square, tasks, processes=processes)) == sorted(n * n for n in range(20))


@pytest.mark.parametrize("processes", [1, 2])
def test_every_process_is_prepared_before_its_first_task(processes: int) -> None:
    found = run_tasks(read_prepared, [(1,), (2,)], processes=processes, prepare=prepare, arguments=("pool",))
    assert sorted(found) == ["pool 1", "pool 2"]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_arrives_whole(processes: int) -> None:
    with pytest.raises(AudioFileError, match=r"b\.wav is not sound") as caught:
        list(run_tasks(complain, [("b.wav",), ("b.wav",)], processes=processes))
    assert caught.value.hint == "convert it"


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_while_getting_ready_arrives_whole(processes: int) -> None:
    with pytest.raises(StorageError, match="no space left") as caught:
        list(run_tasks(square, [(1,), (2,)], processes=processes, prepare=fail_to_prepare, arguments=("x",)))
    assert caught.value.hint == "free some space"


def test_a_killed_worker_is_an_error_with_a_way_out() -> None:
    with pytest.raises(ToolError, match="killed") as caught:
        list(run_tasks(vanish, [(n,) for n in range(4)], processes=2))
    assert "memory" in caught.value.hint


def test_no_tasks_are_no_work() -> None:
    assert list(run_tasks(square, [], processes=4)) == []


def test_nothing_is_left_open_or_running() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    list(run_tasks(square, [(1,), (2,)], processes=2))  # what multiprocessing itself keeps is open from now on
    before = open_files()
    for _ in range(3):
        assert sorted(run_tasks(square, [(1,), (2,)], processes=2)) == [1, 4]
    assert multiprocessing.active_children() == []
    assert open_files() <= before


_PARENT = """
import sys
from test_workers import wait_in
from mww_ha.workers import run_tasks

if __name__ == "__main__":
    list(run_tasks(wait_in, [(sys.argv[1],)] * 2, processes=2))
"""


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    pids = tmp_path / "pids"
    pids.mkdir()
    here = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    parent = subprocess.Popen([sys.executable, script, pids], env=os.environ | {"PYTHONPATH": here})
    until = time.monotonic() + 60
    while len(list(pids.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    workers = [int(path.name) for path in pids.iterdir()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    until = time.monotonic() + 60
    while any(map(_is_running, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(_is_running, workers))


def test_as_many_processes_as_asked_for_or_as_there_are_cores() -> None:
    assert count_processes(3) == 3
    assert 1 <= count_processes() <= (os.cpu_count() or 1)

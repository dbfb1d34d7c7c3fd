"""The core of the capture component is right at every boundary, and free of overruns and races.

It knows nothing of ESPHome, so each file of ``capture_core`` is a program: compiled with the sanitizers, and run.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMPONENT = HERE.parent / "esphome_templates" / "components" / "mww_capture"
STRICT = ("g++", "-std=gnu++20", "-O0", "-g1", "-Wall", "-Wextra", "-Werror", "-pthread")
CORE = ("clip_ring.h", "wav.h", "http_post.h", "capture_queue.h", "capture_core.h")

STANDARD = {"<deque>", "<memory>", "<string>", "<utility>", "<vector>"}

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def run_program(source: Path, folder: Path, *sanitizers: str) -> None:
    """Compiles ``source`` strictly, runs it, and fails with what either of the two says."""
    program = folder / source.stem
    compiled = subprocess.run(
        [*STRICT, f"-I{COMPONENT}", *sanitizers, "-fno-sanitize-recover=all", str(source), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr
    ran = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "ok\n"), ran.stderr


@pytest.mark.parametrize("name", ["test_ring", "test_wire", "test_queue", "test_core"])
def test_the_core_does_what_its_programs_check_under_address_and_undefined_behaviour_sanitizers(name, tmp_path):
    run_program(HERE / "capture_core" / f"{name}.cpp", tmp_path, "-fsanitize=address,undefined")


def test_the_microphones_task_and_the_main_loop_do_not_race_under_the_thread_sanitizer(tmp_path):
    run_program(HERE / "capture_core" / "test_ring_threads.cpp", tmp_path, "-fsanitize=thread")


def test_every_program_is_run():
    listed = {"test_ring", "test_wire", "test_queue", "test_core", "test_ring_threads"}
    assert {path.stem for path in (HERE / "capture_core").glob("*.cpp")} == listed


@pytest.mark.parametrize("name", CORE)
def test_the_core_includes_nothing_of_esphome_and_nothing_of_an_operating_system(name):
    text = (COMPONENT / name).read_text()
    included = {line.split()[1] for line in text.splitlines() if line.startswith("#include")}
    ours = {f'"{other}"' for other in CORE}
    foreign = {i for i in included - ours if not (i.startswith("<c") or i in STANDARD)}
    assert not foreign

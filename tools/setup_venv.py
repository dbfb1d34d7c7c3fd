"""Makes or renews the private environment in ``.venv`` from a hash-pinned lock file. Standard library only.

A copy of the lock file inside the environment, written last, says that it is complete. Without one the
environment is made again from the start; pip's own cache saves the downloads. One set-up runs at a time: its
child processes hold the same lock, so that one that outlives a killed set-up is waited for too.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOG = ROOT / ".venv-setup.log"
DOWNLOAD_MB = 800  # requirements.lock on Linux x86-64, Python 3.11, measured: 776; TensorFlow is 572 of them
NEEDED_GB = {False: 4.0, True: 1.0}  # free space asked for a new environment, and for renewing one


def main(lock_name: str) -> int:
    """Exit code: 0, or one of the command line's (4 missing, 7 offline, 8 disk, 130 stopped)."""
    lock = ROOT / lock_name
    stamp = VENV / f"installed-{lock_name}"
    with (ROOT / ".venv.lock").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this environment is at work; waiting for it")
            fcntl.flock(guard, fcntl.LOCK_EX)
        wanted = lock.read_bytes()
        if stamp.is_file() and stamp.read_bytes() == wanted:
            return 0
        started = time.monotonic()
        code = install(lock, guard.fileno())
        if code == 0:
            part = stamp.with_suffix(".part")
            part.write_bytes(wanted)
            part.replace(stamp)
            LOG.unlink(missing_ok=True)
            say(f"environment ready after {duration(time.monotonic() - started)}; the next start is instant")
        return code


def install(lock: Path, guard: int) -> int:
    """Everything ``lock`` names, and a path file for this checkout."""
    stamps = list(VENV.glob("installed-*"))
    free_gb = shutil.disk_usage(ROOT).free / 1e9
    needed_gb = NEEDED_GB[bool(stamps)]
    if free_gb < needed_gb:
        say(f"{ROOT} has {free_gb:.1f} GB left, the set-up needs {needed_gb:.0f} GB", "free some space, run it again")
        return 8
    version = platform.python_version()
    if stamps and (VENV / "bin" / "python").exists():
        say(f"renewing the environment in {VENV}")
    else:
        if VENV.exists():
            say(f"removing an unfinished environment in {VENV}")
        say(
            f"one-time set-up in {VENV} with Python {version}: about {DOWNLOAD_MB} MB to download, 3 GB on disk,"
            " some minutes"
        )
        shutil.rmtree(VENV, ignore_errors=True)
        command = [sys.executable, "-m", "venv", str(VENV)]
        made = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=[guard])
        if made.returncode:
            why = (made.stdout + made.stderr).strip()
            say(f"python -m venv failed: {why}", "Debian, Ubuntu: sudo apt install python3-venv")
            return 4
    for stamp in stamps:
        stamp.unlink()
    code = pip_install(lock, guard)
    if code == 0:
        [site] = (VENV / "lib").glob("python3.*/site-packages")
        # Relative to its own folder, so that a moved checkout still finds itself.
        (site / "mww_ha_checkout.pth").write_text(os.path.relpath(ROOT, site) + "\n", encoding="utf-8")
    return code


def pip_install(lock: Path, guard: int) -> int:
    """Runs pip with one line of news on a terminal and the whole story in the log."""
    command = [
        str(VENV / "bin" / "python"), "-m", "pip", "install", "--no-input", "--disable-pip-version-check",
        "--progress-bar", "off", "--no-deps", "--require-hashes", "-r", str(lock),
    ]  # fmt: skip
    live = sys.stderr.isatty()
    total = sum(1 for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line)
    seen = 0
    with LOG.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1, pass_fds=[guard]
        )
        signal.signal(signal.SIGTERM, lambda *_: (process.terminate(), sys.exit(130)))
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                seen += line.startswith("Collecting ")
                if live and re.match(r"\s*(Collecting|Downloading|Using cached|Installing|Building)\s", line):
                    text = f"  [{min(seen, total)}/{total}] {line.strip()}"[: shutil.get_terminal_size().columns - 1]
                    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        finally:
            if live:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
    return explain(LOG.read_text(encoding="utf-8", errors="replace")) if code else 0


def explain(log: str) -> int:
    """What pip's failure means to the user; the exit code for it."""
    last = [line.strip() for line in log.splitlines() if line.startswith("ERROR")]
    if "No space left on device" in log or "Disk quota exceeded" in log:
        say("the disk is full", "free 4 GB and run the same command again")
        return 8
    if re.search(r"Retrying \(|Failed to establish a new connection|Name or service not known|Temporary failure", log):
        say("no connection to the package index", "check the network, then run the same command again")
        return 7
    if "DO NOT MATCH THE HASHES" in log:
        say(f"a downloaded package differs from what the lock file promises; see {LOG}", "do not use this mirror")
        return 6
    if missing := re.search(r"No matching distribution found for (\S+)", log):
        system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        say(f"there is no {missing.group(1)} for {system}", "use Linux (glibc 2.35 or newer) or a Mac with an M chip")
        return 4
    say(f"pip failed: {last[-1] if last else 'no reason given'}", f"the whole story is in {LOG}")
    return 6


def say(message: str, hint: str = "") -> None:
    """One line, and the way out below it."""
    print(f"mww-ha: {message}" + (f"\n  {hint}" if hint else ""), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``75`` → ``1 min 15 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except KeyboardInterrupt:
        say("stopped; run the same command again to go on")
        sys.exit(130)
    except OSError as error:
        say(f"the set-up failed: {error}", "check space and permissions, then run the same command again")
        sys.exit(8)

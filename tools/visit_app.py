"""Runs inside the root that try_addon.py made: starts the app, visits it as Home Assistant would, and ends it.

    python3 -c "$(cat visit_app.py)" ENTRYPOINT HEALTHCHECK PHRASE

The first two are command lines as JSON. Prints one JSON object with what it saw. The addresses of Home Assistant's
ingress and of another app are on the loopback of this network. With a project in /data nothing is set up. Standard
library only: it runs on the image's own Python.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

INGRESS, OTHER_APP = "172.30.32.2", "172.30.33.9"
BASE = "/api/hassio_ingress/a-session"
PATIENCE_S = 60.0
ADMINISTRATOR = "the-one"  # no Home Assistant is here that could be asked who is


def ask(source: str, method: str, path: str, body: Any = None, user: str = ADMINISTRATOR) -> tuple[int, str]:
    """Status and text of an answer; (0, "") where nobody answers."""
    headers = {"X-Ingress-Path": BASE, "X-Remote-User-Id": user, "Content-Type": "application/json"}
    visit = http.client.HTTPConnection("127.0.0.1", 8099, timeout=10, source_address=(source, 0))
    try:
        visit.request(method, path, None if body is None else json.dumps(body), headers)
        answer = visit.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        visit.close()


def wait_for(true: Any) -> float | None:
    """Seconds until it is so; None when it never was."""
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE_S:
        if true():
            return round(time.monotonic() - started, 1)
        time.sleep(0.1)
    return None


def main(entrypoint: list[str], healthcheck: list[str], phrase: str) -> None:
    """One life of the app."""
    service = subprocess.Popen(entrypoint, env={**os.environ, "MWW_HA_ADMINS": ADMINISTRATOR}, start_new_session=True)
    try:
        seen = look_around(healthcheck, phrase)
        started = time.monotonic()
        service.send_signal(signal.SIGTERM)
        seen["exit_code"] = service.wait(PATIENCE_S)
        seen["ended_after_s"] = round(time.monotonic() - started, 1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.pid, signal.SIGKILL)  # what is left of it would hold the pipe that somebody waits for
    print(json.dumps(seen))


def look_around(healthcheck: list[str], phrase: str) -> dict[str, Any]:
    """What the running app answers."""
    seen: dict[str, Any] = {}
    healthy = wait_for(lambda: subprocess.run(healthcheck, capture_output=True, check=False).returncode == 0)
    seen["healthy_after_s"] = healthy
    status, page = ask(INGRESS, "GET", "/")
    seen["page"] = status == 200 and f'<base href="{BASE}/">' in page
    seen["other_app"] = ask(OTHER_APP, "GET", "/")[0]
    seen["was_there"] = ask(INGRESS, "GET", "/api/project")[0] == 200
    if not seen["was_there"]:
        seen["set_up_by_somebody"] = ask(INGRESS, "POST", "/api/setup", {"phrase": phrase}, user="somebody")[0]
        seen["set_up"] = ask(INGRESS, "POST", "/api/setup", {"phrase": phrase})[0]
    seen["project_after_s"] = wait_for(lambda: ask(INGRESS, "GET", "/api/project")[0] == 200)
    told = json.loads(ask(INGRESS, "GET", "/api/project")[1] or "{}")
    seen["phrase"], seen["version"] = told.get("phrase"), told.get("version")
    seen["training"] = json.loads(ask(INGRESS, "GET", "/api/training")[1] or "{}").get("state")
    doctor = json.loads(ask(INGRESS, "GET", "/api/doctor")[1] or "[]")
    seen["broken"] = [item["name"] for item in doctor if item["state"] == "broken"]
    seen["esphome"] = [item["found"] for item in doctor if item["name"] == "esphome"]
    return seen


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])

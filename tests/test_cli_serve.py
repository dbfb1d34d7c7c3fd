"""``mww-ha serve`` says once how to get in, takes captures of devices it knows, and ends when it is told to."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request

from host_device import free_port
from test_cli import start

from mww_ha.store import Project
from mww_ha.web.devices import list_own_addresses


def answer(address: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as got:
            return int(got.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def test_the_service_is_reached_with_its_token_alone_and_ends_on_a_signal(project: Project):
    page, devices = free_port(), free_port()
    ports = ["--port", str(page), "--device-port", str(devices), "--device-host", "127.0.0.1"]
    service = start("serve", "--project", str(project.root), *ports, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    watchdog = threading.Timer(60, service.kill)
    watchdog.start()
    try:
        said = ""
        while f"port {devices}" not in said:
            line = service.stderr.readline()
            assert line, said
            said += line
        token = re.search(r"token=(\S+)", said)[1]
        assert answer(f"http://127.0.0.1:{page}/") == 401
        assert answer(f"http://127.0.0.1:{page}/api/jobs", Authorization=f"Bearer {token}") == 200
        assert answer(f"http://127.0.0.1:{devices}/api/jobs", Authorization=f"Bearer {token}") == 404
        service.send_signal(signal.SIGINT)
        out, rest = service.communicate(timeout=30)
    finally:
        watchdog.cancel()
        service.kill()
    assert service.returncode == 0
    assert out == ""
    assert token not in rest
    assert "Traceback" not in rest


def test_open_to_the_house_it_says_where_others_find_it_and_a_foreign_address_is_refused(project: Project):
    page = free_port()
    common = ["serve", "--project", str(project.root), "--no-devices", "--port", str(page)]
    refused = start(*common, "--host", "192.0.2.7", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, said = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert "192.0.2.7" in said
    assert "choose another --host" in said

    service = start(*common, "--host", "0.0.0.0", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    watchdog = threading.Timer(60, service.kill)
    watchdog.start()
    try:
        told = []
        for line in iter(service.stderr.readline, ""):
            told.append(line)
            if "shown this once" in line:
                break
    finally:
        watchdog.cancel()
        service.kill()
        service.communicate()
    others = [line for line in told if "from another device: http://" in line]
    assert len(others) == min(len(list_own_addresses()), 3)
    assert all(f":{page}/?token=" in line for line in others)

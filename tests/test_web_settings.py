"""Settings are changed from the page as by hand, and a project goes out of one service and into another."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fake_home_assistant import TOKEN, FakeHomeAssistant
from lived_in import Household, make_household
from test_web import (
    Site,
    _nothing_blocks_the_loop,  # noqa: F401  here too
    opened_site,
    read_events,
)

from mww_ha.ha.connection import find_access
from mww_ha.store import Project, open_project
from mww_ha.web.app import Options
from mww_ha.web.settings import measure_storage
from mww_ha.web.setup import open_setup

STRANGER = {"X-Ingress-Path": "/api/hassio_ingress/x", "X-Remote-User-Id": "u1", "X-Remote-User-Name": "guest"}


@pytest.fixture
async def site(project: Project) -> AsyncIterator[Site]:
    async with opened_site(project.root) as made:
        yield made


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory) -> Household:
    """Only to be read."""
    return make_household(tmp_path_factory.mktemp("settings") / "home", tmp_path_factory.getbasetemp(), waiting=3)


async def change(site: Site, **changes: Any) -> tuple[int, Any]:
    rows = [{"key": key.replace("__", "."), "value": value} for key, value in changes.items()]
    status, answer, _ = await site.ask("PUT", "/api/settings", json={"changes": rows})
    return status, answer


# --- settings --------------------------------------------------------------------------------------------------------


async def test_every_setting_is_told_and_a_change_stands_in_the_users_file(project: Project, site: Site):
    path = project.root / "project.yaml"
    path.write_text("phrase: hey kitchen  # ours\ntrain: {steps: 300}\n")
    rows = {row["key"]: row for row in await site.get("/api/settings")}
    assert (rows["train.steps"]["value"], rows["train.steps"]["default"], rows["train.steps"]["is_set"]) == (
        300, 1600, True,
    )  # fmt: skip
    assert (rows["train.batch"]["is_set"], rows["effort"]["choices"]) == (False, ["quick", "good", "best"])
    status, answer = await change(site, train__steps=None, capture__keep_days=3, effort="good")
    assert status == 200
    rows = {row["key"]: row for row in answer}
    assert (rows["train.steps"]["value"], rows["train.steps"]["is_set"]) == (5000, False), "the effort's own"
    assert path.read_text() == "phrase: hey kitchen  # ours\ncapture:\n  keep_days: 3\neffort: good\n"


async def test_a_wrong_setting_changes_nothing_and_names_the_way_out(project: Project, site: Site):
    before = (project.root / "project.yaml").read_text()
    for changes, says in (
        ({"train__stepz": 1}, "train.steps"),
        ({"train__steps": "x", "capture__keep_days": 3}, "it must be a whole number"),
        ({"retrain__at_hour": 25, "capture__keep_days": 3}, "it must be 0 to 23"),
        ({"capture__longest_s": 60}, "0.5 to 10"),
        ({"home_assistant__url": "foo"}, "http://homeassistant.local:8123"),
        ({"phrase": "x" * 101}, "at most 100"),
        ({"phrase": None}, "phrase: hey kitchen"),
        ({"mqtt": {"host": "x"}}, ""),
    ):
        status, answer = await change(site, **changes)
        if changes == {"mqtt": {"host": "x"}}:
            continue
        assert (status, says in answer["hint"]) == (422, True), answer
        assert (project.root / "project.yaml").read_text() == before
    assert (await site.ask("PUT", "/api/settings", json={"changes": [{"key": "../x"}]}))[0] == 422


async def test_a_change_is_told_to_all_who_watch(site: Site):
    async with site.session.get(f"{site.base}/api/events", headers=site.owner) as answer:
        await change(site, capture__keep_days=2)
        found = await read_events(answer, until="settings")
    assert found[-1][2] == {"keys": ["capture.keep_days"]}


async def test_limits_of_uploads_count_at_once(project: Project, site: Site):
    await change(site, capture__uploads_at_once=1, capture__max_mb=20)
    assert site.service.intake is not None
    assert (site.service.intake._settings.uploads_at_once, site.service.intake._settings.max_mb) == (1, 20.0)


async def test_a_login_in_an_address_is_not_shown(project: Project, site: Site):
    await change(site, flash__builder_url="http://anna:geheim@192.168.1.9:6052")
    answer = await site.get("/api/settings")
    row = next(row for row in answer if row["key"] == "flash.builder_url")
    assert (row["value"], row["hides_login"]) == ("http://192.168.1.9:6052", True)
    assert "geheim" not in json.dumps(answer)
    await change(site, capture__keep_days=2)
    assert "geheim" in (project.root / "project.yaml").read_text(), "changing something else leaves it"


async def test_home_assistant_is_joined_as_soon_as_it_is_set(project: Project, site: Site):
    (project.root / "token").write_text(TOKEN)
    async with FakeHomeAssistant() as home:
        status, answer = await change(site, home_assistant__url=home.url, home_assistant__token_file="token")
        assert status == 200, answer
        async with asyncio.timeout(30):
            while (await site.get("/api/status"))["link"]["home_assistant"]["state"] != "connected":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await change(site, home_assistant__url=None, home_assistant__token_file=None)
        state = (await site.get("/api/status"))["link"]
        assert (state["home_assistant"]["state"], state["version"]) == ("off", "")


async def test_who_may_not_flash_may_not_set_check_export_or_import(project: Project):
    async with opened_site(project.root, ingress=True, ingress_peer="127.0.0.1") as site:
        for method, path, body in (
            ("PUT", "/api/settings", {"json": {"changes": []}}),
            ("POST", "/api/builder/check", {}),
            ("GET", "/api/project/archive", {}),
            ("POST", "/api/project/archive", {"data": b"x"}),
        ):
            status, answer, _ = await site.ask(method, path, headers=STRANGER, **body)
            assert (status, answer["error"]) == (403, "RefusedError"), path
        assert (await site.ask("GET", "/api/settings", headers=STRANGER))[0] == 200


# --- voices, room, builder -------------------------------------------------------------------------------------------


async def test_voices_are_listed_and_a_server_that_does_not_answer_is_told(project: Project, site: Site):
    importlib.import_module("wyoming.info")  # imported in the loop of a thread of its own it would look like our loop
    told = await site.get("/api/voices")
    espeak = next(row for row in told["engines"] if row["engine"] == "espeak")
    assert espeak["voices"] > 100
    assert (espeak["used"], len(espeak["names"])) == (True, 12)
    assert (told["recommended"], told["has_recommended"], told["problem"]) == ("en_US-libritts_r-medium", False, "")
    await change(site, synthesize__wyoming=["wyoming://127.0.0.1:9"], synthesize__engines=["piper"], language="tlh")
    told = await site.get("/api/voices")
    assert "127.0.0.1:9" in told["problem"]
    assert (told["recommended"], told["language"]) == ("", "tlh")


def test_room_is_told_by_kind_and_a_file_of_two_names_counts_once(household: Household):
    project = open_project(household.root)
    features = project.features_dir / "x"
    features.mkdir(parents=True)
    (features / "a").write_bytes(bytes(5000))
    before = measure_storage(project)
    (features / "b").hardlink_to(features / "a")
    after = measure_storage(project)
    project.catalogue.close()
    assert after.features == before.features
    assert after.captures == sum(p.stat().st_size for p in (household.root / "captures").rglob("*") if p.is_file())
    assert min(after.audio, after.models, after.runs, after.free) > 0
    assert after.total > after.free
    (features / "a").unlink()
    (features / "b").unlink()
    features.rmdir()


async def test_the_builder_is_asked_who_it_is(project: Project, site: Site, tmp_path: Path):
    from aiohttp import web
    from host_device import free_port

    told = (await site.ask("POST", "/api/builder/check"))[1]
    assert (told["builder"], told["folder"]) == ("off", "off")

    async def version(_request: web.Request) -> web.Response:
        return web.json_response({"version": "2026.6.5"})

    app = web.Application()
    app.router.add_get("/version", version)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    (tmp_path / "config").mkdir()
    await change(site, flash__builder_url=f"http://127.0.0.1:{port}", flash__handoff_dir=str(tmp_path / "config"))
    told = (await site.ask("POST", "/api/builder/check"))[1]
    assert (told["builder"], told["esphome_version"], told["folder"]) == ("ok", "2026.6.5", "ok"), told
    await runner.cleanup()
    await change(site, flash__handoff_dir=str(tmp_path / "nowhere"))
    told = (await site.ask("POST", "/api/builder/check"))[1]
    assert (told["builder"], told["folder"]) == ("failed", "failed")
    assert "nothing answers" in told["error"]


# --- out and in ------------------------------------------------------------------------------------------------------


async def export(site: Site) -> bytes:
    async with site.session.get(f"{site.base}/api/project/archive", headers=site.owner) as answer:
        assert (answer.status, answer.content_type) == (200, "application/x-tar")
        assert answer.headers["Content-Disposition"].endswith('.mww-ha.tar"')
        return await answer.read()


async def test_a_project_moves_from_one_service_to_another(household: Household, project: Project, site: Site):
    async with opened_site(household.root, new_token=True) as other:
        packed = await export(other)
        phrase = (await other.get("/api/project"))["phrase"]
    headers = {**site.owner, "Content-Type": "application/x-tar"}
    async with site.session.get(f"{site.base}/api/events", headers=site.owner) as answer:
        status, taken, _ = await site.ask("POST", "/api/project/archive", headers=headers, data=io.BytesIO(packed))
        assert status == 200, taken
        await read_events(answer, until="settings")
    assert (taken["phrase"], taken["models"], taken["missing"]) == (phrase, 1, 0)
    assert (await site.get("/api/models"))[0]["id"] == household.model
    page = await site.get("/api/captures?state=all")
    assert page["total"] == taken["captures"] == 15
    async with site.session.get(f"{site.base}/{page['captures'][0]['sound']}", headers=site.owner) as sound:
        assert (await sound.read())[:4] == b"fLaC"
    status, answer, _ = await site.ask("POST", "/api/project/archive", headers=headers, data=io.BytesIO(packed))
    assert (status, "holds a project already" in answer["message"]) == (409, True)


async def test_what_is_no_archive_is_refused_and_leaves_nothing(project: Project, site: Site):
    before = sorted(path.name for path in project.root.iterdir())
    info = tarfile.TarInfo("../../evil")
    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w") as tar:
        tar.addfile(info)
    for body in (b"", b"PK\x03\x04", evil.getvalue(), b"x" * 3_000_000):
        status, answer, _ = await site.ask("POST", "/api/project/archive", data=io.BytesIO(body))
        assert (status, answer["error"]) == (422, "ProjectError"), answer
    assert sorted(path.name for path in project.root.iterdir()) == before


async def test_nothing_is_taken_over_while_something_is_at_work(site: Site):
    job = await site.order("train")
    status, answer, _ = await site.ask("POST", "/api/project/archive", data=b"x")
    assert (status, answer["hint"]) == (409, "wait until it has ended, or cancel it")
    await site.ask("POST", f"/api/jobs/{job['id']}/cancel")


async def test_what_begins_while_an_archive_comes_is_not_run_over(household: Household, project: Project, site: Site):
    async with opened_site(household.root, new_token=True) as other:
        packed = await export(other)
    began = []

    async def pieces() -> AsyncIterator[bytes]:
        yield packed[: len(packed) // 2]
        began.append(await site.order("train"))
        yield packed[len(packed) // 2 :]

    status, answer, _ = await site.ask("POST", "/api/project/archive", data=pieces())
    assert (status, answer["message"]) == (409, "train is at work")
    assert (await site.get("/api/project"))["phrase"] == "hey kitchen"
    assert project.catalogue.clips() == []
    await site.ask("POST", f"/api/jobs/{began[0]['id']}/cancel")


async def test_a_reader_that_leaves_in_the_middle_leaves_no_copy_behind(household: Household):
    large = household.root / "reports" / "large.json"
    with large.open("wb") as file:
        file.truncate(100 << 20)
    async with opened_site(household.root, new_token=True) as site:
        async with site.session.get(f"{site.base}/api/project/archive", headers=site.owner) as answer:
            await answer.content.read(1000)
            assert list(household.root.glob(".export-*"))
            answer.close()
        async with asyncio.timeout(30):
            while list(household.root.glob(".export-*")):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    large.unlink()


async def test_a_new_house_begins_with_the_project_of_the_old_one(household: Household, tmp_path: Path):
    async with opened_site(household.root, new_token=True) as other:
        packed = await export(other)
    root = tmp_path / "new"
    root.mkdir()
    async with open_setup(root, Options(port=0)) as setup, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{setup.pages[0][1]}/api/setup/archive"
        async with session.post(url, data=io.BytesIO(packed)) as answer:
            assert answer.status == 401
        owner = {"Authorization": f"Bearer {setup.token}"}
        async with session.post(url, data=io.BytesIO(packed[:-2000]), headers=owner) as answer:
            assert (answer.status, setup.created.is_set()) == (422, False), "cut off"
        async with session.post(url, data=io.BytesIO(packed), headers=owner) as answer:
            assert answer.status == 201, await answer.text()
            assert (await answer.json())["captures"] == 15
        async with asyncio.timeout(30):
            await setup.created.wait()
    async with opened_site(root, new_token=True) as site:
        assert (await site.get("/api/models"))[0]["id"] == household.model


async def test_behind_ingress_only_administrators_begin_a_project_or_bring_one(household: Household, tmp_path: Path):
    async with opened_site(household.root, new_token=True) as other:
        packed = await export(other)
    root = tmp_path / "new"
    root.mkdir()
    options = Options(port=0, ingress=True, ingress_peer="127.0.0.1", admins=("named",))
    async with FakeHomeAssistant() as home, aiohttp.ClientSession() as session:
        home.registry.users.append({"id": "anna", "is_owner": True, "is_active": True, "group_ids": ["system-admin"]})
        access = find_access(home.url, TOKEN, environ={})
        async with open_setup(root, options, home=access) as setup:
            base = f"http://127.0.0.1:{setup.pages[0][1]}"

            async def post(path: str, user: str, **body: Any) -> int:
                headers = {"X-Remote-User-Id": user, "Origin": base}
                async with session.post(f"{base}{path}", headers=headers, **body) as answer:
                    return answer.status

            for user in ("guest", ""):
                assert await post("/api/setup", user, json={"phrase": "hey kitchen"}) == 403
                assert await post("/api/setup/archive", user, data=io.BytesIO(packed)) == 403
            assert [path.name for path in root.iterdir()] == ["service"]
            assert await post("/api/setup/archive", "named", data=b"PK") == 422, "who is named may"
            async with asyncio.timeout(30):
                while await post("/api/setup", "anna", json={"phrase": "hey kitchen"}) != 201:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            async with asyncio.timeout(30):
                await setup.created.wait()

"""The panel opens behind its door, in every view, size, scheme and language, and holds what its texts promise."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
from pathlib import Path

import aiohttp
import pytest
from host_device import free_port
from panel_kit import DESK, PHONE, VIEWS, Panel, browser, needs_chromium, opened_panel
from test_cli import start
from test_web import Site, opened_site

from mww_ha.store import Project, open_project
from mww_ha.web import panel
from mww_ha.web.app import Options
from mww_ha.web.setup import open_setup

STATIC = Path(panel.__file__).parent / "static"
TEXTS = {path.stem: json.loads(path.read_text()) for path in sorted((STATIC / "texts").glob("*.json"))}


# --- files -----------------------------------------------------------------------------------------------------------


async def test_the_panel_is_sent_compressed_and_kept_for_good(project: Project):
    async with opened_site(project.root) as site:
        page = await site.get("/")
        folder = re.search(r'data-folder="([^"]+)"', page)[1]
        status, text, headers = await site.ask("GET", f"/{folder}main.js", headers={"Accept-Encoding": "gzip"})
        assert (status, headers["Content-Encoding"]) == (200, "gzip"), (
            "also without a ticket: it holds nobody's secrets"
        )
        assert "immutable" in headers["Cache-Control"]
        assert headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert "mww-app" in text
        for name in (
            "static/0123456789abcdef/main.js",
            f"{folder}../app.py",
            f"{folder}%2e%2e/app.py",
            f"{folder}no.js",
        ):
            assert (await site.ask("GET", f"/{name}"))[0] == 404, name


def test_the_panel_weighs_less_than_500_kb_compressed():
    files = panel.load_files().by_path
    weight = sum(len(file.gzipped or file.content) for path, file in files.items() if not path.endswith("LICENSES.txt"))
    assert 20_000 < weight < 500_000
    assert not any(path.endswith(".d.ts") for path in files)


def test_nothing_comes_from_elsewhere():
    for path, file in panel.load_files().by_path.items():
        if path.startswith("vendor/") or not path.endswith((".js", ".css", ".json")):
            continue
        text = file.content.decode()
        assert not re.search(r"""(import|from|src|href|url\()\s*["'(]?\s*https?:""", text), path


def test_the_sheet_of_a_view_says_nothing_of_another():
    for path in sorted((STATIC / "views").glob("*.css")):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        depth, selectors, begun = 0, [], ""
        for sign in text:
            if sign == "{":
                if depth == 0 or (selectors and selectors[-1].startswith("@") and depth == 1):
                    selectors.append(begun.strip())
                depth, begun = depth + 1, ""
            elif sign == "}":
                depth, begun = depth - 1, ""
            else:
                begun = "" if sign == ";" else begun + sign
        assert selectors
        stray = [one for one in selectors if not one.startswith("@") and not re.match(r"mww-[a-z-]+", one)]
        assert not stray, f"{path.name} styles more than its view: {stray}"


# --- texts -----------------------------------------------------------------------------------------------------------


def test_every_language_says_the_same_things():
    assert set(TEXTS) == {"en", "de"}
    shapes = {}
    for code, groups in TEXTS.items():
        shapes[code] = {
            f"{group}.{key}": (
                sorted(set(re.findall(r"{\w+}", " ".join(text.values()) if isinstance(text, dict) else text))),
                sorted(text) if isinstance(text, dict) else None,
            )
            for group, texts in groups.items()
            for key, text in texts.items()
        }
    assert shapes["en"] == shapes["de"]
    for code, groups in TEXTS.items():
        for group, texts in groups.items():
            assert list(texts) == sorted(texts), f"{code}: {group} is not in order"


def used_keys() -> tuple[set[str], set[str]]:
    """Keys that the modules name, and the beginnings of those they put together."""
    whole, begun = set(), set()
    for path in STATIC.rglob("*.js"):
        if "vendor" in path.parts:
            continue
        text = path.read_text()
        whole |= set(re.findall(r'["`]([a-z]+\.[a-z0-9_]+)["`]', text))
        begun |= set(re.findall(r"`([a-z]+\.[a-z0-9_]*)\$\{", text))
    return whole, begun


def test_every_text_that_is_shown_exists_and_none_is_left_over():
    known = {f"{group}.{key}" for group, texts in TEXTS["en"].items() for key in texts}
    whole, begun = used_keys()
    groups = set(TEXTS["en"])
    named = {key for key in whole if key.partition(".")[0] in groups}
    assert named - known == set(), "named in a module, missing in the texts"
    unused = {key for key in known - named if not key.startswith(tuple(begun))}
    assert unused == set(), "in the texts, named nowhere"


# --- the page --------------------------------------------------------------------------------------------------------


@needs_chromium
async def test_the_door_lets_in_with_the_token_and_the_address_forgets_it(project: Project):
    async with opened_site(project.root) as site, browser() as chromium:
        page = await chromium.new_page()
        await page.goto(site.base)
        await page.fill("input[name=token]", "wrong")
        await page.click("button")
        await page.wait_for_selector("text=This is not the token")
        await page.fill("input[name=token]", site.opened.token)
        await page.click("button")
        await page.wait_for_selector("mww-app main h1")
        assert "token" not in page.url


@needs_chromium
@pytest.mark.parametrize(("size", "scheme", "language"), [(DESK, "light", "en-GB"), (PHONE, "dark", "de-AT")])
async def test_every_view_of_a_new_project_fits_and_reads_well(
    project: Project, size: dict[str, int], scheme: str, language: str
):
    async with opened_panel(project.root, size=size, scheme=scheme, language=language) as panel:
        for view in VIEWS:
            await panel.go(view)
            await panel.check_fits()
            await panel.check_reads_well()
            await panel.picture(f"new-{view}-{scheme}")
        assert await panel.page.get_attribute("html", "lang") == language[:2]


@needs_chromium
async def test_the_menu_opens_on_a_phone_and_closes_on_escape(project: Project):
    async with opened_panel(project.root, size=PHONE) as panel:
        page = panel.page
        assert not await page.is_visible("nav a")
        await page.click("button.menu")
        await page.click("nav a[href='#/settings']")
        await page.wait_for_selector("h1:text-is('Settings')")
        await page.wait_for_selector("nav a", state="hidden")
        await page.click("button.menu")
        await page.wait_for_selector("nav a", state="visible")
        await page.keyboard.press("Escape")
        await page.wait_for_selector("nav a", state="hidden")


@needs_chromium
async def test_a_link_opens_the_view_it_names_and_an_unknown_one_the_first(project: Project):
    async with opened_panel(project.root) as panel:
        for view, heading in (("devices", "Devices"), ("nothing/at/all", "Home")):
            await panel.go(view)
            await panel.page.wait_for_selector(f"h1:text-is('{heading}')")


@needs_chromium
async def test_a_lost_connection_is_said_and_comes_back(project: Project):
    async with browser() as chromium, contextlib.AsyncExitStack() as first:
        port = free_port()  # one that nobody is given while the service is away
        site = await first.enter_async_context(opened_site(project.root, port=port))
        page = await chromium.new_page()
        await page.goto(site.opened.url)
        await page.wait_for_function("() => document.querySelector('main h1') && !document.querySelector('.loading')")
        await first.aclose()
        await page.wait_for_selector("main .banner")
        async with opened_site(project.root, port=port):
            await page.wait_for_selector("main .banner", state="detached")
            assert await page.inner_text("h1") == "Home", "the session outlives the service"


# --- before there is a project ---------------------------------------------------------------------------------------


@needs_chromium
async def test_where_there_is_no_project_the_panel_makes_one(tmp_path: Path):
    root = tmp_path / "new"
    root.mkdir()
    async with open_setup(root, Options(port=0)) as setup, browser() as chromium:
        port, token = setup.pages[0][1], setup.token
        page = await chromium.new_page(viewport=PHONE)
        made = Panel(Site.__new__(Site), page, page.context)
        await page.goto(f"http://127.0.0.1:{port}/?token={token}")
        await page.wait_for_selector("mww-setup form")
        await made.check_fits()
        await made.check_reads_well()
        await made.picture("setup")
        await page.fill("input[name=phrase]", "hey kitchen")
        await page.click("button.primary")
        async with asyncio.timeout(30):
            await setup.created.wait()
    project = open_project(root)
    assert (project.settings.phrase, project.settings.language) == ("hey kitchen", "en")
    project.catalogue.close()


async def test_nobody_makes_a_project_without_the_token_or_of_nothing(tmp_path: Path):
    root = tmp_path / "new"
    root.mkdir()
    async with open_setup(root, Options(port=0)) as setup, aiohttp.ClientSession() as session:
        base = f"http://127.0.0.1:{setup.pages[0][1]}"
        owner = {"Authorization": f"Bearer {setup.token}"}
        async with session.post(f"{base}/api/setup", json={"phrase": "hey kitchen"}) as answer:
            assert answer.status == 401
        for body, status in (
            ({"phrase": "  "}, 422),
            ({"phrase": "x", "language": "../en"}, 422),
            ({"phrase": "x", "more": 1}, 422),
        ):
            async with session.post(f"{base}/api/setup", json=body, headers=owner) as answer:
                told = await answer.json()
                assert (answer.status, bool(told["hint"])) == (status, True), told
        assert not setup.created.is_set()
        async with session.get(f"{base}/api/health") as answer:
            assert await answer.json() == {"status": "ok"}
    assert sorted(path.name for path in root.iterdir()) == ["service"]


@needs_chromium
async def test_from_an_empty_folder_to_the_panel_of_a_project(tmp_path: Path):
    ports = ["--port", "0", "--no-devices"]
    service = start("serve", "--project", str(tmp_path), *ports, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        said = ""
        while "token=" not in said:
            line = await asyncio.to_thread(service.stderr.readline)
            assert line, said
            said += line
        assert f"no project in {tmp_path}" in said
        assert service.poll() is None
    finally:
        service.terminate()
        await asyncio.to_thread(service.communicate, timeout=60)
    assert service.returncode == 0
    # The address has to stay the same for the page to come back to it.
    port = free_port()
    service = start(
        "serve", "--project", str(tmp_path), "--port", str(port), "--no-devices", "--new-token",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        said = ""
        while not (found := re.search(r"http\S+token=\S+", said)):
            line = await asyncio.to_thread(service.stderr.readline)
            assert line, said
            said += line
        async with browser() as chromium:
            page = await chromium.new_page()
            wrong: list[str] = []
            page.on("pageerror", lambda error: wrong.append(str(error)))
            await page.goto(found[0])
            await page.fill("input[name=phrase]", "hallo küche")
            await page.fill("input[name=language]", "de")
            await page.click("button.primary")
            await page.wait_for_selector("nav a[aria-current=page]", timeout=60_000)
            assert "hallo küche" in await page.inner_text(".brand")
            assert wrong == []
        assert (tmp_path / "project.yaml").read_text().startswith("phrase: hallo küche\nlanguage: de\n")
    finally:
        service.terminate()
        _, said = await asyncio.to_thread(service.communicate, timeout=60)
    assert service.returncode == 0, said

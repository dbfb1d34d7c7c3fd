"""A real browser (the system's Chromium) in front of a real service, and what every test of the panel wants to know.

Screenshots go to ``$MWW_HA_SCREENSHOTS``, where that is set, so that a person can look at them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from test_web import Site, opened_site

CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), "")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
DESK, PHONE = {"width": 1280, "height": 860}, {"width": 360, "height": 740}

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: chromium)")


@contextlib.asynccontextmanager
async def browser(*flags: str) -> AsyncIterator[Browser]:
    """Chromium, without a window."""
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
        try:
            yield opened
        finally:
            await opened.close()


class Panel:
    """A page of the panel, its owner signed in; what went wrong in it is collected and is an error at the end."""

    def __init__(self, site: Site, page: Page, context: BrowserContext) -> None:
        self.site, self.page, self.context = site, page, context
        self.wrong: list[str] = []
        self.accepted: list[str] = []
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("console", lambda said: said.type in ("error", "warning") and self.wrong.append(said.text))

    async def go(self, view: str) -> None:
        """Opens ``#/view`` and waits for its heading, and for what it loads."""
        await self.page.goto(f"{self.site.base}/#/{view}")
        await self.settle()

    async def settle(self) -> None:
        """Nothing on the page says any more that it is loading."""
        await self.page.wait_for_selector("main h1")
        await self.page.wait_for_function("() => !document.querySelector('main .loading')")

    async def text(self, selector: str = "main") -> str:
        """The text of an element, spaces made single."""
        return " ".join((await self.page.inner_text(selector)).split())

    async def answer(self, button: str) -> None:
        """Says yes to what a dialog asks."""
        await self.page.click(f"dialog button:has-text('{button}')")
        await self.page.wait_for_selector("dialog", state="detached")

    async def picture(self, name: str) -> None:
        """A screenshot for somebody to look at."""
        folder = os.environ.get("MWW_HA_SCREENSHOTS")
        if folder:
            await asyncio.to_thread(Path(folder).mkdir, parents=True, exist_ok=True)
            await self.page.wait_for_timeout(350)  # what moves has come to rest
            await self.page.screenshot(path=str(Path(folder, f"{name}.png")), full_page=True)

    async def check_fits(self) -> None:
        """The page is not wider than the window, and no button or label is cut off."""
        wide = await self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"the page is {wide} px wider than the window"
        cut = await self.page.evaluate(
            """() => [...document.querySelectorAll('button, .button, label, h1, h2, h3, th, .tag, .figure')]
            .filter((one) => one.checkVisibility() && !one.matches('.hidden, .skip') && !one.closest('.wide, .hidden')
                && one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== 'inline')
            .map((one) => one.outerHTML.slice(0, 120))"""
        )
        assert not cut, f"cut off: {cut}"

    async def check_reads_well(self) -> None:
        """A screen reader finds its way: axe has nothing serious to say, and no text is missing in the language."""
        # It would copy the sheets of shadow trees into a document of its own, which our policy rightly refuses.
        found = await Axe().run(self.page, options={"preload": False})
        serious = [
            f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:160]}"
            for one in found.response["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert not serious, "\n".join(serious)
        shown = await self.page.inner_text("body")
        groups = "app|nav|job|effort|chart|measured|play|setup|home|record|review|train|models|devices|listen|settings"
        missing = re.findall(rf"\b(?:{groups})\.(?!yaml\b)[a-z][a-z0-9_]*\b", shown)
        assert not missing, f"texts without a translation: {missing}"


@contextlib.asynccontextmanager
async def opened_panel(
    root: Path,
    *,
    size: dict[str, int] = DESK,
    scheme: str = "light",
    language: str = "en-GB",
    flags: Sequence[str] = (),
    permissions: Sequence[str] = (),
    prepare: Callable[[Page], Any] | None = None,
    **options: Any,
) -> AsyncIterator[Panel]:
    """A service for the project at ``root``, a browser, and the owner on its first page."""
    async with opened_site(root, **options) as site, browser(*flags) as chromium:
        context = await chromium.new_context(
            viewport=size, color_scheme=scheme, locale=language, permissions=list(permissions), reduced_motion="reduce"
        )
        page = await context.new_page()
        panel = Panel(site, page, context)
        if prepare is not None:
            await prepare(page)
        await page.goto(site.opened.url)
        await panel.settle()
        yield panel
        wrong = [said for said in panel.wrong if not any(known in said for known in panel.accepted)]
        assert not wrong, "\n".join(wrong)


VIEWS = ("home", "record", "review", "train", "models", "devices", "listen", "settings")
"""Every view by its address."""

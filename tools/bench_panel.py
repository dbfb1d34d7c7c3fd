"""Measures the panel in a real browser: what it weighs, and how soon each view can be used.

tools/bench_panel.py                       a new, empty project
tools/bench_panel.py --project-dir DIR     a copy of that project
tools/bench_panel.py --runs 5              so many fresh browser profiles a view (default 5)

Needs Chromium (Debian: chromium) and the packages of requirements-dev.lock. The service and the browser run on this
machine and talk over loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from mww_ha.store import create_project
from mww_ha.web.app import Options, open_service

VIEWS = ("home", "record", "review", "train", "models", "devices", "listen", "settings")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip

USABLE = """() => {
  const heading = document.querySelector('main h1');
  if (!heading || document.querySelector('main .loading')) return false;
  window.usableAt ??= performance.now();
  return true;
}"""
WEIGHT = """() => ['navigation', 'resource'].flatMap((kind) => performance.getEntriesByType(kind))
    .filter((entry) => !entry.name.includes('/api/'))
    .reduce((sum, entry) => sum + entry.encodedBodySize, 0)"""


@contextlib.asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Chromium without a window. Ends the program where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("tools/bench_panel.py: no Chromium; install it (Debian: sudo apt install chromium)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


async def measure(root: Path, runs: int) -> None:
    """Prints a line a view."""
    options = Options(port=0, device_port=None, new_token=True)
    async with open_service(root, options) as opened, open_browser() as browser:
        base = opened.url.partition("?")[0]
        print(f"{'view':10} {'usable after ms: median (lowest to highest)':46} {'kB sent':>8}")
        for view in VIEWS:
            times, weights = [], []
            for _ in range(runs):
                context = await browser.new_context()
                page = await context.new_page()
                await page.goto(opened.url)
                cookies = await context.cookies()
                await context.close()
                context = await browser.new_context()  # nothing is cached but the way in
                await context.add_cookies(cookies)  # type: ignore[arg-type]
                page = await context.new_page()
                await page.goto(f"{base}#/{view}")
                await page.wait_for_function(USABLE, polling="raf")
                times.append(await page.evaluate("window.usableAt"))
                weights.append(await page.evaluate(WEIGHT) / 1000)
                await context.close()
            shown = f"{statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f})"
            print(f"{view:10} {shown:46} {max(weights):8.0f}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project-dir", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "project")
        if chosen.project_dir is None:
            create_project(root, "hey kitchen").catalogue.close()
        else:
            shutil.copytree(chosen.project_dir, root, ignore=shutil.ignore_patterns("service"))
        asyncio.run(measure(root, chosen.runs))


if __name__ == "__main__":
    main()

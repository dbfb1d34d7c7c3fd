"""Draws addon/icon.png and addon/logo.png from the SVG beside each. Needs a Chromium: tools/draw_icons.py [PROGRAM]"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).resolve().parent.parent / "addon"
SIZES = {"icon": (256, 256), "logo": (500, 200)}


def main(program: str) -> None:
    """Both files."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, (width, height) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            drawing = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
            style = "<style>*{margin:0}svg{display:block;width:100vw;height:100vh}</style>"
            page.set_content(style + drawing)
            page.screenshot(path=FOLDER / f"{name}.png", omit_background=True)
            print(FOLDER / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    found = sys.argv[1] if len(sys.argv) > 1 else shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        sys.exit("draw_icons: no Chromium found; name one")
    main(found)

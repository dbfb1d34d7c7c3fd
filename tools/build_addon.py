"""Builds the folder that Home Assistant's Supervisor builds the app of.

Its build context is the app's folder alone, so a copy of ``addon/`` gets the wheel of mww-ha put beside its
Dockerfile. That copy is what a release carries, and what can be copied into the folder of local apps. Standard
library only, but pip fetches what builds a wheel.
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "addon"
DEFAULT = ROOT / ".addon" / "mww_ha"  # below a dot: a config.yaml elsewhere would be taken for a second app
_NOT_CARRIED = ("*.svg", "*.whl", "pictures")  # drawings, wheels of older builds, and what the documentation carries
_PICTURE = re.compile(r"!\[([^\]]*)\]\((pictures/[\w-]+\.png)\)")


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout, in ``folder``. Raises SystemExit with what pip said."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(ROOT)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"build-addon: the wheel could not be built:\n{done.stdout}{done.stderr}")
    [wheel] = folder.glob("mww_ha-*.whl")
    return wheel


def carry_pictures(text: str, folder: Path) -> str:
    """Markdown with its pictures, PNG files below ``folder``, inside it: Home Assistant shows no local files.

    They stand at the end, so that the text can still be read as text. Raises SystemExit for one that is missing.
    """
    names: list[str] = []
    for _, name in _PICTURE.findall(text):
        if name not in names:
            names.append(name)
    if not names:
        return text
    text = _PICTURE.sub(lambda found: f"![{found[1]}][{Path(found[2]).stem}]", text)
    lines = []
    for name in names:
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            sys.exit(f"build-addon: {folder / name}: {error.strerror}\n  tools/panel_pictures.py makes it")
        lines.append(f"[{Path(name).stem}]: data:image/png;base64,{base64.b64encode(content).decode('ascii')}")
    return text.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n"


def build(to: Path) -> Path:
    """Puts the app at ``to``, in place of an older build of it, and returns ``to``. Raises SystemExit."""
    to = to.absolute()
    if to.exists() and any(to.iterdir()) and not is_ours(to):
        sys.exit(f"build-addon: {to} holds something else\n  choose an empty folder, or one that does not exist")
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-addon-", dir=to.parent) as place:
        made = Path(place) / "app"
        shutil.copytree(SOURCE, made, ignore=shutil.ignore_patterns(*_NOT_CARRIED))
        docs = made / "DOCS.md"
        docs.write_text(carry_pictures(docs.read_text(encoding="utf-8"), SOURCE), encoding="utf-8")
        build_wheel(made)
        if to.exists():
            shutil.rmtree(to)
        made.rename(to)
    return to


def is_ours(folder: Path) -> bool:
    """Whether an earlier build lies there."""
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^slug: mww_ha$", text, re.MULTILINE) is not None


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--to", type=Path, default=DEFAULT, metavar="DIR", help=f"default: {DEFAULT}")
    to = build(parser.parse_args().to)
    size_mb = sum(path.stat().st_size for path in to.rglob("*") if path.is_file()) / 1e6
    print(f"{to}: {size_mb:.1f} MB")
    print(
        "  copy it to the folder of local apps of Home Assistant (share: addons), then check for updates in its store"
    )


if __name__ == "__main__":
    main()

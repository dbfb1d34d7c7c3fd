"""Installs the app without Docker and starts it: the Dockerfile's own steps, in a Debian root made by debootstrap.

    tools/try-addon                    build the folder, install it, start it, ask its health check
    tools/try-addon --training         and install training in it, as its panel would
    tools/try-addon --keep DIR         leave the root there

What Docker does besides (layers, namespaces, AppArmor, the network of Home Assistant) does not happen here. Needs
root, Linux, debootstrap and the network. Debian's mirror is the machine's own; pip's index too, by its environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import build_addon

ARCHITECTURES = {"x86_64": ("amd64", "amd64"), "aarch64": ("aarch64", "arm64")}  # of the app, of Debian
_BASE = re.compile(r"debian:(?P<suite>[a-z]+)(-slim)?")
_PIP_CERTIFICATES = "/etc/ssl/machine.pem"  # the machine's; Debian's own bundle is made anew by its package


@dataclass(slots=True, kw_only=True)
class Recipe:
    """What a Dockerfile says, as far as ours uses its language."""

    base: str = ""
    steps: list[tuple[str, str]] = field(default_factory=list)  # RUN, COPY and ENV in their order
    healthcheck: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)


def read_instructions(text: str) -> Iterator[tuple[str, str]]:
    """Instructions with their continuation lines joined; comments left out. Raises ValueError for a broken one."""
    whole = ""
    for line in text.splitlines():
        if line.lstrip().startswith("#") or (not whole and not line.strip()):
            continue
        whole += line.rstrip()
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        name, _, rest = whole.strip().partition(" ")
        if not rest:
            raise ValueError(f"not an instruction: {whole!r}")
        yield name.upper(), rest.strip()
        whole = ""
    if whole:
        raise ValueError(f"the file ends within {whole!r}")


def read_recipe(text: str) -> Recipe:
    """Raises ValueError for an instruction that is not understood here: it would silently not be tried."""
    recipe = Recipe()
    for name, rest in read_instructions(text):
        if name == "FROM":
            if recipe.base:
                raise ValueError("more than one FROM")
            recipe.base = rest
        elif name in ("RUN", "COPY", "ENV"):
            recipe.steps.append((name, rest))
        elif name == "HEALTHCHECK":
            recipe.healthcheck = json.loads(rest.partition("CMD ")[2])
        elif name == "ENTRYPOINT":
            recipe.entrypoint = json.loads(rest)
        elif name not in ("ARG", "LABEL"):
            raise ValueError(f"the instruction {name} is not understood")
    return recipe


_ADDRESSES = "ip link set lo up && ip addr add 172.30.32.2/32 dev lo && ip addr add 172.30.33.9/32 dev lo && "


class Root:
    """A Debian root that a recipe is carried out in. Commands run in a mount namespace of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

    def make(self, suite: str, architecture: str) -> None:
        """The base image's place."""
        command = ["debootstrap", "--variant=minbase", f"--arch={architecture}", suite, str(self.folder), _mirror()]
        _run(command)
        for name in ("/etc/resolv.conf", "/etc/hosts"):
            shutil.copyfile(name, f"{self.folder}{name}")
        certificates = os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt"
        if Path(certificates).is_file():
            place = self.folder / _PIP_CERTIFICATES.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(certificates, place)

    def carry_out(self, recipe: Recipe, context: Path) -> None:
        """All steps, each with the seconds it took."""
        for name, rest in recipe.steps:
            started = time.monotonic()
            if name == "ENV":
                self.environment |= dict(item.split("=", 1) for item in shlex.split(rest))
                continue
            if name == "COPY":
                self._copy(shlex.split(rest), context)
            else:
                _run(self.command(["/bin/sh", "-c", rest]), env={**_network(), **self.environment})
            print(f"  {time.monotonic() - started:6.1f} s  {name} {rest[:90]}", flush=True)

    def _copy(self, words: Sequence[str], context: Path) -> None:
        *patterns, target = words
        place = self.folder / target.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for pattern in patterns:
            found = sorted(context.glob(pattern))
            if not found:
                sys.exit(f"try-addon: nothing in {context} is called {pattern}")
            for path in found:
                if context.resolve() not in path.resolve().parents:
                    sys.exit(f"try-addon: {path} lies outside of the build context")
                shutil.copy2(path, place / path.name)

    def command(self, inside: Sequence[str], *, own_network: bool = False) -> list[str]:
        """The command line that runs ``inside`` in this root."""
        script = (
            f"mount -t proc proc {self.folder}/proc && mount --rbind /dev {self.folder}/dev && "
            + (_ADDRESSES if own_network else "")
            + f'exec chroot {self.folder} "$@"'
        )
        namespaces = ["--mount", *(["--net"] if own_network else [])]
        return ["unshare", *namespaces, "/bin/sh", "-c", script, "sh", *inside]

    def size_mb(self, name: str = "") -> float:
        """What a folder of the root takes on the disk."""
        said = subprocess.run(["du", "-sxm", str(self.folder / name)], capture_output=True, text=True, check=True)
        return float(said.stdout.split()[0])


def visit(root: Root, recipe: Recipe, phrase: str) -> dict[str, object]:
    """One life of the app, as visit_app.py saw it. Its network is its own, so no port of this machine is taken."""
    script = Path(__file__).with_name("visit_app.py").read_text(encoding="utf-8")
    words = [json.dumps(recipe.entrypoint), json.dumps(recipe.healthcheck), phrase]
    command = root.command(["/usr/bin/python3", "-I", "-c", script, *words], own_network=True)
    done = subprocess.run(command, env=root.environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"try-addon: the app could not be visited:\n{done.stderr[-6000:]}")
    seen: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    wanted: dict[str, object] = {"page": True, "other_app": 403, "phrase": phrase, "broken": [], "exit_code": 0}
    if not seen["was_there"]:
        wanted |= {"set_up_by_somebody": 403, "set_up": 201}
    if None in seen.values() or any(seen[key] != value for key, value in wanted.items()):
        sys.exit(f"try-addon: the app does not do what it should: {seen}\n{done.stderr[-6000:]}")
    return seen


def _mirror() -> str:
    """Where this machine gets Debian from."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    with_apt = shutil.which("apt-get") is not None
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout if with_apt else ""
    own = [line.strip() for line in said.splitlines() if line.rstrip("/").endswith("/debian")]
    return own[0] if own else "http://deb.debian.org/debian"


def _network() -> Mapping[str, str]:
    """What of this machine's environment says how to get to the package index."""
    names = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT", "PIP_PROXY")
    proxies = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    found = {name: os.environ[name] for name in (*names, *proxies) if os.environ.get(name)}
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    if asked.returncode == 0 and asked.stdout.strip():
        found.setdefault("PIP_INDEX_URL", asked.stdout.strip())
    return {**found, "PIP_CERT": _PIP_CERTIFICATES, "DEBIAN_FRONTEND": "noninteractive"}


def _run(command: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    if done.returncode:
        sys.exit(f"try-addon: {' '.join(command)[:300]} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


def missing_tools() -> list[str]:
    """What this machine lacks for it, in words; empty when it can be done."""
    lacking = [name for name in ("debootstrap", "unshare", "chroot", "ip") if shutil.which(name) is None]
    if platform.system() != "Linux" or platform.machine() not in ARCHITECTURES:
        lacking.append("Linux on x86-64 or aarch64")
    if os.geteuid() != 0:
        lacking.append("root")
    return lacking


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the root there")
    parser.add_argument("--training", action="store_true", help="install training too; 0.8 GB to download")
    options = parser.parse_args()
    if lacking := missing_tools():
        sys.exit(f"try-addon: this machine lacks {', '.join(lacking)}")
    with tempfile.TemporaryDirectory(prefix="mww-ha-app-") as place:
        try_it(Path(place), options.keep or Path(place) / "root", training=options.training)


def try_it(place: Path, folder: Path, *, training: bool = False) -> Root:
    """Builds, installs and starts the app, and says what each took. Raises SystemExit when anything fails."""
    context = build_addon.build(place / "mww_ha")
    recipe = read_recipe((context / "Dockerfile").read_text(encoding="utf-8"))
    base = _BASE.fullmatch(recipe.base)
    if base is None:
        sys.exit(f"try-addon: {recipe.base} is no Debian image that debootstrap can stand in for")
    root = Root(folder.absolute())
    started = time.monotonic()
    root.make(base["suite"], ARCHITECTURES[platform.machine()][1])
    print(f"Debian {base['suite']}: {time.monotonic() - started:.0f} s, {root.size_mb():.0f} MB", flush=True)
    root.carry_out(recipe, context)
    python = _run(root.command(["/opt/mww-ha/bin/python", "--version"])).strip()
    sizes = {name: root.size_mb(name) for name in ("opt/mww-ha", "opt/esphome", "")}
    print(f"installed: {python}; mww-ha {sizes['opt/mww-ha']:.0f} MB, ESPHome {sizes['opt/esphome']:.0f} MB,", end=" ")
    print(f"all {sizes['']:.0f} MB", flush=True)
    esphome = _run(root.command(["/usr/local/bin/esphome", "version"]), env=root.environment).strip().splitlines()[-1]
    print(f"ESPHome: {esphome}")
    (root.folder / "tmp" / "bare.yaml").write_text(_BARE, encoding="utf-8")
    generate = ["/usr/local/bin/esphome", "compile", "--only-generate", "/tmp/bare.yaml"]  # noqa: S108  of the root
    _run(root.command(generate), env={**_network(), **root.environment})
    print("  which generates the source of an ESP32-S3", flush=True)
    data = root.folder / "data"
    data.mkdir(exist_ok=True)
    (data / "options.json").write_text(json.dumps({}), encoding="utf-8")
    for life in ("first start", "after an update"):
        seen = visit(root, recipe, "hey kitchen")
        print(
            f"{life}: healthy after {seen['healthy_after_s']} s, project "
            f"{'kept' if seen['was_there'] else 'made'}, training {seen['training']}, another app gets "
            f"{seen['other_app']}, ended after {seen['ended_after_s']} s with exit code {seen['exit_code']}",
            flush=True,
        )
    if not seen["was_there"]:
        sys.exit("try-addon: the project did not survive")
    if training:
        install_training(root)
    return root


_BARE = """
esphome: {name: bare}
esp32: {board: esp32-s3-devkitc-1, framework: {type: esp-idf}}
logger:
"""

_TINY = {
    "synthesize.engines": "[espeak]", "synthesize.wake_clips": "60", "synthesize.confusable_clips": "40",
    "synthesize.confusable_phrases": "12", "synthesize.speech_hours": "0.02",
    "prepare.wake_hours": "0.02", "prepare.confusable_hours": "0.015", "prepare.speech_hours": "0.02",
    "prepare.noise_hours": "0.01", "prepare.ambient_hours": "0.02", "prepare.trial_wakes": "8",
    "train.steps": "40", "train.batch": "16", "train.mine_every": "15", "train.filters": "16",
    "train.stem_filters": "8", "train.kernels": "[3, 5]",
}  # fmt: skip
"""A training of seconds: it proves that everything is there, and its model is worth nothing."""


def install_training(root: Root) -> None:
    """As the panel's job does, then looks at it with the service's own eyes, and trains."""
    started = time.monotonic()
    command = ["/usr/local/bin/mww-ha", "--json", "training", "install"]
    said = _run(root.command(command), env={**_network(), **root.environment}).strip().splitlines()
    result = json.loads(said[-1])["result"]
    seconds, megabytes = time.monotonic() - started, result["size_mb"]
    print(f"training: {result['state']} after {seconds:.0f} s, {megabytes:.0f} MB, {len(said) - 1} lines of progress")
    seen = visit(root, read_recipe((build_addon.SOURCE / "Dockerfile").read_text(encoding="utf-8")), "hey kitchen")
    if seen["training"] != "installed":
        sys.exit(f"try-addon: the service does not see the training: {seen['training']}")
    started = time.monotonic()
    changes = [word for key, value in _TINY.items() for word in ("--set", f"{key}={value}")]
    program = ["/usr/local/bin/mww-ha", "--project", "/data/project"]
    _run(root.command([*program, "run", "--until", "evaluate", *changes]), env=root.environment)
    print(f"a tiny training and its report: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()

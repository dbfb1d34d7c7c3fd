"""Every board is accepted by the real ESPHome with every option it has, and a wake word is answered exactly once.

Boards that are packages are tried on stand-ins for the YAML they are added to (``esphome_stand_ins/README.md``).
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_wake import toy

from mww_ha import store
from mww_ha.deploy import boards, esphome, render, templates
from mww_ha.errors import ConfigError, InputError, ToolError
from mww_ha.export.manifest import write_about, write_manifest

needs_esphome = pytest.mark.skipif(esphome.find_esphome() is None, reason="ESPHome is not installed")

STAND_INS = Path(__file__).parent / "esphome_stand_ins"
TEMPLATES = Path(__file__).parent.parent / "esphome_templates"
CAPTURE = render.Capture(url="http://192.168.1.10:8765/api/captures")
LEVELS = [
    {
        "name": name,
        "probability_cutoff": cutoff,
        "recall": {"value": 0.8, "low": 0.75, "high": 0.84, "events": 80, "exposure": 100},
        "false_accepts_per_hour": {"value": 0.5, "low": 0.25, "high": 1.0, "events": 5, "exposure": 10.0},
        "measured_on": "synthetic ambient",
    }
    for name, cutoff in (("slightly", 0.99), ("moderately", 0.95), ("very", 0.8))
]
NEAR_MISS = {"probability_cutoff": 0.41}
ON = {  # stand-in for the YAML a package is added to, and what the user has to say
    "voice-pe": ("voice-pe.yaml", {}),
    "satellite1": ("satellite1.yaml", {}),
    "own": ("own.yaml", {"mic_id": "hallway_mic", "mic_channel": "1", "mic_gain": "2"}),
    "own answering": (
        "own-answers.yaml",
        {"mic_id": "hallway_mic", "mic_channel": "1", "mic_gain": "2", "mww_id": "listener"},
    ),
}


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """Writes a real model as export does; ``salt`` makes it another file."""

    def make(phrase: str = "hey kitchen", *, salt: bytes = b"", levels: bool = True, step_ms: int = 10) -> Path:
        content = toy().model + salt
        stem = store.model_file_stem(store.slugify(phrase), content)
        folder = tmp_path / "models"
        folder.mkdir(exist_ok=True)
        (folder / f"{stem}.tflite").write_bytes(content)
        path = folder / f"{stem}.json"
        write_manifest(
            path,
            phrase=phrase,
            model_file=f"{stem}.tflite",
            author="a household",
            website="",
            languages=["en"],
            probability_cutoff=0.95,
            sliding_window=5,
            step_ms=step_ms,
            tensor_arena_bytes=26_000,
        )
        if levels:
            write_about(path, {"levels": LEVELS, "near_miss": NEAR_MISS})
        return path

    return make


def _stand_in(root: Path, name: str, package: str, model: Any, *, at_the_end: bool = True) -> str:
    """Puts a stand-in into the ESPHome folder as a vendor's package, and a user's YAML that includes it and ours."""
    folder = root / "esphome"
    folder.mkdir(exist_ok=True)
    shutil.copy(STAND_INS / name, folder / name)
    for stand_in in ("okay_nabu", "stop", "vad"):
        manifest = model("vad" if stand_in == "vad" else stand_in.replace("_", " "), levels=False)
        (folder / "models").mkdir(exist_ok=True)
        document = json.loads(manifest.read_text()) | {"model": f"stand_in_{stand_in}.tflite"}
        (folder / "models" / f"stand_in_{stand_in}.json").write_text(json.dumps(document))
        shutil.copy(manifest.with_suffix(".tflite"), folder / "models" / document["model"])
    lines = [f"  vendor: !include {name}", f"  wake_word: !include mww_ha/packages/{package}.yaml"]
    mine = folder / "mine.yaml"
    mine.write_text("\n".join(["packages:", *(lines if at_the_end else lines[::-1]), ""]))
    return mine.name


def _render(root: Path, manifest: Path, board: str, model: Any, **changes: Any) -> render.RenderResult:
    given: dict[str, Any] = {"name": "kitchen", "manifest_path": manifest, "board": board}
    if board in ON:
        stand_in, substitutions = ON[board]
        given["board"] = board.split(maxsplit=1)[0]
        given["yaml"] = _stand_in(root, stand_in, "kitchen", model)
        given["substitutions"] = substitutions
    result = render.render(root, **{**given, **changes, "check": False})
    _esphome(root, _target(result, given.get("yaml")))
    return result


def _target(result: render.RenderResult, yaml_name: str | None) -> Path:
    return result.yaml_path if yaml_name is None else result.yaml_path.parents[2] / yaml_name


@functools.cache
def _tool() -> tuple[list[str], tuple[int, ...]]:
    command = esphome.find_esphome()
    assert command is not None
    return command, esphome.version_key(esphome.esphome_version(command, 60))


def _esphome(root: Path, target: Path) -> None:
    """``config`` and the generated source, the board's own minimum version set aside where this ESPHome is older."""
    command, version = _tool()
    for path in (root / "esphome" / "mww_ha").glob("*.yaml"):
        wanted = re.search(r"min_version: (\S+)", text := path.read_text())
        if wanted and esphome.version_key(wanted.group(1)) > version:
            path.write_text(text.replace(wanted.group(0), "min_version: 2026.6.0"))
    code, output = esphome.run_esphome([*command, "compile", "--only-generate", target.name], target.parent, 180)
    assert code == 0, output


def _generated(root: Path) -> tuple[str, dict[str, Any]]:
    """The C++ that ESPHome generated, and the merged micro_wake_word that it repeats there as a comment."""
    (main,) = (root / "esphome" / ".esphome" / "build").glob("*/src/main.cpp")
    text = main.read_text()
    (block,) = re.findall(r"(?m)^  // (micro_wake_word:\n(?:  //.*\n)+)", text)
    merged = yaml.load(re.sub(r"(?m)^  // ?", "", block), Loader=templates.TemplateLoader)
    source = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))
    return source, merged["micro_wake_word"]


def _actions(steps: Any) -> list[str]:
    """Names of all actions in a list of steps, those inside conditions as well, in their order."""
    found = []
    for step in steps if isinstance(steps, list) else [steps]:
        for key, value in step.items():
            if key in ("then", "else"):
                found += _actions(value)
            elif "." in key:
                found.append(key)
            elif key == "if":
                found += [name for branch in ("then", "else") for name in _actions(value.get(branch, []))]
    return found


def _models(source: str) -> list[tuple[str, str, int]]:
    """Id, wake word and cutoff of each model, in the order of the list."""
    found = re.findall(r'WakeWordModel\("(\w+)", \w+, (\d+), \d+, "((?:[^"\\]|\\.)*)"', source)
    return [(id, word, int(cutoff)) for id, cutoff, word in found]


COMPLETE = [board.id for board in boards.boards() if board.complete]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"levels": False},
    "levels and a second wake word": {"second": True},
    "vad": {"vad": True, "levels": False},
    "capture": {"capture": CAPTURE},
    "near miss, vad and a second wake word": {"capture": CAPTURE, "near_miss": True, "vad": True, "second": True},
    "canary": {"capture": CAPTURE, "canary": True},
}
FEWER = ("plain", "levels and a second wake word", "capture")  # of the options on a YAML that answers itself


def _cases() -> list[Any]:
    """Each option on one complete board or another, in turn, and all of them on the first; packages all the same."""
    cases = [(COMPLETE[0], option) for option in OPTIONS]
    for number, board in enumerate(COMPLETE[1:]):
        names = list(OPTIONS)
        cases += [(board, names[number % 2]), (board, names[2 + number % 2]), (board, names[4 + number % 2])]
    cases += [("own", option) for option in ("plain", "vad", "near miss, vad and a second wake word", "canary")]
    cases += [("voice-pe", option) for option in FEWER]
    cases += [("satellite1", option) for option in ("capture",)]
    cases += [("own answering", option) for option in ("levels and a second wake word", "capture")]
    return [pytest.param(board, option, id=f"{board}, {option}") for board, option in cases]


@needs_esphome
@pytest.mark.parametrize(("board", "option"), _cases())
def test_esphome_accepts_the_board_and_a_wake_word_is_answered_once(
    tmp_path: Path, model: Any, board: str, option: str
) -> None:
    asked = dict(OPTIONS[option])
    manifest = model(levels=asked.pop("levels", True))
    second = asked.pop("second", False)
    if second:
        asked["also"] = [model("good evening", salt=b"\1")]
    if asked.pop("vad", False):
        asked["vad"] = str(model("vad", salt=b"\2", levels=False))
    if asked.get("canary"):
        asked["canary"] = model(salt=b"\3")
    result = _render(tmp_path, manifest, board, model, **asked)
    source, merged = _generated(tmp_path)

    # the models: ours under its id, with its cutoff on the device's scale; the slot after it, with a word of its own
    heard = {id: (word, cutoff) for id, word, cutoff in _models(source)}
    assert heard["model_hey_kitchen"] == ("hey kitchen", 242)
    assert ("model_good_evening" in heard) == second
    slot = {"near_miss": ("hey kitchen (near miss)", 104), "canary": ("hey kitchen (canary)", 242)}
    kind = "near_miss" if asked.get("near_miss") else "canary" if asked.get("canary") else None
    assert heard.get("wake_slot") == (slot[kind] if kind else None)
    answered = board in COMPLETE or board == "own"
    first = next(id for id, _, _ in _models(source))
    assert first == ("model_hey_kitchen" if answered else "okay_nabu")

    # one automation, one start of the assistant in it, and the capture of what it heard
    actions = _actions(merged["on_wake_word_detected"]["then"])
    assert actions.count("voice_assistant.start") == 1
    assert actions.count("mww_capture.trigger") == (0 if "capture" not in asked else 2 if answered else 1)
    assert source.count("get_wake_word_detected_trigger()") == 1

    # the entities, with exactly what the result promises
    assert f'"{result.wake_model}"' in source
    assert f"hey_kitchen {manifest.stem[-8:]}" in result.wake_model
    assert result.models[0] == manifest.stem
    assert ("CUTOFFS[] = {252, 242, 204}" in source) == (option != "plain" and option != "vad")
    if "CUTOFFS" in source:
        assert "slightly: 80% heard (75-84), 0.5/h false (0.25-1)" in source
    assert source.count("set_probability_cutoff(CUTOFFS[i])") == (0 if "CUTOFFS" not in source else 1 + second)

    # what is captured is what the model heard
    if "capture" in asked:
        listening, passive = (
            re.findall(rf"MicrophoneSource\((\w+, 16, \d+), {how}\)", source) for how in ("false", "true")
        )
        assert passive == [listening[0]]
        assert '"192.168.1.10"' in source
        token = yaml.safe_load((tmp_path / "esphome/mww_ha/capture/secrets.yaml").read_text())["kitchen"]
        assert token in source
    assert ("add_vad_model" in source) == ("vad" in asked or board in ("voice-pe", "satellite1"))


# --- how ESPHome merges ---------------------------------------------------------------------------------------------


def _package(root: Path, model: Any, board: str = "own", **changes: Any) -> render.RenderResult:
    """Renders for a stand-in and lets the renderer itself check it, as a user would."""
    stand_in, substitutions = ON[board]
    given: dict[str, Any] = {
        "board": board.split(maxsplit=1)[0],
        "name": "kitchen",
        "manifest_path": model(),
        "substitutions": substitutions,
    }
    yaml_name = changes.pop("yaml", None) or _stand_in(root, stand_in, "kitchen", model)
    return render.render(root, **{**given, **changes, "yaml": yaml_name})


@needs_esphome
def test_what_the_existing_yaml_does_at_its_start_stays_and_its_files_are_not_touched(
    tmp_path: Path, model: Any
) -> None:
    yaml_name = _stand_in(tmp_path, "voice-pe.yaml", "kitchen", model)
    folder = tmp_path / "esphome"
    before = {name: (folder / name).read_bytes() for name in (yaml_name, "voice-pe.yaml")}
    result = _package(tmp_path, model, "voice-pe", yaml=yaml_name)
    assert result.checked
    assert {name: (folder / name).read_bytes() for name in before} == before
    source, _ = _generated(tmp_path)
    assert "StartupTrigger(375" in source  # on_boot, which the stand-in writes as a mapping
    assert not (folder / "secrets.yaml").exists()
    # the vendor's entities keep their names, ours have others
    for name in ("Wake word sensitivity", "Hey kitchen sensitivity", "Hey kitchen levels", "Wake model"):
        assert source.count(f'"{name}"') == 1


@needs_esphome
def test_a_yaml_that_answers_itself_is_told_before_the_assistant_starts_twice(tmp_path: Path, model: Any) -> None:
    substitutions = {k: v for k, v in ON["own answering"][1].items() if k != "mww_id"}
    with pytest.raises(ToolError, match="start twice") as refusal:
        _package(tmp_path, model, "own answering", substitutions=substitutions)
    assert "mww_id" in refusal.value.hint


@needs_esphome
def test_a_yaml_that_does_not_include_the_package_is_named(tmp_path: Path, model: Any) -> None:
    name = _stand_in(tmp_path, "own-answers.yaml", "kitchen", model)
    (tmp_path / "esphome" / name).write_text("packages:\n  vendor: !include own-answers.yaml\n")
    with pytest.raises(ToolError, match="does not take in the wake word model_hey_kitchen") as refusal:
        _package(tmp_path, model, "own answering", yaml=name)
    assert "!include mww_ha/packages/kitchen.yaml" in refusal.value.hint


@needs_esphome
def test_an_id_that_is_given_twice_is_named_with_both_places(tmp_path: Path, model: Any) -> None:
    name = _stand_in(tmp_path, "own.yaml", "kitchen", model)
    mine = tmp_path / "esphome" / name
    mine.write_text(mine.read_text() + "switch:\n  - platform: template\n    id: mww_ha_mute\n    optimistic: true\n")
    with pytest.raises(ToolError, match="the id mww_ha_mute is given twice") as refusal:
        _package(tmp_path, model, yaml=name)
    line = mine.read_text().splitlines().index("    id: mww_ha_mute") + 1
    assert f"{mine} line {line}" in refusal.value.message
    assert re.search(r"mww_ha/voice_assistant\.yaml line \d+", refusal.value.message)


@needs_esphome
def test_a_microphone_that_is_not_there_is_named(tmp_path: Path, model: Any) -> None:
    with pytest.raises(ToolError, match="hall_mic") as refusal:
        _package(tmp_path, model, substitutions={"mic_id": "hall_mic"})
    assert "name your microphone" in refusal.value.hint


@pytest.mark.parametrize(
    "mapping",
    [
        "text_sensor:\n  platform: template\n  name: Mine\n",
        "interval:\n  interval: 5s\n  then: []\n",
        "voice_assistant:\n  on_end:\n    then:\n      - delay: 1s\n",
    ],
)
def test_a_mapping_that_esphome_would_put_in_place_of_our_list_is_refused(
    tmp_path: Path, model: Any, mapping: str
) -> None:
    folder = tmp_path / "esphome"
    folder.mkdir()
    (folder / "mine.yaml").write_text(mapping)
    with pytest.raises(ConfigError, match="mapping") as refusal:
        _package(tmp_path, model, yaml="mine.yaml", check=False)
    assert mapping.partition(":")[0] in refusal.value.message
    assert not (folder / "mww_ha").exists()


# --- what is refused, and what is told -------------------------------------------------------------------------------


@pytest.mark.parametrize("board", ["voice-pe", "satellite1", "own answering"])
@pytest.mark.parametrize("slot", ["near misses", "a canary"])
def test_a_slot_that_the_existing_automation_would_answer_is_refused_with_the_reason(
    tmp_path: Path, model: Any, board: str, slot: str
) -> None:
    asked: dict[str, Any] = {"near_miss": True} if slot == "near misses" else {"canary": model(salt=b"\1")}
    with pytest.raises(ConfigError, match=f"{slot} cannot be added.*would answer"):
        _package(tmp_path, model, board, capture=CAPTURE, check=False, **asked)


def test_the_lines_to_add_are_told_and_nothing_claims_to_be_checked(tmp_path: Path, model: Any) -> None:
    for yaml_name in ("", "kitchen.yaml"):
        result = render.render(tmp_path, board="voice-pe", name="kitchen", manifest_path=model(), yaml=yaml_name)
        told = "\n".join(result.messages)
        assert "packages:\n    wake_word: !include mww_ha/packages/kitchen.yaml" in told
        assert "'hey kitchen'" in told
        assert not result.checked
        assert result.yaml_path == tmp_path / "esphome/mww_ha/packages/kitchen.yaml"
        assert ("is not there yet" in told) == bool(yaml_name)
    assert not (tmp_path / "esphome" / "kitchen.yaml").exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("wake_word: !include mww_ha/packages/kitchen.yaml", False),
        ("wake_word: !include {file: mww_ha/packages/kitchen.yaml}", False),
        ("wake_word: !include './mww_ha/packages/kitchen.yaml'", False),
        ("# wake_word: !include mww_ha/packages/kitchen.yaml", True),
        ("wake_word: !include mww_ha/packages/kitchen2.yaml", True),
    ],
)
def test_the_line_to_add_is_told_until_it_is_there(tmp_path: Path, model: Any, line: str, told: bool) -> None:
    (tmp_path / "esphome").mkdir()
    (tmp_path / "esphome" / "mine.yaml").write_text(f"packages:\n  vendor: !include vendor.yaml\n  {line}\n")
    result = render.render(
        tmp_path, board="voice-pe", name="kitchen", manifest_path=model(), yaml="mine.yaml", check=False
    )
    assert any("add the last line" in message for message in result.messages) == told


@pytest.mark.parametrize("name", ["../mine.yaml", "/etc/mine.yaml", "mine.txt", "secrets.yaml", "sub/mine.yaml"])
def test_a_yaml_that_cannot_include_the_package_is_refused(tmp_path: Path, model: Any, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the YAML"):
        _package(tmp_path, model, yaml=name, check=False)
    assert not (tmp_path / "esphome").exists()


def test_a_yaml_of_the_users_on_a_complete_board_is_refused(tmp_path: Path, model: Any) -> None:
    with pytest.raises(ConfigError, match="makes a YAML of its own"):
        render.render(
            tmp_path, board="generic-s3", name="kitchen", manifest_path=model(), yaml="mine.yaml", check=False
        )


def test_what_a_board_needs_and_what_belongs_to_another_board_is_named(tmp_path: Path, model: Any) -> None:
    with pytest.raises(ConfigError, match="own needs mic_id"):
        _package(tmp_path, model, substitutions={}, check=False)
    with pytest.raises(ConfigError, match="'speaker_clock_pin' cannot be set for this board"):
        _package(tmp_path, model, "voice-pe", substitutions={"speaker_clock_pin": "GPIO1"}, check=False)
    with pytest.raises(InputError, match="no board is called 'atom-echo'") as refusal:
        boards.find_board("atom-echo")
    assert "did you mean atom-echo-s3r" in refusal.value.hint


def test_a_board_that_needs_a_newer_esphome_says_so(tmp_path: Path, model: Any) -> None:
    tool = tmp_path / "tool.py"
    tool.write_text("print('Version: 2026.6.5')")
    with pytest.raises(ToolError, match=r"2026\.6\.5 is too old.*atoms3r-echo-base needs 2026\.10\.0") as caught:
        render.render(
            tmp_path,
            board="atoms3r-echo-base",
            name="study",
            manifest_path=model(),
            find_tool=lambda: [sys.executable, str(tool)],
        )
    assert "Python 3.12" in caught.value.hint
    assert "flash.esphome" in caught.value.hint
    assert not (tmp_path / "esphome").exists()


def test_a_complete_board_has_its_own_engine_and_takes_no_other(model, tmp_path):
    with pytest.raises(ConfigError, match="'mww_id' cannot be set"):
        render.render(
            tmp_path,
            board="generic-s3",
            name="study",
            manifest_path=model(),
            capture=render.Capture(url="http://192.168.1.10:8098/api/captures"),
            substitutions={"mww_id": "other"},
            check=False,
        )


def test_stand_ins_have_the_ids_of_the_boards_they_stand_for() -> None:
    for board, (name, given) in ON.items():
        document = yaml.load((STAND_INS / name).read_text(), Loader=templates.TemplateLoader)
        values = {**boards.find_board(board.split(maxsplit=1)[0]).values, **given}
        assert [mic["id"] for mic in document["microphone"]] == [values["mic_id"]]
        if "mww_id" in values:
            engine = document["micro_wake_word"]
            assert engine["id"] == values["mww_id"]
            heard = engine["microphone"]
            assert (heard["microphone"], str(heard["channels"]), str(heard["gain_factor"])) == (
                values["mic_id"],
                values["mic_channel"],
                values["mic_gain"],
            )
        assert "tand-in" in (STAND_INS / name).read_text().splitlines()[0]


# --- what no compiler checks: who listens when ----------------------------------------------------------------------


def _template(name: str) -> Any:
    return yaml.load((TEMPLATES / name).read_text("utf-8"), Loader=templates.TemplateLoader)


def test_an_engine_that_still_stops_is_waited_for_before_it_is_started_again() -> None:
    # micro_wake_word.start does nothing while the engine stops: a script that only looked would leave the device deaf
    (listen,) = _template("voice_assistant.yaml")["script"]
    first, *waits, last = listen["then"]
    stopped = {"not": {"micro_wake_word.is_running": None}}
    assert first == {"wait_until": {"condition": stopped, "timeout": "2s"}}
    assert [list(wait) for wait in waits] == [["wait_until"], ["wait_until"]]
    assert waits[0]["wait_until"] == {"not": {"voice_assistant.is_running": None}}
    assert last["if"] == {"condition": stopped, "then": [{"micro_wake_word.start": None}]}


@pytest.mark.parametrize("name", sorted(path.name for path in TEMPLATES.glob("*.yaml")))
def test_a_microphone_gives_a_shared_bus_away_while_the_loudspeaker_speaks(name: str) -> None:
    board = _template(name)
    buses = [{part["i2s_audio_id"] for part in board.get(kind, [])} for kind in ("microphone", "speaker")]
    players = board.get("media_player", [])
    if not buses[0] & buses[1]:
        assert not any("on_announcement" in player for player in players)
        return
    (player,) = players
    assert player["on_announcement"] == [{"micro_wake_word.stop": None}]
    (again,) = player["on_idle"]
    assert again["if"] == {"condition": "voice_assistant.connected", "then": [{"script.execute": "mww_ha_listen"}]}


def test_the_boards_whose_microphone_and_loudspeaker_share_a_bus_are_these() -> None:
    texts = {path.stem: path.read_text("utf-8") for path in TEMPLATES.glob("*.yaml")}
    sharing = {name for name, text in texts.items() if "on_announcement" in text}
    assert sharing == {"esp32-s3-box-3", "atom-echo-s3r", "atoms3r-echo-base"}

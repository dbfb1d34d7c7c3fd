"""A model is vouched for only when every check holds; a broken one is refused by name and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_manifest import _esphome_config
from toy_run import FEATURE_SET, RUN, finished_run, open_run, put_candidate
from toy_wake import bursts, random_net, toy

from mww_ha import detector, export, frontend
from mww_ha.errors import ConfigError, DataError, ExportRefusedError, ManifestError, ModelFileError, MwwError
from mww_ha.evaluate import held_out
from mww_ha.export import parity
from mww_ha.nn import quantize, streaming
from mww_ha.nn.streaming import FusedNet
from mww_ha.shards import open_shard, read_index
from mww_ha.store import Project

_MISSING = [name for name in ("tflite_micro", "pymicro_wakeword") if importlib.util.find_spec(name) is None]
needs_runtimes = pytest.mark.skipif(bool(_MISSING), reason=f"not here: {_MISSING}")


@pytest.fixture(scope="module")
def run_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Only to be read: ``toy_project`` is a copy."""
    return finished_run(tmp_path_factory.getbasetemp())


@pytest.fixture
def toy_project(run_root: Path, tmp_path: Path) -> Iterator[Project]:
    shutil.copytree(run_root, tmp_path / "project")
    project = open_run(tmp_path / "project")
    yield project
    project.catalogue.close()


def refused(project: Project) -> dict[str, str]:
    """Why the run is refused: finding by check. Nothing may have been written."""
    with pytest.raises(ExportRefusedError) as raised:
        export.run(project, run=RUN)
    assert raised.value.hint
    assert raised.value.exit_code == 5
    assert not project.models_dir.exists() or os.listdir(project.models_dir) == []
    assert project.catalogue.models() == []
    lines = raised.value.message.splitlines()[1:]
    return {name: finding for name, _, finding in (line.removeprefix("  - ").partition(": ") for line in lines)}


def write(net: FusedNet) -> bytes:
    sound = np.concatenate([bursts(np.random.default_rng(0), 20)] * 2)
    return quantize.write_tflite(
        net, quantize.measure_ranges(net, [frontend.quantize_features(frontend.features(sound))])
    )


def rewritten(change: Callable[[Any, Any, dict[str, int]], None]) -> bytes:
    """The toy's file after ``change(graph, model, index of tensor by name)``."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(toy().model, 0)
    graph = model.subgraphs[0]
    change(graph, model, {tensor.name.decode(): n for n, tensor in enumerate(graph.tensors)})
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def add_operator(graph: Any, model: Any, name: str, inputs: list[int], output: Any, at: int) -> None:
    """Puts an operator with a new output tensor before operator number ``at``."""
    from ai_edge_litert import schema_py_generated as schema

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    code.version = 2
    model.operatorCodes.append(code)
    graph.tensors.append(output)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = inputs, [len(graph.tensors) - 1]
    graph.operators.insert(at, operator)


# --- What is vouched for ---------------------------------------------------------------------------------------------


@needs_runtimes
def test_a_good_run_becomes_a_model_with_everything_that_is_known_about_it(toy_project):
    artifact = export.run(toy_project, run=RUN)
    sha = hashlib.sha256(toy().model).hexdigest()
    stem = f"a_rising_whistle-{sha[:8]}"
    assert sorted(os.listdir(toy_project.models_dir)) == [f"{stem}.about.json", f"{stem}.json", f"{stem}.tflite"]
    assert (toy_project.root / artifact.model_path).read_bytes() == toy().model
    assert (artifact.id, artifact.sha256, artifact.model_bytes) == (stem, sha, len(toy().model))
    assert toy_project.catalogue.models() == [dataclasses.asdict(artifact)]

    report = json.loads((toy_project.reports_dir / f"{RUN}.json").read_text())
    medium = next(level for level in report["levels"] if level["name"] == "medium")
    manifest = detector.load_manifest(toy_project.root / artifact.manifest_path)
    assert (manifest.cutoff, manifest.sliding_window) == (medium["cutoff"], medium["window"])
    assert manifest.wake_word == "a rising whistle"
    arena = detector.probe_arena(toy().model)
    assert manifest.tensor_arena_bytes % 16 == 0
    assert 1.3 * arena <= manifest.tensor_arena_bytes < 1.3 * arena + 16

    about = json.loads((toy_project.root / artifact.about_path).read_text())
    assert about["vouched_for"] is True
    assert {check["outcome"] for check in about["checks"]} == {"passed"}
    assert [level["name"] for level in about["levels"]] == ["slightly", "moderately", "very"]
    cutoffs = [level["probability_cutoff"] for level in about["levels"]]
    assert cutoffs == sorted(cutoffs, reverse=True)
    assert all(level["false_accepts_per_hour"]["exposure"] > 0 for level in about["levels"])
    assert (about["run"], about["feature_set"]) == (RUN, FEATURE_SET)
    # Whatever lies about on the disk of the household stays there.
    assert str(toy_project.root) not in json.dumps(about)


def test_near_misses_get_a_cutoff_below_the_levels_that_keeps_its_budget_on_validation(toy_project):
    folder = toy_project.features_dir / FEATURE_SET
    judged = json.loads((toy_project.reports_dir / f"{RUN}.json").read_text())
    per_hour = 300.0  # the toy has seconds of sound where a household has hours
    entry = export._near_miss(toy().model, folder, judged, processes=1, per_hour=per_hour)["near_miss"]
    cutoff = detector.cutoff_of_probability(entry["probability_cutoff"])
    levels = {level["name"]: level for level in judged["levels"]}
    assert export.LOWEST_NEAR_MISS <= cutoff < levels["high"]["cutoff"]

    # counted once more, scene by scene, as the firmware would
    window = levels["high"]["window"]
    events = hours = 0.0
    for name in read_index(folder)["shards"]["validation/ambient"]:
        shard = open_shard(folder, name)
        for scene in shard.scenes:
            frames = np.asarray(shard.features[scene.offset : scene.offset + scene.frames])
            scores = detector.StreamingModel(toy().model).scores(frontend.quantize_features(frames))
            events += detector.count_detections(scores, np.array([cutoff]), window)[0]
            hours += scene.frames * frontend.STEP_MS / 3_600_000
    assert 0 < events <= per_hour * hours

    # measured as the levels are, and it hears what they hear
    for rate in (entry["recall"], entry["false_accepts_per_hour"]):
        assert rate["low"] <= rate["value"] <= rate["high"]
        assert rate["exposure"] > 0
    assert entry["recall"]["events"] >= levels["high"]["recall"]["events"]
    assert entry["recall"]["exposure"] == levels["high"]["recall"]["exposure"]
    assert entry["misses_caught"]["exposure"] == 24 - levels["medium"]["recall"]["events"]
    assert entry["measured_on"] == "synthetic ambient"


@pytest.mark.parametrize(
    ("counted", "below", "chosen"),
    [
        # 2 h: 20 events are allowed, and the rate falls below that at 90
        ([(np.where(np.arange(256) < 90, 21, 20), 2.0)], 200, 90),
        # a kind alone breaks the budget up to 120, though all hours together keep it
        ([(np.zeros(256, int), 9.0), (np.where(np.arange(256) < 120, 11, 0), 1.0)], 200, 120),
        # a kind too short for one event has no vote of its own
        ([(np.zeros(256, int), 9.0), (np.where(np.arange(256) < 120, 1, 0), 0.05)], 200, export.LOWEST_NEAR_MISS),
        # a rate that rises again higher up counts from there
        ([(np.where(np.arange(256) == 150, 30, 0), 1.0)], 200, 151),
        # nothing wakes it at all: still not down to noise
        ([(np.zeros(256, int), 1.0)], 200, export.LOWEST_NEAR_MISS),
        # the budget is only kept where the levels are already
        ([(np.where(np.arange(256) < 200, 99, 0), 1.0)], 200, None),
        ([(np.full(256, 99), 1.0)], 200, None),
        ([(np.zeros(256, int), 1.0)], export.LOWEST_NEAR_MISS, None),
    ],
)
def test_the_lowest_cutoff_that_keeps_the_budget_is_chosen_or_none(counted, below, chosen):
    assert export.choose_near_miss(counted, below=below) == chosen


@pytest.mark.parametrize("kept", [[], ["validation/ambient", "validation/real"]])
def test_with_too_little_sound_to_choose_on_nothing_is_said_of_near_misses(toy_project, kept):
    folder = toy_project.features_dir / FEATURE_SET
    judged = json.loads((toy_project.reports_dir / f"{RUN}.json").read_text())
    index = read_index(folder)
    index["shards"] = {name: own for name, own in index["shards"].items() if name in kept}
    (folder / "index.json").write_text(json.dumps(index))
    assert export._near_miss(toy().model, folder, judged, processes=1) == {}


def test_exporting_again_changes_nothing(toy_project):
    first = export.run(toy_project, run=RUN)
    files = {name: (toy_project.models_dir / name).read_bytes() for name in os.listdir(toy_project.models_dir)}
    assert export.run(toy_project, run=RUN) == first
    for name, content in files.items():
        if not name.endswith(".about.json"):
            assert (toy_project.models_dir / name).read_bytes() == content
    assert sorted(os.listdir(toy_project.models_dir)) == sorted(files)
    assert len(toy_project.catalogue.models()) == 1


def test_esphome_takes_the_manifest_and_the_model(toy_project):
    pytest.importorskip("esphome")
    artifact = export.run(toy_project, run=RUN)
    code, output = _esphome_config(toy_project.root / artifact.manifest_path)
    assert code == 0, output


def test_the_wake_words_were_heard_on_the_side_the_cutoff_was_not_chosen_on(toy_project):
    report = json.loads((toy_project.reports_dir / f"{RUN}.json").read_text())
    quiet = next(row for row in report["conditions"] if row["name"].startswith("quiet"))
    assert quiet["share"]["events"] >= quiet["share"]["exposure"] - 1
    assert report["lures_all"]["events"] <= 1


@needs_runtimes
@pytest.mark.parametrize("missing", ["tflite_micro", "pymicro_wakeword"])
def test_a_check_that_cannot_run_here_is_marked_and_the_model_says_so(toy_project, monkeypatch, missing):
    find = parity.importlib.util.find_spec
    monkeypatch.setattr(parity.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    artifact = export.run(toy_project, run=RUN)
    about = json.loads((toy_project.root / artifact.about_path).read_text())
    skipped = [check for check in about["checks"] if check["outcome"] == "skipped"]
    assert about["vouched_for"] is False
    assert skipped
    assert all("not available" in check["finding"] for check in skipped)
    assert artifact.tensor_arena_bytes >= 1.3 * detector.probe_arena(toy().model)


# --- What is refused -------------------------------------------------------------------------------------------------


def test_a_model_that_answers_in_floating_point_is_refused(toy_project):
    from ai_edge_litert import schema_py_generated as schema

    def change(graph, model, index):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = "float", [1, 1], schema.TensorType.FLOAT32, 0
        add_operator(graph, model, "DEQUANTIZE", [index["probability"]], tensor, len(graph.operators))
        graph.outputs = [len(graph.tensors) - 1]

    put_candidate(toy_project, toy().net, rewritten(change))
    assert "float32" in refused(toy_project)["input and output"]


def test_a_model_that_answers_in_int8_is_refused(toy_project):
    def change(graph, model, index):
        graph.outputs = [index["probability"]]

    put_candidate(toy_project, toy().net, rewritten(change))
    assert "int8" in refused(toy_project)["input and output"]


def test_a_model_with_another_step_than_its_network_is_refused(toy_project):
    net = random_net(np.random.default_rng(0), stride=2)
    put_candidate(toy_project, toy().net, write(net))
    assert "3 frames" in refused(toy_project)["input and output"]


def test_a_file_that_is_no_model_is_named(toy_project):
    put_candidate(toy_project, toy().net, toy().model[: len(toy().model) // 2])
    assert "input and output" in refused(toy_project)
    put_candidate(toy_project, toy().net, b"no model")
    with pytest.raises(ModelFileError, match=r"candidate\.tflite"):
        export.run(toy_project, run=RUN)


def test_an_operator_that_esphome_does_not_register_is_refused(toy_project):
    def change(graph, model, index):
        import copy

        at = next(n for n, op in enumerate(graph.operators) if list(op.inputs) == [index["logit"]])
        higher = copy.deepcopy(graph.tensors[index["logit"]])
        higher.name = "logit again"
        add_operator(graph, model, "MAXIMUM", [index["logit"], index["logit"]], higher, at)
        graph.operators[at + 1].inputs = [len(graph.tensors) - 1]

    model = rewritten(change)
    int8 = np.full((300, 40), -100, np.int8)
    # It runs, and runs the same: only the device would not.
    np.testing.assert_array_equal(
        detector.StreamingModel(model).scores(int8), detector.StreamingModel(toy().model).scores(int8)
    )
    put_candidate(toy_project, toy().net, model)
    assert refused(toy_project) == {"operators": "ESPHome does not register MAXIMUM"}


@needs_runtimes
def test_a_network_too_large_for_a_device_is_refused(toy_project):
    net = random_net(np.random.default_rng(0), stem_filters=64, filters=160, kernels=(9, 21, 31))
    put_candidate(toy_project, net, write(net))
    reasons = refused(toy_project)
    assert "at most 65000" in reasons["size"]
    assert "at most 30000" in reasons["tensor arena"]


def test_more_variables_than_the_firmware_has_room_for_are_refused(toy_project):
    net = random_net(np.random.default_rng(0), stem_filters=4, filters=4, kernels=(3,) * 19)
    put_candidate(toy_project, net, write(net))
    assert refused(toy_project)["variables"] == "21, at most 20"


def test_a_file_made_of_other_weights_than_the_run_kept_is_refused(toy_project):
    other = dataclasses.replace(toy().net, head=np.ascontiguousarray(toy().net.head[::-1]))
    put_candidate(toy_project, other, toy().model)
    reasons = refused(toy_project)
    assert {"INT8 near floating point", "no decision flipped"} <= set(reasons)


def test_a_network_that_is_not_finite_is_refused(toy_project):
    net = dataclasses.replace(toy().net, head_bias=float("nan"))
    put_candidate(toy_project, net, toy().model)
    assert "batch equals stream" in refused(toy_project)


def test_scores_that_saturate_are_refused(toy_project):
    net = streaming.scale_logits(toy().net, 50.0, 0.0)
    put_candidate(toy_project, net, write(net))
    held_out.run(toy_project, run=RUN)
    assert "are 250 or more" in refused(toy_project)["scores do not saturate"]


@needs_runtimes
def test_a_model_that_never_wakes_is_refused(toy_project):
    net = streaming.scale_logits(toy().net, 1.0, -20.0)
    put_candidate(toy_project, net, write(net))
    reasons = refused(toy_project)
    assert reasons["loads and detects in pymicro-wakeword"].startswith("0 of ")


@needs_runtimes
def test_a_model_that_the_runtimes_compute_differently_is_refused(toy_project):
    """FULLY_CONNECTED rounds once in the reference kernels and twice in TFLite Micro."""
    from ai_edge_litert import schema_py_generated as schema

    def change(graph, model, index):
        at = next(n for n, op in enumerate(graph.operators) if list(op.outputs) == [index["logit.tall"]])
        head = graph.operators[at]
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
        code.version = 4
        model.operatorCodes.append(code)
        head.opcodeIndex = len(model.operatorCodes) - 1
        head.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        head.builtinOptions = schema.FullyConnectedOptionsT()
        weights = graph.tensors[index["head.weights"]]
        weights.shape = [1, int(np.prod(weights.shape))]
        graph.tensors[index["logit.tall"]].shape = [1, 1]

    put_candidate(toy_project, toy().net, rewritten(change))
    reason = refused(toy_project)["reference kernels equal TFLite Micro"]
    assert int(reason.split()[0]) >= 5, reason
    assert "scores differ" in reason


@needs_runtimes
def test_every_check_there_is_was_seen_to_fail(toy_project):
    checks = parity.check(
        toy().model,
        toy().net,
        toy_project.features_dir / FEATURE_SET,
        json.loads((toy_project.features_dir / FEATURE_SET / "index.json").read_text()),
        cutoff=150,
        window=3,
        judged={"levels": [{"cutoff": 140}, {"cutoff": 150}]},
    )
    source = Path(__file__).read_text()
    assert [check.name for check in checks if f'"{check.name}"' not in source] == []
    assert {check.outcome for check in checks} == {"passed"}


# --- What is missing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lost",
    [
        f"runs/{RUN}/net.npz",
        f"runs/{RUN}/candidate.tflite",
        f"reports/{RUN}.json",
        f"features/{FEATURE_SET}/index.json",
        f"features/{FEATURE_SET}/validation-noise.u16",
        f"features/{FEATURE_SET}/validation-quiet.json",
    ],
)
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_piece_that_is_missing_or_cut_short_is_named(toy_project, lost, how):
    path = toy_project.root / lost
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 - 1])
    with pytest.raises(MwwError) as raised:
        export.run(toy_project, run=RUN)
    assert raised.value.hint
    if not (how == "cut" and lost.endswith("candidate.tflite")):
        assert path.name.partition(".")[0] in raised.value.message or path.parent.name in raised.value.message
    assert not toy_project.models_dir.exists()


def test_a_run_that_is_not_finished_or_not_known_is_not_exported(toy_project):
    with pytest.raises(DataError, match="nobody knows"):
        export.run(toy_project, run="nobody knows")
    document = toy_project.catalogue.runs()[0]
    toy_project.catalogue.put_run(RUN, document["started_at"], document | {"outcome": "stopped"})
    with pytest.raises(DataError, match="not trained"):
        export.run(toy_project, run=RUN)


def test_a_setting_that_esphome_would_refuse_leaves_no_model_behind(toy_project):
    with pytest.raises(ConfigError, match="author"):
        open_run(toy_project.root, export__author="''")
    settings = toy_project.settings
    nameless = dataclasses.replace(settings, export=dataclasses.replace(settings.export, author=""))
    with pytest.raises(ManifestError, match="author"):
        export.run(dataclasses.replace(toy_project, settings=nameless), run=RUN)
    assert os.listdir(toy_project.models_dir) == []
    assert toy_project.catalogue.models() == []


def test_too_little_sound_to_compare_on_is_named(toy_project):
    folder = toy_project.features_dir / FEATURE_SET
    index = json.loads((folder / "index.json").read_text())
    index["shards"] = {k: v for k, v in index["shards"].items() if k == "validation/quiet"}
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="too few"):
        export.run(toy_project, run=RUN)


@pytest.mark.parametrize(("size", "rounded"), [(0, 0), (1, 16), (15, 16), (16, 16), (17, 32)])
def test_an_arena_is_a_multiple_of_sixteen(size, rounded):
    assert export.round_up(size) == rounded

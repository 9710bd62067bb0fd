"""Every kind of file that fastkd reads, damaged and made up: what comes of it is a value or one line.

Cases follow from their number. A few hundred are tried here, many thousands at night.
"""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from helpers.hostile import (
    ODD_TENSORS,
    ODD_VALUES,
    STRANGE,
    changed,
    damaged,
    json_bytes,
    line_of,
    put_strange,
)
from helpers.interrupts import AfterSteps
from helpers.stores import opened
from helpers.tiny import Quiet, job_of, tiny_recipe, train
from safetensors.torch import load, save

from fastkd.data import found as kept_heads
from fastkd.report import write_report
from fastkd.run import check, open_run, seed_folders
from fastkd.run.description import KEY
from fastkd.run.run import Run
from fastkd.run.status import status_of
from fastkd.run.weights import WeightsFiles, describe, open_network, rebuilt_for
from fastkd.status import lines
from fastkd.support import environment, files, states
from fastkd.support.heartbeat import Heartbeat, read_heartbeat
from fastkd.support.interrupt import Stopped
from fastkd.support.log import MetricsLog, read_metrics
from fastkd.support.session import Session
from fastkd.training.checkpoint import read_checkpoint
from fastkd.training.checkpoint_shares import share_of

FEW, MANY = 40, 1500
NIGHT = pytest.param(MANY, marks=pytest.mark.slow)
pytestmark = pytest.mark.filterwarnings("ignore")  # numpy and torch warn of numbers that are none


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run that was stopped in its student's training, with a teacher's store in it: it has every kind of file.

    The files of a store's rows are no part of it: tests/stored has them, with what their checks find.
    """
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        train(tiny_recipe(keep_epochs=(1,)), folder, AfterSteps(patch, 11))
    files.write_json(folder / "env.json", environment.this_call() | {"earlier": []} | environment.collect())
    Heartbeat(folder / "heartbeat.json").beat(stage="student", epoch=1, epochs=2, step=3, seconds_left=1.0, loss=0.5)
    store = opened(folder)
    store.sign()
    store.close()
    share_out(folder / "checkpoints" / "student.pt")
    return folder


def share_out(checkpoint: Path) -> None:
    """Leaves the rows of one weight to two shares, as two processes would."""
    state, _ = states.read_state(checkpoint)
    name, weight = next(iter(state["model"].items()))
    state["shares"] = []
    for number, rows in enumerate(weight.tensor_split(2)):
        share = {"stage": "student", "number": number, "model": {name: rows.clone()}}
        written = states.write_state(share_of(checkpoint, number), share)
        state["shares"].append({"number": number, "bytes": written.size, "sha256": written.sha256})
    del state["model"][name]
    states.write_state(checkpoint, state)


@pytest.fixture
def run(good, tmp_path):
    return shutil.copytree(good, tmp_path / "run")


def stands(run: Path) -> None:
    lines([status_of(run)])
    read_heartbeat(run / "heartbeat.json")


def report(run: Path) -> None:
    write_report([run], run.parent / "report.html")


READERS = {
    "recipe.json": report,
    "results.json": report,
    "metrics.jsonl": report,
    "env.json": report,
    "heartbeat.json": stands,
    "teacher.safetensors": lambda run: open_network(run / "teacher.safetensors"),
    "checkpoints/teacher@1.safetensors": lambda run: open_network(run / "checkpoints" / "teacher@1.safetensors"),
    **dict.fromkeys(
        (f"checkpoints/student.pt{share}" for share in ("", ".0", ".1")),
        lambda run: read_checkpoint(run / "checkpoints" / "student.pt", "student"),
    ),
    "teacher/store.json": lambda run: opened(run, exact=True).close(),
}
"""{a file of a run: what reads it}"""


def test_every_file_of_a_run_has_a_reader(good):
    there = {str(path.relative_to(good)) for path in good.rglob("*") if path.is_file()}
    assert {name for name in there if not name.endswith(".lock")} == set(READERS)


@pytest.mark.parametrize("cases", (FEW, NIGHT))
@pytest.mark.parametrize("name", READERS)
def test_damaged_bytes(name, cases, run):
    path, content = run / name, (run / name).read_bytes()
    for number in range(cases):
        path.write_bytes(damaged(content, random.Random(f"{name} {number}")))
        line_of(lambda: READERS[name](run), (name, number))


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_regular_file(name, what, run):
    put_strange(run / name, what)
    line = line_of(lambda: READERS[name](run), (name, what))
    assert line or what in ("nowhere", "folder"), "a link that leads nowhere is a file that is not there"


@pytest.mark.parametrize("cases", (FEW, NIGHT))
@pytest.mark.parametrize("name", ("recipe.json", "results.json", "env.json", "heartbeat.json", "teacher/store.json"))
def test_other_json(name, cases, run):
    value = json.loads((run / name).read_text())
    for number in range(cases):
        other = changed(value, random.Random(f"{name} {number}"), ODD_VALUES)
        (run / name).write_bytes(json_bytes(other))
        line_of(lambda: READERS[name](run), other)


@pytest.mark.parametrize("cases", (FEW // 4, NIGHT))
def test_recipes_that_are_read_can_be_built_or_refused(cases, run):
    """What `--resume` does before it trains."""
    value = json.loads((run / "recipe.json").read_text())
    for number in range(cases):
        other = changed(value, random.Random(f"built {number}"), ODD_VALUES)
        (run / "recipe.json").write_bytes(json_bytes(other))
        line_of(lambda: built(run), other)


def built(run: Path) -> None:
    recipe = open_run(run)
    if recipe.image_size == 8 and all(s.training is None or s.training.epochs < 99 for s in recipe.stages):
        check(job_of(recipe))


@pytest.mark.parametrize("cases", (FEW, NIGHT))
def test_other_records(cases, run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    for number in range(cases):
        chance = random.Random(f"record {number}")
        place = chance.randrange(len(lines))
        other = changed(json.loads(lines[place]), chance, ODD_VALUES)
        content = [*lines[:place], json.dumps(other), *lines[place + 1 :]]
        (run / "metrics.jsonl").write_text("\n".join(content) + "\n")
        line_of(lambda: report(run), other)
        log = MetricsLog(run / "metrics.jsonl")
        assert line_of(lambda log=log, chance=chance: log.cut(chance.randrange(3000)), other) == ""
        assert all(isinstance(record["stage"], str) for record in read_metrics(run / "metrics.jsonl"))


@pytest.mark.parametrize("cases", (FEW, NIGHT))
def test_other_metadata(cases, run):
    file = run / "student.safetensors"
    content = (run / "teacher.safetensors").read_bytes()
    weights = load(content)
    taught = {"methods": {"simkd": {}}, "teachers": [describe(run / "teacher.safetensors")._asdict()]}
    taught["teachers"][0].pop("deployment")
    value = describe(run / "teacher.safetensors")._asdict() | {"deployment": taught}
    for number in range(cases):
        other = changed(value, random.Random(f"metadata {number}"), ODD_VALUES)
        file.write_bytes(save(weights, {KEY: json.dumps(other)}))
        line_of(lambda: rebuilt_if_small(file), other)


def rebuilt_if_small(file: Path) -> None:
    found = WeightsFiles().read(file)
    if found.description is not None and found.description.num_classes < 1000:
        rebuilt_for(found)


class TestCheckpoints:
    """Read into a training, as `--resume` does."""

    @pytest.fixture(scope="class")
    def trainer(self, good):
        job = job_of(tiny_recipe(keep_epochs=(1,)))
        run = Run(job, 0, good, Session(Quiet()))
        planned = job.course[0]
        student = next(planned for planned in job.course if planned.name == "student")
        run.earlier.add(planned, run.builder.stage(planned, run.earlier))
        return run.trainer(student, run.builder.stage(student, run.earlier))

    @pytest.mark.parametrize("cases", (FEW, NIGHT))
    def test_other_states(self, cases, trainer, run):
        trainer.saving.checkpoint = run / "checkpoints" / "student.pt"
        state = torch.load(trainer.saving.checkpoint, weights_only=True)
        for number in range(cases):
            other = changed(state, random.Random(f"state {number}"), [*ODD_VALUES, *ODD_TENSORS])
            if isinstance(other, dict):
                states.write_state(trainer.saving.checkpoint, other)
                line_of(trainer.load, (number, other.keys()))

    @pytest.mark.parametrize("cases", (FEW, NIGHT))
    def test_other_shares(self, cases, trainer, run):
        trainer.saving.checkpoint = run / "checkpoints" / "student.pt"
        state, share = (states.read_state(run / "checkpoints" / f"student.pt{end}")[0] for end in ("", ".1"))
        for number in range(cases):
            other = changed(share, random.Random(f"share {number}"), [*ODD_VALUES, *ODD_TENSORS])
            if isinstance(other, dict):
                written = states.write_state(share_of(trainer.saving.checkpoint, 1), other)
                state["shares"][1] |= {"bytes": written.size, "sha256": written.sha256}
                states.write_state(trainer.saving.checkpoint, state)
                line_of(trainer.load, (number, other.keys()))

    def test_a_state_that_lacks_a_part_of_the_training_is_refused(self, trainer, run):
        """Each entry of a checkpoint is gone or empty in turn."""
        trainer.saving.checkpoint = run / "checkpoints" / "student.pt"
        state = torch.load(trainer.saving.checkpoint, weights_only=True)
        states.write_state(trainer.saving.checkpoint, state)
        assert line_of(trainer.load, "as it was") == ""
        for name, value in state.items():
            states.write_state(trainer.saving.checkpoint, {key: item for key, item in state.items() if key != name})
            assert str(trainer.saving.checkpoint) in line_of(trainer.load, f"without {name}")
            if isinstance(value, dict | list) and value and name != "identity":
                states.write_state(trainer.saving.checkpoint, state | {name: type(value)()})
                assert str(trainer.saving.checkpoint) in line_of(trainer.load, f"empty {name}")


@pytest.mark.parametrize("cases", (FEW, NIGHT))
def test_other_indices(cases, tmp_path):
    """A kept index that is not what was written is no index: the folder is scanned anew."""
    import numpy as np

    heads = kept_heads.Heads(np.array([[4, 5], [0, 0]], np.int32), np.array([True, False]), {1: "is empty"})
    file = tmp_path / "index.npz"
    kept_heads._write(file, "key", heads)
    content = file.read_bytes()
    assert kept_heads._read(file, "key", 2) is not None
    for number in range(cases):
        chance = random.Random(f"index {number}")
        if number % 2:
            file.write_bytes(damaged(content, chance))
        else:
            made_up_index(file, chance)
        found = kept_heads._read(file, "key", 2)
        if found is not None:
            assert found.sizes.tolist() == heads.sizes.tolist() and found.bad.keys() == heads.bad.keys()


def made_up_index(file: Path, chance: random.Random) -> None:
    import numpy as np

    about = changed({"format": 2, "key": "key", "bad": {"1": "is empty"}, "scaled": 0}, chance, ODD_VALUES)
    shapes = [(2, 2), (2, 3), (2,), (0, 2), (1, 2), (2, 2, 1)]
    sizes = np.zeros(chance.choice(shapes), chance.choice([np.int32, np.float64, np.int64, "U3"]))
    plain = np.zeros(chance.choice([(2,), (3,), (2, 2), ()]), chance.choice([bool, np.int8]))
    np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), sizes=sizes, plain=plain)


def test_names_of_seed_folders(tmp_path):
    names = ["seed-0", "seed-10", "seed-9", "seed-0.bak", "seed-0-old", "seed-0 (copy)", "seed-", "seed-01", "seed-x"]
    for name in [*names, "seed-1²", "seed-٣", "seed-" + "9" * 200]:
        (tmp_path / name).mkdir()
    (tmp_path / "seed-3").write_text("")
    (tmp_path / "seed-4").symlink_to("seed-4")
    assert "circle" in line_of(lambda: seed_folders(tmp_path), "a loop")
    (tmp_path / "seed-4").unlink()
    assert [path.name for path in seed_folders(tmp_path)] == ["seed-0", "seed-9", "seed-10"]

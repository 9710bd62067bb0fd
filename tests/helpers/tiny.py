"""A recipe that trains in a second, and what it leaves behind."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from fastkd import recipes
from fastkd.data import DataSet
from fastkd.recipes.recipe import Recipe
from fastkd.run import Job, carry_out, create_folder, open_data
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.support.display import Display
from fastkd.support.files import sha256
from fastkd.support.interrupt import Interrupt
from fastkd.support.session import Session
from fastkd.training.execution import EVERYTHING_OFF, Resolved
from fastkd.training.stages import Stage

CPU = torch.device("cpu")
TIMES = (
    *("seconds", "starting_seconds", "images_per_second", "metrics_bytes"),
    *("data_time", "data_share", "memory", "ranks"),
)
"""What results and records say that differs from run to run."""


def tiny_recipe(**changes) -> Recipe:
    """Two blocks of digits, an SFTN teacher, a student and a control; two epochs of four steps each."""
    recipe = recipes.digits(teacher_net="resnet8", student="resnet8")
    stages = tuple(replace(stage, training=replace(stage.training, epochs=2, batch_size=32)) for stage in recipe.stages)
    return replace(recipe, **({"stages": stages, "seeds": 1, "limit_train": 128, "threads": 1} | changes))


def job_of(recipe: Recipe, execution: Resolved | None = None, data: DataSet | None = None) -> Job:
    """What the recipe comes to on the CPU; execution: in place of what `auto` means there."""
    job = Job.of(recipe, data or open_data(recipe), CPU)
    return job if execution is None else replace(job, execution=execution)


def built_stages(recipe: Recipe, execution: Resolved = EVERYTHING_OFF) -> tuple[Builder, dict[str, Stage]]:
    """Every stage of the course, with teachers that are not trained, and who built them."""
    job = job_of(recipe, execution)
    builder, earlier, stages = Builder(job, recipe.seed), Earlier(job.course), {}
    for planned in job.course:
        stages[planned.name] = builder.stage(planned, earlier)
        earlier.add(planned, stages[planned.name])
    return builder, stages


class Quiet(Display):
    def __init__(self):
        super().__init__(terminal=False, every_seconds=1e9)
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def due(self):
        return False


def train(recipe: Recipe, folder: Path, interrupt: Interrupt | None = None, display: Display | None = None):
    """Begins the run, or goes on with it where the folder has one."""
    if not (folder / "recipe.json").exists():
        create_folder(folder, recipe)
    # Without signs of life, of which there are more where the machine is slow: tests count what is written.
    return carry_out(job_of(recipe), folder, Session(display or Quiet(), interrupt or Interrupt(), heartbeat_seconds=0))


def outcome(folder: Path) -> dict:
    """Everything a run leaves that must not depend on when it was interrupted: weights, results, log (not times)."""
    weights = {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    hashes = {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}
    results = json.loads((folder / "results.json").read_text())
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in [*results["stages"].values(), *log, results]:
        for timing in TIMES:
            record.pop(timing, None)
    return {"weights": weights, "files": hashes, "results": results, "log": log}


def assert_same(found: dict, expected: dict) -> None:
    """Bit for bit."""
    assert found["weights"].keys() == expected["weights"].keys()
    for name, tensors in expected["weights"].items():
        assert tensors.keys() == found["weights"][name].keys()
        for key, value in tensors.items():
            assert torch.equal(found["weights"][name][key], value), f"{name}: {key}"
    assert found["files"] == expected["files"]
    assert found["results"] == expected["results"]
    assert found["log"] == expected["log"]

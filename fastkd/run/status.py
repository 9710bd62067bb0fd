"""How a run stands, by what lies in its folder: nothing is locked, written or asked of the machine it goes on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fastkd.recipes.recipe import Recipe
from fastkd.run.folder import holds_run, open_run, read_results, seed_folders
from fastkd.support.errors import UserError
from fastkd.support.heartbeat import FILE, LONG_PATIENCE, PATIENCE, read_heartbeat
from fastkd.support.log import read_metrics
from fastkd.support.paths import inside, is_folder, is_there, modified
from fastkd.support.processes import is_gone

State = Literal["running", "finished", "stopped", "failed", "stalled", "killed", "damaged"]
GOING_WELL = ("running", "finished")
_DEEPEST = 3
"""Folders below the one that is named, in which runs are looked for."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How a run stands. What is not known is None."""

    folder: Path
    state: State
    what: str = ""
    """What a plan's training trains: its folder's name does not say."""
    doing: str = ""
    """What it does beside taking steps; why it has ended, or what is wrong with its files."""
    seed: int | None = None
    stage: str | None = None
    epoch: int | None = None
    """The epoch that is running, from 1, or the last one that is done."""
    epochs: int | None = None
    step: int | None = None
    """Steps of the stage that are done."""
    steps: int | None = None
    images_per_second: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    """The share of test images that the stage's network was right about when it was tested last."""
    seconds_left: float | None = None
    run_seconds_left: float | None = None
    host: str | None = None
    processes: int | None = None
    last: float | None = None
    """When it gave the last sign of life, in seconds since 1970."""
    silent_for: float | None = None
    """Seconds since then."""


def run_folders(folder: Path) -> list[Path]:
    """The folder itself where it holds a run, else the runs in it; those of a plan are its trainings.

    Raises UserError where there is no such folder, and none in it.
    """
    if not is_folder(folder):
        raise UserError(f"no run folder {folder}")
    found = _runs_in(folder, _DEEPEST)
    if not found:
        raise UserError(f"{folder} is no run folder, and none lies in it: there is no recipe.json")
    return found


def _runs_in(folder: Path, deep: int) -> list[Path]:
    if holds_run(folder):
        return [folder]
    if not deep:
        return []
    within = folder / "nodes" if is_folder(folder / "nodes") else folder
    return [run for below in inside(within, "[!.]*") if is_folder(below) for run in _runs_in(below, deep - 1)]


def status_of(folder: Path, *, patience: float | None = None) -> RunStatus:
    """How the run in a folder stands. patience: seconds without a sign of life after which it has stalled; by default
    what the run itself says, which knows how long its steps take."""
    try:
        if is_there(folder / FILE):
            found = _by_heartbeat(folder, patience)
        else:
            found = _by_its_files(folder, LONG_PATIENCE if patience is None else patience)
        return replace(found, what=_what(folder)) if folder.parent.name == "nodes" else found
    except UserError as error:
        return RunStatus(folder=folder, state="damaged", doing=str(error))


def _what(folder: Path) -> str:
    """`resnet8 by kd`: the training of a plan is its recipe's last stage."""
    own = open_run(folder).stages[-1]
    return f"{own.network} by {own.method}" if own.method else own.network


def _by_heartbeat(folder: Path, patience: float | None) -> RunStatus:
    last, found = modified(folder / FILE), read_heartbeat(folder / FILE)
    silent_for = _age(last)
    state: State = found["state"]
    if state == "running":
        promised = found.get("patience", PATIENCE) if patience is None else patience
        if is_gone(found):
            state = "killed"
        elif silent_for is not None and silent_for > promised:
            state = "stalled"
    about = {name: found[name] for name in found if name in RunStatus.__dataclass_fields__ and name != "state"}
    words = found.get("why", found.get("doing", ""))
    return RunStatus(folder=folder, last=last, silent_for=silent_for, **about | {"state": state, "doing": words})


def _by_its_files(folder: Path, patience: float) -> RunStatus:
    """What can be said of a run without signs of life: by results, the log, and when they were written."""
    recipe, seeds = open_run(folder), seed_folders(folder) or [folder]
    last = max((at for seed in seeds for at in map(modified, _written(seed)) if at is not None), default=None)
    silent_for = _age(last)
    stages = [_finished(seed) for seed in seeds]
    done = len(seeds) == recipe.seeds and all(stage.name in found for found in stages for stage in recipe.stages)
    stale = silent_for is None or silent_for > patience
    state: State = "finished" if done else "stalled" if stale else "running"
    words = "" if done else "without a heartbeat"
    about = _by_its_log(recipe, seeds)
    return RunStatus(folder=folder, state=state, doing=words, last=last, silent_for=silent_for, **about)


def _written(seed: Path) -> Sequence[Path]:
    """What a run writes while it goes on."""
    return (seed / "recipe.json", seed / "metrics.jsonl", seed / "results.json", *inside(seed / "checkpoints", "*.pt"))


def _finished(seed: Path) -> dict[str, Any]:
    file = seed / "results.json"
    return read_results(file)["stages"] if is_there(file) else {}


def _by_its_log(recipe: Recipe, seeds: Sequence[Path]) -> dict[str, Any]:
    """What the last record of the last seed that has one says."""
    logs = ((seed, read_metrics(seed / "metrics.jsonl")) for seed in reversed(seeds))
    seed, records = next(((seed, records) for seed, records in logs if records), (seeds[0], []))
    if not records:
        return {}
    record, stage = records[-1], recipe.stage(records[-1]["stage"])
    own = [one for one in records if one["stage"] == record["stage"]]
    told: dict[str, Any] = {name: record.get(name) for name in ("stage", "step", "images_per_second")}
    told["loss"] = record["train"]["loss"]
    told["epoch"] = next((one["epoch"] for one in reversed(own) if "epoch" in one), None)
    if stage is not None and stage.training is not None:
        told["epochs"] = stage.training.epochs
    if seed.name.startswith("seed-") and recipe.seeds > 1:
        told["seed"] = int(seed.name.removeprefix("seed-"))
    tested = next((next(iter(one["test"].values())) for one in reversed(own) if one.get("test")), None)
    return told | ({"accuracy": tested["top1"] / tested["samples"]} if tested else {})


def _age(last: float | None) -> float | None:
    """Seconds since then; none where the clock of another machine is ahead of ours."""
    return None if last is None else max(0.0, time.time() - last)

"""A run as a report shows it: what its files hold, what it is called, and its colour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastkd.methods import short_name
from fastkd.recipes.recipe import Recipe
from fastkd.run.curves import Curves, coloured
from fastkd.run.folder import open_run, read_environment, read_results, seed_folders
from fastkd.run.labels import labels, settings
from fastkd.run.page import Html, join, swatch
from fastkd.support.log import read_metrics
from fastkd.support.paths import is_there


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A run as the report shows it. Nothing that its files name is imported."""

    folder: Path
    recipe: Recipe
    results: list[dict[str, Any]]
    """The results of the seeds that have any."""
    logs: list[list[dict[str, Any]]]
    """The log's records of each seed."""
    environment: Mapping[str, Any]
    settings: Mapping[str, str]
    label: str = ""
    """What tells it from the others."""
    curves: Curves = field(default_factory=lambda: Curves("", (), {}))

    @property
    def name(self) -> Html:
        """Its label behind its colour."""
        return join((swatch(self.curves.colour) if self.curves.colour else "", self.label))


def read_runs(folders: Sequence[Path]) -> list[Shown]:
    """The runs in some folders, told apart; raises UserError for a folder that is no run."""
    runs = [_read(folder) for folder in folders]
    names = labels([run.settings for run in runs], [str(folder) for folder in folders])
    if len(runs) == 1:
        names = [runs[0].recipe.name]
    drawn = coloured([_drawn(run, name) for run, name in zip(runs, names, strict=True)])
    return [replace(run, label=name, curves=curves) for run, name, curves in zip(runs, names, drawn, strict=True)]


def _read(folder: Path) -> Shown:
    recipe = open_run(folder)
    seeds = seed_folders(folder) or [folder]
    results = [read_results(seed / "results.json") for seed in seeds if is_there(seed / "results.json")]
    logs = [read_metrics(seed / "metrics.jsonl") for seed in seeds]
    given = {"environment": read_environment(folder), "settings": settings(recipe)}
    return Shown(folder=folder, recipe=recipe, results=results, logs=logs, **given)


def _drawn(run: Shown, label: str) -> Curves:
    stages = run.recipe.stages
    roles = {stage.name: stage.role for stage in stages}
    alone = {stage.name: short_name(stage.method) for stage in stages if stage.method and "+" not in stage.method}
    return Curves(label, run.logs, roles, methods=alone)

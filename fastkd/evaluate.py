"""python -m fastkd.evaluate RUN [--data …]: accuracy of teacher and student, and how alike they are."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.table import Table

from fastkd.options import with_absolute_path
from fastkd.run import Job, load_network, open_data, open_run, seed_folders
from fastkd.run.figures import mean_and_std
from fastkd.run.weights import describe, export_network, find_weights
from fastkd.support import environment
from fastkd.support.command_line import command, read_options
from fastkd.support.console import table_console
from fastkd.support.environment import pick_device
from fastkd.support.errors import UserError
from fastkd.training.evaluation import accuracies, similarity
from fastkd.training.execution import Execution


@dataclass(frozen=True, kw_only=True)
class Options:
    """Tests the networks of a finished run: top-1 and top-5, KL(teacher ‖ student), CKA and top-1 agreement."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run folder; of a run with several seeds all are tested."""
    data: str = ""
    """NAME:PATH of another data set with the same classes (default: the run's own)."""
    export: Path | None = None
    """Write the student as a torch.export program: normalised images, any number, to logits; needs torch alone."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: list[str]) -> int:
    options = read_options(Options, arguments, program="python -m fastkd.evaluate")
    if options.export is not None:
        find_weights(str(options.run), "student")  # it refuses a run of several seeds before anything is measured
    folders = seed_folders(options.run) or [options.run]
    measured = {folder.name: evaluate(folder, options.data, pick_device(options.device)) for folder in folders}
    if options.json:
        print(json.dumps(measured if len(folders) > 1 else measured[folders[0].name], indent=2))
    else:
        _print(options.run, list(measured.values()))
    if options.export is not None:
        export_network(options.export, load_network(options.run, "student"), open_run(options.run).image_size)
    return 0


def evaluate(folder: Path, data: str, device: torch.device) -> dict[str, dict[str, Any]]:
    """{stage: {"network", "top1", "top5", "samples" and, for all but the teacher, "kl", "cka", "agreement"}}."""
    recipe = open_run(folder)
    if data:
        recipe = replace(recipe, data=with_absolute_path(data))
    environment.set_threads(recipe.threads)
    images = open_data(replace(recipe, limit_train=None), folder)
    source = Job.of(replace(recipe, execution=Execution(channels_last="off")), images, device).test_source()
    for stage in recipe.stages:
        description = describe(find_weights(str(folder), stage.name))
        if description is not None and description.num_classes != len(images.classes):
            has = f"{recipe.data} has {len(images.classes)} classes"
            raise UserError(f"{has}, the {stage.name} of {folder} knows {description.num_classes}")
    loaded = {stage.name: load_network(folder, stage.name).to(device) for stage in recipe.stages}
    counts = accuracies(lambda batch: {name: network(batch).logits for name, network in loaded.items()}, source, device)
    measured: dict[str, dict[str, Any]] = {}
    for stage in recipe.stages:
        measured[stage.name] = {"network": stage.network, **counts[stage.name]}
        if stage.name != "teacher" and "teacher" in loaded:
            measured[stage.name] |= similarity(loaded["teacher"], loaded[stage.name], source, device)
    return measured


COLUMNS = (
    ("top-1 %", "top1", 100, 2),
    ("top-5 %", "top5", 100, 2),
    ("KL to teacher", "kl", 1, 4),
    ("CKA", "cka", 1, 3),
    ("same top-1 %", "agreement", 100, 2),
)


def _print(folder: Path, seeds: Sequence[dict[str, dict[str, Any]]]) -> None:
    samples = next(iter(seeds[0].values()))["samples"]
    several = f", mean ± std over {len(seeds)} seeds" if len(seeds) > 1 else ""
    table = Table("", "network")
    for heading, *_ in COLUMNS:
        table.add_column(heading, justify="right")
    for name, first in seeds[0].items():
        cells = []
        for _, key, factor, digits in COLUMNS:
            per = samples if key in ("top1", "top5") else 1
            values = [factor * seed[name][key] / per for seed in seeds if key in seed[name]]
            cells.append(mean_and_std(values).show(digits) if values else "")
        table.add_row(name, first["network"], *cells)
    console = table_console()
    console.print(f"{folder}: {samples:,} test images{several}", markup=False, soft_wrap=True)
    console.print(table)


if __name__ == "__main__":
    sys.exit(command(main))

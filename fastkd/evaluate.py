"""python -m fastkd.evaluate RUN [--data …]: accuracy of teacher and student, and how alike they are."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from fastkd import environment
from fastkd.building import EVALUATION_BATCH, open_data, workers
from fastkd.command import command
from fastkd.data import evaluation_source
from fastkd.environment import pick_device
from fastkd.errors import UserError
from fastkd.evaluation import accuracies, similarity
from fastkd.options import with_absolute_path
from fastkd.run import load_network, open_run
from fastkd.weights import describe, export_network, find_weights


@dataclass(frozen=True, kw_only=True)
class Options:
    """Tests the networks of a finished run: top-1 and top-5, KL(teacher ‖ student), CKA and top-1 agreement."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run folder (of a run with several seeds: one of its seed-N)."""
    data: str = ""
    """NAME:PATH of another data set with the same classes (default: the run's own)."""
    export: Path | None = None
    """Write the student as a torch.export program: normalised images, any number, to logits; needs torch alone."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: list[str]) -> int:
    options = tyro.cli(Options, args=arguments, prog="python -m fastkd.evaluate")
    measured = evaluate(options.run, options.data, pick_device(options.device))
    if options.json:
        print(json.dumps(measured, indent=2))
    else:
        _print(options.run, measured)
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
    source = evaluation_source(
        images,
        image_size=recipe.image_size,
        batch_size=EVALUATION_BATCH,
        crop=recipe.augmentation.crop,
        workers=workers(recipe),
        loader=recipe.reading.loader,
        device=device,
        mean=recipe.mean,
        std=recipe.std,
    )
    source.prepare.to(device)
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


def _print(folder: Path, measured: dict[str, dict[str, Any]]) -> None:
    samples = next(iter(measured.values()))["samples"]
    table = Table(title=f"{folder}: {samples:,} test images", title_justify="left")
    for heading in ("", "network", "top-1 %", "top-5 %", "KL to teacher", "CKA", "same top-1 %"):
        table.add_column(heading, justify="right" if heading not in ("", "network") else "left")
    for name, row in measured.items():
        shares = (f"{100 * row[key] / row['samples']:.2f}" for key in ("top1", "top5"))
        alike = (f"{row['kl']:.4f}", f"{row['cka']:.3f}", f"{100 * row['agreement']:.2f}") if "kl" in row else ()
        table.add_row(name, row["network"], *shares, *alike)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(command(main))

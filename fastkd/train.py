"""python -m fastkd.train [RECIPE] [options]: trains a teacher, distils a student from it, shows what came out."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from fastkd import options
from fastkd.data import keep_index
from fastkd.ops import select
from fastkd.recipes.course import course
from fastkd.recipes.recipe import Recipe
from fastkd.report import write_report
from fastkd.run import Run, carry_out, check, create_folder, open_run
from fastkd.run.builder import Builder, open_data
from fastkd.run.figures import print_table
from fastkd.support import distributed, environment
from fastkd.support.command_line import command
from fastkd.support.display import Display
from fastkd.support.environment import pick_device
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Interrupt, Stopped, interruptible
from fastkd.training.execution import resolve, set_up


def main(arguments: list[str]) -> int:
    chosen = options.parse(arguments)
    if chosen.list:
        print("\n".join(options.listed(chosen)))
        return 0
    with distributed.processes(pick_device(chosen.device)) as device:
        return _main(chosen, device)


def _main(chosen: options.Options, device: torch.device) -> int:
    if chosen.resume is not None:
        folder = chosen.resume
        recipe = open_run(folder)
        options.refuse_other_recipe(recipe, chosen)
        data = open_data(recipe, folder)
    else:
        recipe = options.recipe_of(chosen)
        if chosen.dry_run:
            return _dry_run(recipe, device)
        now = distributed.from_main(f"{datetime.now():%Y%m%d-%H%M%S}")
        folder = chosen.run or Path("runs") / f"{recipe.name}-{now}"
        data = open_data(recipe)
        recipe = _of_other_classes(recipe, len(data.classes))
        resolve(recipe.execution, device, distributed.world_size())
        check(recipe, data, tensorboard=chosen.tensorboard)  # a mistake leaves no folder behind
        distributed.on_main(lambda: create_folder(folder, recipe))
        if recipe.reading.index_cache is None:
            distributed.on_main(lambda: keep_index(data, folder))
    with Display(silent=not distributed.is_main()) as display, interruptible() as interrupt:
        display.note(_header(recipe, folder, device))
        for note in data.notes:
            display.note(f"data  {note}")
        data.failures.report = lambda line: display.note(f"data  {line}")
        try:
            with _out_of_memory_names_the_knobs(recipe, device):
                results = carry_out(
                    recipe,
                    folder,
                    data,
                    device=device,
                    display=display,
                    interrupt=interrupt,
                    tensorboard=chosen.tensorboard,
                )
        except Stopped as stopped:
            display.note(f"{stopped}; go on with: python -m fastkd.train --resume {folder}")
            return 130
    if distributed.is_main():
        write_report([folder], folder / "report.html")
        print_table(recipe, results, folder)
    return 0


@contextlib.contextmanager
def _out_of_memory_names_the_knobs(recipe: Recipe, device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        batch = recipe.stages[-1].training
        size = f" (now {batch.batch_size})" if batch else ""
        knobs = f"raise --accumulate, or lower --batch-size{size} or --image-size"
        raise UserError(f"out of memory on {device}: {knobs}") from error


def _of_other_classes(recipe: Recipe, classes: int) -> Recipe:
    """Notes where the data cannot be those of the published figures."""
    if recipe.published_classes in (None, classes):
        return recipe
    words = f"{classes} classes instead of {recipe.published_classes}"
    return replace(recipe, deviations=(*recipe.deviations, words))


def _header(recipe: Recipe, folder: Path, device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    count = distributed.world_size()
    threads = environment.threads(recipe.threads, distributed.local_processes())
    where = f"{count} processes, each on {name} with {threads} threads" if count > 1 else f"{name}, {threads} threads"
    lines = [f"{recipe.name}  on {where}, {recipe.data}, {recipe.image_size} pixels  ->  {folder}"]
    resolved, why = resolve(recipe.execution, device, count)
    lines.append(f"  {resolved.words()}" + (f" ({why})" if why else ""))
    chosen = select.choices(device.type)
    lines.append("  " + ", ".join(f"{operation}: {choice}" for operation, choice in chosen.items()))
    for stage in course(recipe):
        training = stage.training
        if training is None:
            lines.append(f"  {stage.name}: {stage.network} from {stage.file}")
            continue
        what = stage.network
        if stage.branches is not None:
            what += f" with branches of {stage.branches.network}"
        for peer in stage.peers:
            factor = "" if peer.lr_factor == 1 else f" (lr x{peer.lr_factor:g})"
            what += f" and {peer.name} {peer.network}{factor}"
        if stage.peers:
            what += f" together by {stage.method}"
        if stage.prestage:
            what = f"what {stage.prestage} trains before"
        elif stage.teachers:
            what += f" from {' and '.join(stage.teachers)} by {stage.method}"
        share = f" ({training.batch_size // count} a process)" if count > 1 else ""
        rate = f"{training.optimizer} lr {training.lr:g} for the whole batch of {training.batch_size}{share}"
        lines.append(f"  {stage.name}: {what}, {training.epochs} epochs, {rate}")
    return "\n".join(lines)


def _dry_run(recipe: Recipe, device: torch.device) -> int:
    environment.set_threads(recipe.threads, distributed.local_processes())
    with Display() as display:
        execution, _ = resolve(recipe.execution, device, distributed.world_size())
        set_up(execution, device)
        builder = Builder(recipe, open_data(recipe), recipe.seed, device, execution)
        with _out_of_memory_names_the_knobs(recipe, device):
            rows = Run(builder, Path(), display=display, interrupt=Interrupt()).dry_run()
    table = Table(title=f"{recipe.name}: a few steps of every stage on {device}", title_justify="left")
    for heading in ("stage", "network", "parameters", "trained", "loss", "images/s", "process peak"):
        table.add_column(heading, justify="right")
    for row in rows:
        peak = f"{row['peak_bytes'] / 2**20:,.0f} MiB"
        counts = (f"{row['parameters']:,}", f"{row['trained_parameters']:,}")
        table.add_row(
            row["stage"], row["network"], *counts, f"{row['loss']:.4f}", f"{row['images_per_second']:,.0f}", peak
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(command(main))

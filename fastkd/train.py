"""python -m fastkd.train [RECIPE] [options]: trains a teacher, distils a student from it, shows what came out."""

import sys
from datetime import datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from fastkd import environment, options
from fastkd.command import command
from fastkd.display import Display
from fastkd.environment import pick_device
from fastkd.errors import UserError
from fastkd.interrupt import Stopped, interruptible
from fastkd.recipe import Recipe
from fastkd.report import write_report
from fastkd.run import Run, carry_out, check, create_folder, open_data, open_run
from fastkd.table import print_table


def main(arguments: list[str]) -> int:
    chosen = options.parse(arguments)
    device = pick_device(chosen.device)
    if chosen.resume is not None:
        folder = chosen.resume
        recipe = open_run(folder)
        options.refuse_other_recipe(recipe, chosen, arguments)
        data = open_data(recipe)
    else:
        recipe = options.recipe_of(chosen)
        if chosen.dry_run:
            return _dry_run(recipe, device)
        folder = chosen.run or Path("runs") / f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
        data = open_data(recipe)
        check(recipe, data, Display())  # a mistake leaves no folder behind
        create_folder(folder, recipe)
    with Display() as display, interruptible() as interrupt:
        display.note(_header(recipe, folder, device))
        try:
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
        except torch.OutOfMemoryError as error:
            batch = recipe.stages[-1].training
            size = f" (now {batch.batch_size})" if batch else ""
            raise UserError(f"out of memory on {device}: lower --batch-size{size} or --image-size") from error
    write_report([folder], folder / "report.html")
    print_table(recipe, results, folder)
    return 0


def _header(recipe: Recipe, folder: Path, device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    threads = recipe.threads or environment.cores()
    lines = [f"{recipe.name}  on {name}, {threads} threads, {recipe.data}, {recipe.image_size} pixels  ->  {folder}"]
    for stage in recipe.stages:
        training = stage.training
        if training is None:
            lines.append(f"  {stage.name}: {stage.network} from {stage.file}")
            continue
        what = stage.network
        if stage.branches is not None:
            what += f" with branches of {stage.branches.network}"
        if stage.teachers:
            what += f" from {' and '.join(stage.teachers)} by {stage.method}"
        rate = f"{training.optimizer} lr {training.lr:g} for the whole batch of {training.batch_size}"
        lines.append(f"  {stage.name}: {what}, {training.epochs} epochs, {rate}")
    return "\n".join(lines)


def _dry_run(recipe: Recipe, device: torch.device) -> int:
    with Display() as display, interruptible() as interrupt:
        run = Run(recipe, Path(), open_data(recipe), recipe.seed, device=device, display=display, interrupt=interrupt)
        rows = run.dry_run()
    table = Table(title=f"{recipe.name}: one step of every stage on {device}", title_justify="left")
    for heading in ("stage", "network", "parameters", "trained", "loss", "images/s", "peak memory"):
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

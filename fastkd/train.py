"""python -m fastkd.train [RECIPE] [options]: trains a teacher, distils a student from it, shows what came out."""

import sys
from datetime import datetime
from pathlib import Path

import torch

from fastkd import options
from fastkd.data import keep_index
from fastkd.recipes.published import with_other_classes
from fastkd.recipes.recipe import Recipe
from fastkd.report import write_report
from fastkd.run import Job, Run, carry_out, check, create_folder, holds_run, open_data, open_run, tell_of
from fastkd.run.figures import print_dry_run, print_table
from fastkd.run.header import header
from fastkd.run.memory import out_of_memory_names_the_knobs
from fastkd.run.trust import trust
from fastkd.run.weights import WeightsFiles
from fastkd.support import distributed
from fastkd.support.command_line import command
from fastkd.support.display import Display
from fastkd.support.environment import pick_device
from fastkd.support.interrupt import Stopped, interruptible
from fastkd.support.session import Session


def main(arguments: list[str]) -> int:
    chosen = options.parse(arguments)
    if chosen.list:
        print("\n".join(options.listed(chosen)))
        return 0
    with distributed.processes(pick_device(chosen.device)) as device:
        if chosen.trust is not None:
            trust(chosen.trust, _tell)
        if chosen.resume is not None and not options.goes_on_by_itself(chosen):
            return _resume(chosen, chosen.resume, device)
        files = WeightsFiles()
        recipe = options.recipe_of(chosen, files)
        if chosen.dry_run:
            options.refuse_beside_a_dry_run(chosen)
            return _dry_run(Job.of(recipe, open_data(recipe), device, files))
        if options.goes_on_by_itself(chosen) and distributed.from_main(_holds_run(chosen)):
            return _go_on(chosen, recipe, device, files)
        return _begin(chosen, recipe, device, files)


def _tell(line: str) -> None:
    if distributed.is_main():
        print(f"fastkd: {line}", file=sys.stderr)


def _holds_run(chosen: options.Options) -> bool:
    return distributed.is_main() and chosen.run is not None and holds_run(chosen.run)


def _go_on(chosen: options.Options, recipe: Recipe, device: torch.device, files: WeightsFiles) -> int:
    """Takes up the run that the same command began."""
    assert chosen.run is not None
    saved = open_run(chosen.run)
    options.refuse_another_command(saved, recipe, chosen)
    return _carry_out(Job.of(saved, open_data(saved, chosen.run), device, files), chosen.run, chosen)


def _resume(chosen: options.Options, folder: Path, device: torch.device) -> int:
    recipe = open_run(folder)
    options.refuse_other_recipe(recipe, chosen)
    return _carry_out(Job.of(recipe, open_data(recipe, folder), device), folder, chosen)


def _begin(chosen: options.Options, recipe: Recipe, device: torch.device, files: WeightsFiles) -> int:
    now = distributed.from_main(f"{datetime.now():%Y%m%d-%H%M%S}")
    folder = chosen.run or Path("runs") / f"{recipe.name}-{now}"
    data = open_data(recipe)
    job = Job.of(with_other_classes(recipe, len(data.classes)), data, device, files)
    check(job, tensorboard=chosen.tensorboard)  # a mistake leaves no folder behind
    distributed.on_main(lambda: create_folder(folder, job.recipe, unlocked=chosen.unlocked))
    if recipe.reading.index_cache is None:
        distributed.on_main(lambda: keep_index(data, folder))
    return _carry_out(job, folder, chosen)


def _carry_out(job: Job, folder: Path, chosen: options.Options) -> int:
    with Display(silent=not distributed.is_main()) as display, interruptible() as interrupt:
        display.note(header(job, folder))
        tell_of(job.data, display)
        try:
            with out_of_memory_names_the_knobs(job):
                results = carry_out(job, folder, Session(display, interrupt, chosen.tensorboard, chosen.unlocked))
        except Stopped as stopped:
            display.note(f"{stopped}; go on with: python -m fastkd.train --resume {folder}")
            return 130
    if distributed.is_main():
        print_table(job.recipe, results, folder)
        write_report([folder], folder / "report.html")
    return 0


def _dry_run(job: Job) -> int:
    job.set_up()
    check(job)
    with Display() as display, out_of_memory_names_the_knobs(job):
        rows = Run(job, job.recipe.seed, Path(), Session(display)).dry_run()
    print_dry_run(job, rows)
    return 0


if __name__ == "__main__":
    sys.exit(command(main))

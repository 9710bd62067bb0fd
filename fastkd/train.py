"""python -m fastkd.train [RECIPE] [options]: trains a teacher, distils a student from it, shows what came out."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from fastkd import options
from fastkd.api import Results, carried_out, in_folder
from fastkd.report import write_report
from fastkd.run import Job, Run, check, folder_of_job, open_data, open_run
from fastkd.run.figures import print_dry_run, print_table
from fastkd.run.memory import out_of_memory_names_the_knobs
from fastkd.run.trust import trust
from fastkd.run.weights import WeightsFiles
from fastkd.support import distributed
from fastkd.support.command_line import command
from fastkd.support.display import Display
from fastkd.support.environment import pick_device
from fastkd.support.joining import processes
from fastkd.support.session import Session


def main(arguments: list[str]) -> int:
    chosen = options.parse(arguments)
    if chosen.list:
        print("\n".join(options.listed(chosen)))
        return 0
    with processes(pick_device(chosen.device)) as device:
        chosen = _in_its_job(chosen, arguments)
        if chosen.trust is not None:
            trust(chosen.trust, _tell)
        if chosen.resume is not None and not options.goes_on_by_itself(chosen):
            return _resume(chosen, chosen.resume, device)
        files = WeightsFiles()
        recipe = options.recipe_of(chosen, files)
        if chosen.dry_run:
            options.refuse_beside_a_dry_run(chosen)
            return _dry_run(Job.of(recipe, open_data(recipe), device, files))
        return _show(carried_out(chosen, recipe, device, files))


def _in_its_job(chosen: options.Options, arguments: list[str]) -> options.Options:
    """The options, with the folder of the scheduler's job where they name none: queued again, it goes on there."""
    if chosen.run is not None or chosen.resume is not None or chosen.dry_run:
        return chosen
    folder = folder_of_job(arguments, chosen.recipe)
    return chosen if folder is None else replace(chosen, run=folder, resume=Path("auto"))


def _tell(line: str) -> None:
    if distributed.is_main():
        print(f"fastkd: {line}", file=sys.stderr)


def _resume(chosen: options.Options, folder: Path, device: torch.device) -> int:
    recipe = open_run(folder)
    options.refuse_other_recipe(recipe, chosen)
    return _show(in_folder(Job.of(recipe, open_data(recipe, folder), device), folder, chosen))


def _show(results: Results) -> int:
    """Shows what came out; returns the program's code."""
    if not distributed.is_main():
        return 130 if results.stopped else 0
    if results.stopped:
        again = f"go on with: python -m fastkd.train --resume {results.folder}"
        print(f"{results.stopped}; {again}", file=sys.stderr)
        return 130
    print_table(results.recipe, results.seeds, results.folder)
    write_report([results.folder], results.folder / "report.html")
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

"""python -m fastkd.store RECIPE --teacher RUN --teacher-outputs PATH [options]: computes and keeps what a teacher says.

The options are those of `fastkd.train`: what a training with them would read is what is stored. A store that is there
in part is completed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from fastkd import options
from fastkd.options import Options, recipe_of
from fastkd.recipes.recipe import Recipe
from fastkd.run import Job, Run, check, open_data, tell_of
from fastkd.run.weights import WeightsFiles
from fastkd.support import distributed
from fastkd.support.command_line import command
from fastkd.support.display import Display
from fastkd.support.environment import pick_device
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Stopped, interruptible
from fastkd.support.joining import processes
from fastkd.support.session import Session

PROGRAM = "python -m fastkd.store"
_OF_A_RUN = ("run", "resume", "dry_run", "list", "logger")
"""Options of a training that mean nothing here."""


def main(arguments: list[str]) -> int:
    chosen = options.parse(arguments, program=PROGRAM, description=__doc__)
    for name in _OF_A_RUN:
        if getattr(chosen, name):
            raise UserError(f"--{name.replace('_', '-')} changes nothing: nothing is trained here")
    with processes(pick_device(chosen.device)) as device:
        files = WeightsFiles()
        recipe = _storing(chosen, files)
        job = Job.of(recipe, open_data(recipe), device, files)
        return _fill(job, arguments, unlocked=chosen.unlocked)


def _storing(chosen: Options, files: WeightsFiles) -> Recipe:
    recipe = recipe_of(chosen, files)
    if recipe.storing.teacher_outputs is None:
        raise UserError(f"{PROGRAM}: give the folder of the store, --teacher-outputs PATH")
    trained = next((stage.name for stage in recipe.of_role("teacher") if stage.training is not None), None)
    if trained is not None:
        raise UserError(f"{PROGRAM}: give the {trained} that is to be stored, --teacher RUN or FILE")
    return recipe


def _fill(job: Job, arguments: Sequence[str], *, unlocked: bool) -> int:
    job.set_up()
    check(job)
    with Display(silent=not distributed.is_main()) as display, interruptible() as interrupt:
        tell_of(job.data, display)
        try:
            session = Session(display, interrupt, unlocked=unlocked)
            Run(job, job.recipe.seed, Path(), session).fill_stores()
        except Stopped as stopped:
            display.note(f"{stopped}; the same command goes on: {PROGRAM} {' '.join(arguments)}")
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(command(main))

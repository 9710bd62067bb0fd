"""Carries out a job for all its seeds, in a run folder: one after the other, or students side by side."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fastkd.ops import select
from fastkd.recipes.course import course
from fastkd.recipes.planned import PlannedDistillation
from fastkd.recipes.recipe import recipe_to_plain
from fastkd.recipes.several import shared_teachers
from fastkd.run.folder import held, read_environment
from fastkd.run.job import Job
from fastkd.run.outlook import Outlook
from fastkd.run.run import Run
from fastkd.run.stores import side_by_side
from fastkd.run.teachers import with_teachers_of
from fastkd.support import environment
from fastkd.support.distributed import is_main
from fastkd.support.errors import UserError
from fastkd.support.files import remove, write_json
from fastkd.support.heartbeat import FILE, SILENT, Heartbeat, beating
from fastkd.support.paths import is_there
from fastkd.support.session import Session
from fastkd.training.together import Together, alike


def carry_out(job: Job, folder: Path, session: Session) -> list[dict[str, Any]]:
    """Runs what is left to do in the folder and returns the results of every seed, see `Run.results`."""
    recipe = job.recipe
    job.set_up()
    seeds = range(recipe.seed, recipe.seed + recipe.seeds)
    folders = [folder if recipe.seeds == 1 else folder / f"seed-{seed}" for seed in seeds]
    with held([folder, *folders], unlocked=session.unlocked), beating(_heartbeat(folder, session)) as heartbeat:
        session = replace(session, heartbeat=heartbeat)
        if is_main():
            _write_environment(folder, job)
        names, group, first = shared_teachers(recipe), side_by_side(job), folders[0]
        outlook = Outlook(job.course, recipe.seeds, once=names)
        if names:
            session.display.note(
                f"the {' and '.join(names)} of seed {recipe.seed} will teach the students of all seeds"
            )
        runs = (_run(job, seed, own, first, session, outlook) for seed, own in zip(seeds, folders, strict=True))
        if len(group) * recipe.seeds < 2:
            return [run.carry_out() for run in runs]
        return _carry_out_together(runs, group)


def _heartbeat(folder: Path, session: Session) -> Heartbeat:
    if not is_main():
        return SILENT
    if not session.heartbeat_seconds:
        if is_there(folder / FILE):
            remove(folder / FILE)  # that of an earlier call would be taken for this one's
        return SILENT
    return Heartbeat(folder / FILE, every_seconds=session.heartbeat_seconds, tell=session.display.note)


def _run(job: Job, seed: int, folder: Path, first: Path, session: Session, outlook: Outlook) -> Run:
    """The run of a seed. Where seeds share teachers, those of the `first` one's folder are finished by then."""
    if folder != first and (names := shared_teachers(job.recipe)):
        recipe = with_teachers_of(job.recipe, names, first, job.files)
        job = replace(job, recipe=recipe, course=course(recipe))
    if is_main() and job.recipe.seeds > 1:
        write_json(folder / "recipe.json", recipe_to_plain(replace(job.recipe, seed=seed, seeds=1)))
    return Run(job, seed, folder, session, outlook)


def _carry_out_together(runs: Iterator[Run], group: tuple[PlannedDistillation, ...]) -> list[dict[str, Any]]:
    """Carries out the runs stage by stage, with the stages of the group side by side for all of them.

    What comes before the group is done by the first run first: others may need it to begin.
    """
    first, begun = next(runs), []
    before = first.job.course.index(group[0])
    for run in itertools.chain([first], runs):
        run.begin()
        for planned in run.job.course[:before]:
            run.carry_out_stage(planned)
        begun.append(run)
    _train_together([(run, one) for run in begun for one in group])
    for run in begun:
        for planned in run.job.course[before:]:
            if planned not in group:
                run.carry_out_stage(planned)
    return [run.results for run in begun]


def _train_together(members: Sequence[tuple[Run, PlannedDistillation]]) -> None:
    """Trains students side by side, where they take the same batches; else one after the other."""
    for run, planned in members:
        if run.finished(planned):
            run.carry_out_stage(planned)  # which takes it up
    left = [(run, planned) for run, planned in members if not run.finished(planned)]
    if not left:
        return
    first, stages = left[0][0], [run.build(planned) for run, planned in left]
    with first.opened_shelf(left[0][1], stages[0]) as shelf:
        assert shelf is not None
        built = list(zip(left, stages, strict=True))
        trainers = [run.trainer(planned, stage, shelf) for (run, planned), stage in built]
        together = alike(trainers)
        if together:
            keeping = [partial(run.keep, planned, stage) for (run, planned), stage in built]
            with contextlib.closing(trainers[0].step):
                Together(trainers).fit(keeping)
    for ((run, planned), stage), trainer in zip(built, trainers, strict=True):
        if together:
            run.conclude(planned, stage, *run.measured(planned, trainer, shelf))
        else:
            run.carry_out_stage(planned)


def _write_environment(folder: Path, job: Job) -> None:
    """Writes env.json: what this call of the program runs on, and the calls before it."""
    before = []
    with contextlib.suppress(UserError):  # what it tells is no reason not to go on
        before = environment.calls(read_environment(folder))
    how = {"execution": job.execution._asdict(), "operations": select.choices(job.device.type)}
    write_json(folder / "env.json", environment.this_call() | {"earlier": before} | environment.collect() | how)

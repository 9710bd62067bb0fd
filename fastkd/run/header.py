"""What stands above a run: what is trained where, by what, and what is off."""

from pathlib import Path

import torch

from fastkd.data.shares import words
from fastkd.methods import find_method, short_name, split_methods
from fastkd.ops import select
from fastkd.recipes.planned import (
    PlannedDataFree,
    PlannedDistillation,
    PlannedLoaded,
    PlannedMutual,
    PlannedPrestage,
    PlannedStage,
    PlannedStudentAware,
    PlannedTraining,
)
from fastkd.run.job import Job
from fastkd.support import distributed, environment
from fastkd.support.words import counted
from fastkd.synthesis.settings import SynthesisSettings
from fastkd.training.optimisation import Training


def header(job: Job, folder: Path) -> str:
    """What is trained, on what and where to; the settings of every training; what is on, and why what is off is off."""
    recipe, count = job.recipe, distributed.world_size()
    chosen = select.words(job.device.type)
    lines = [
        f"{recipe.name}: {_plan(job)}  ->  {folder}",
        f"  on {_where(job, count)}; {_images(job)}",
        *(f"  {planned.name}: {_stage(planned, count)}" for planned in job.course),
        f"  {job.execution.words()}" + (f" ({job.why_off})" if job.why_off else ""),
        "  computed by " + ", ".join(f"{operation}: {choice}" for operation, choice in chosen.items()),
    ]
    return "\n".join(lines)


def _plan(job: Job) -> str:
    """`3 trainings (teacher, student, control) of 25 epochs in all, for each of the seeds 0 to 2`."""
    trained = [planned for planned in job.course if isinstance(planned, PlannedTraining)]
    epochs, recipe = sum(planned.training.epochs for planned in trained), job.recipe
    what = f"{len(trained)} trainings" if len(trained) > 1 else "one training"
    names = ", ".join(planned.name for planned in trained)
    seeds = f", for each of the seeds {recipe.seed} to {recipe.seed + recipe.seeds - 1}" if recipe.seeds > 1 else ""
    return f"{what} ({names}), {counted(epochs, 'epoch')}{' in all' if len(trained) > 1 else ''}{seeds}"


def _where(job: Job, processes: int) -> str:
    name = torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else "CPU"
    threads = environment.threads(job.recipe.threads, distributed.local_processes())
    if processes > 1:
        return f"{processes} processes, each on {name} with {counted(threads, 'thread')}"
    return f"{name}, {counted(threads, 'thread')}"


def _images(job: Job) -> str:
    data = job.data
    counts = f"{counted(len(data.train), 'image')} to train on, {len(data.test):,} to test on"
    return f"{job.recipe.data}: {counts}, {counted(job.recipe.image_size, 'pixel')}, {len(data.classes):,} classes"


def _stage(planned: PlannedStage, processes: int) -> str:
    if isinstance(planned, PlannedLoaded):
        return f"{planned.network} from {planned.file}"
    assert isinstance(planned, PlannedTraining)
    training = planned.training
    given = "" if training.scale_lr_from is None else f" ({training.lr:g} for one of {training.scale_lr_from})"
    rate = f"{training.optimizer} lr {training.rate:g}{given} for the whole batch of {training.batch_size}"
    rate += _shares(training, processes)
    return f"{_what(planned)}, {counted(training.epochs, 'epoch')}, {rate}{_related(planned, processes)}"


def _related(planned: PlannedTraining, processes: int) -> str:
    """Which methods relate images, where these are not all of a batch: `; sp relates the images of one share`."""
    training = planned.training
    if (training.shards or processes) * training.accumulate == 1 or not isinstance(
        planned, PlannedDistillation | PlannedMutual
    ):
        return ""
    names = split_methods(planned.method)
    relating = [short_name(name) for name in names if find_method(name).relates(planned.settings[name])]
    part = "shard" if training.shards else "share" if training.accumulate == 1 else "part"
    verb = "relates" if len(relating) == 1 else "relate"
    return f"; {' and '.join(relating)} {verb} the images of one {part}" if relating else ""


def _shares(training: Training, processes: int) -> str:
    """What follows the size of a batch: ` (16 a process)`, ` (uneven shares: 10+11+11, each weighted by its images)`,
    ` (8 shards of 4)`; nothing where one process takes it whole."""
    if training.shards:
        return f" ({training.shards} shards of {words(training.batch_size, training.shards)})"
    if processes == 1:
        return ""
    each = words(training.batch_size, processes)
    uneven = training.batch_size % processes
    return f" (uneven shares: {each}, each weighted by its images)" if uneven else f" ({each} a process)"


def _what(planned: PlannedTraining) -> str:
    match planned:
        case PlannedStudentAware(sftn=sftn, gtn=gtn):
            return f"{planned.network} with {'branches' if gtn is None else 'paths'} of {sftn.network}"
        case PlannedPrestage(prestage=method):
            return f"what {method} trains before"
        case PlannedDataFree(teachers=teachers, method=method):
            made = images_words(planned.synthesis, planned.training)
            return f"{planned.network} from {' and '.join(teachers)} by {method} on {made}"
        case PlannedDistillation(teachers=teachers, method=method) if teachers:
            return f"{planned.network} from {' and '.join(teachers)} by {method}"
        case PlannedMutual(peers=peers, method=method):
            others = [
                f"{peer.name} {peer.network}" + ("" if peer.lr_factor == 1 else f" (lr x{peer.lr_factor:g})")
                for peer in peers
            ]
            return f"{' and '.join([planned.network, *others])} together by {method}"
        case _:
            return planned.network


def images_words(synthesis: SynthesisSettings, training: Training) -> str:
    """What the images of a stage without data are: `images of cmi (256 more an epoch, 51,200 in the last)`."""
    if not synthesis.has_pool:
        steps = counted(synthesis.every, "step")
        return f"images of {synthesis.kind} (a generator that learns by {synthesis.images} every {steps})"
    last = synthesis.images_at(training.epochs - 1)
    return f"images of {synthesis.kind} ({synthesis.images:,} more before each epoch, {last:,} in the last)"

"""What stands above a run: what is trained where, by what, and what is off."""

from pathlib import Path

import torch

from fastkd.ops import select
from fastkd.recipes.planned import (
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


def header(job: Job, folder: Path) -> str:
    recipe, device, count = job.recipe, job.device, distributed.world_size()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    threads = environment.threads(recipe.threads, distributed.local_processes())
    where = f"{count} processes, each on {name} with {threads} threads" if count > 1 else f"{name}, {threads} threads"
    chosen = select.choices(device.type)
    lines = [
        f"{recipe.name}  on {where}, {recipe.data}, {recipe.image_size} pixels  ->  {folder}",
        f"  {job.execution.words()}" + (f" ({job.why_off})" if job.why_off else ""),
        "  " + ", ".join(f"{operation}: {choice}" for operation, choice in chosen.items()),
    ]
    return "\n".join([*lines, *(f"  {planned.name}: {_stage(planned, count)}" for planned in job.course)])


def _stage(planned: PlannedStage, processes: int) -> str:
    if isinstance(planned, PlannedLoaded):
        return f"{planned.network} from {planned.file}"
    assert isinstance(planned, PlannedTraining)
    training = planned.training
    share = f" ({training.batch_size // processes} a process)" if processes > 1 else ""
    rate = f"{training.optimizer} lr {training.lr:g} for the whole batch of {training.batch_size}{share}"
    return f"{_what(planned)}, {training.epochs} epochs, {rate}"


def _what(planned: PlannedTraining) -> str:
    match planned:
        case PlannedStudentAware(sftn=sftn):
            return f"{planned.network} with branches of {sftn.network}"
        case PlannedPrestage(prestage=method):
            return f"what {method} trains before"
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

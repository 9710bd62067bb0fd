"""Captures a step in two gloo processes, by a recorder that needs no GPU; what it may meet is a scenario each.

python -m helpers.capture_two_processes FOLDER SCENARIO…   writes SCENARIO-0.pt and SCENARIO-1.pt, one of each process
"""

import os
import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from fastkd.support.errors import UserError
from fastkd.training import averaging
from fastkd.training import step as steps
from fastkd.training.agreement import AgreeingRecorder
from fastkd.training.execution import EVERYTHING_OFF
from helpers.gloo_pair import run_in_two
from helpers.recorders import RunAgain
from helpers.steps import Streamed, make_step, step_of_stage, steps_of, weights


class Fails(RunAgain):
    """A recorder that fails in its calls of those numbers, rehearsals and recordings, before or behind their work."""

    def __init__(self, *calls, behind=False):
        super().__init__()
        self.calls, self.behind, self.count = calls, behind, 0

    def _called(self, action):
        self.count += 1
        if self.count in self.calls and not self.behind:
            raise RuntimeError(f"call {self.count} of the recorder fails")
        result = action()
        if self.count in self.calls:
            raise RuntimeError(f"call {self.count} of the recorder fails, behind its work")
        return result

    def rehearse(self, work, times=3):
        return self._called(lambda: super(Fails, self).rehearse(work, times))

    def record(self, work, times=1, *, beside=()):
        return self._called(lambda: super(Fails, self).record(work, times, beside=beside))


BATCHES = {"batch_size": 8, "ema": 0.5, "clip_norm": 1.0}
"""16 steps an epoch: one replay of several steps, and some of one."""


def outcome(step, recorder=None, told=(), epochs=2):
    """Trains; what is left, and how it came about."""
    for epoch in range(epochs):
        taken = steps_of(step, epoch)
    reducer = step.averaging.reducer
    return {
        "weights": weights(step) | {f"average.{k}": v for k, v in step.average.network.state_dict().items()},
        "totals": step.meter.read(),
        "told": list(told),
        "taken": taken,
        "replays": getattr(recorder, "replays", 0),
        "rehearsed": getattr(recorder, "rehearsed", []),
        "one_message": step.averaging.one_message,
        "timed": reducer and reducer._get_ddp_logging_data().get("iteration", 0),
        "built_inside": getattr(recorder, "built_inside", []),
    }


def captured(recorder, make=make_step, epochs=2, **settings):
    step, _ = make(**(BATCHES | settings))
    recorder.built_inside, plain = [], averaging.DistributedDataParallel

    def built(*arguments, **options):
        recorder.built_inside.append(recorder.inside)
        return plain(*arguments, **options)

    with mock.patch.object(averaging, "DistributedDataParallel", built):
        told = step.warm_up(step.loader, AgreeingRecorder(recorder))
    return outcome(step, recorder, told, epochs)


def in_process(rank, number, there, here=RunAgain):
    """A recorder of one kind in the process of that number, of another in the others."""
    return there() if rank == number else here()


def plain(rank, make=make_step, **settings):
    return outcome(make(**(BATCHES | settings))[0])


def a_teacher(**settings):
    """The student-friendly teacher with its branches: parameters of several networks, terms of three losses."""
    return step_of_stage("teacher", **(settings | {"epochs": 20}))


def in_bfloat16(**settings):
    return make_step(EVERYTHING_OFF._replace(bfloat16=True), **settings)


def loses_images(make):
    """Steps whose third batch has one image less in process 1."""

    class Loses(Streamed):
        def epoch(self, epoch, start=0):
            for number, raw in enumerate(super().epoch(epoch, start), start):
                lost = number == 2 and dist.get_rank() == 1
                yield raw._replace(index=raw.index[1:], images=raw.images[:, 1:]) if lost else raw

    def made(**settings):
        from fastkd.data.augment import Augmentation, Normalise, StreamedImages
        from fastkd.run import open_data
        from helpers.tiny import tiny_recipe

        (step, raws), data = make(**settings), open_data(tiny_recipe())
        step.loader = Loses(step.loader, data.train.images)
        step.prepare = StreamedImages(data.train.labels, Normalise(data.mean, data.std), Augmentation(), 0)
        return step, raws

    return made


def not_compiled(rank):
    step, _ = make_step(EVERYTHING_OFF._replace(compile="blocks"), **BATCHES)

    def compile_stage(stage, mode):
        if rank == 1:
            stage.network.stem.register_forward_pre_hook(lambda module, inputs: next(iter(())))

    def undo(stage):
        stage.network.stem._forward_pre_hooks.clear()

    with mock.patch.multiple(steps, compile_stage=compile_stage, undo_compile=undo):
        told = step.warm_up(step.loader)
    return outcome(step, told=told)


def out_of_step(rank):
    """Process 1 fails within its last rehearsal but one, behind all of that step's messages."""
    step, _ = make_step(**BATCHES)
    plain, added = step.meter.add, []

    def add(*arguments):
        added.append(1)
        if rank == 1 and len(added) == 14:  # one that learns, 3 alone, the tenth of 11 with messages
            raise RuntimeError("the meter is full")
        plain(*arguments)

    with mock.patch.object(step.meter, "add", add):
        try:
            step.warm_up(step.loader, AgreeingRecorder(RunAgain()))
        except UserError as error:
            return {"mistake": str(error)}
    return {"mistake": ""}


SCENARIOS = {
    "plain": plain,
    "captured": lambda rank: captured(RunAgain()),
    "longer than DDP's pause between measurements": lambda rank: captured(RunAgain(), epochs=8),
    "refused": lambda rank: captured(in_process(rank, 1, lambda: Fails(3, 5))),
    # The calls of a recorder: a rehearsal alone, one with messages, recordings of one step and of several; and again.
    "one message": lambda rank: captured(in_process(rank, 0, lambda: Fails(3))),
    "one message, second graph": lambda rank: captured(in_process(rank, 1, lambda: Fails(4))),
    "refused alone": lambda rank: captured(in_process(rank, 1, lambda: Fails(1))),
    "refused behind messages": lambda rank: captured(in_process(rank, 1, lambda: Fails(2, 3, behind=True))),
    "refused by both": lambda rank: captured(Fails(3 + rank, 5 + rank)),
    "out of step": out_of_step,
    "not compiled": not_compiled,
    "parts, plain": lambda rank: plain(rank, accumulate=2),
    "parts, captured": lambda rank: captured(RunAgain(), accumulate=2),
    "parts, one message": lambda rank: captured(in_process(rank, 1, lambda: Fails(3)), accumulate=2),
    "teacher, plain": lambda rank: plain(rank, a_teacher),
    "teacher, captured": lambda rank: captured(RunAgain(), a_teacher),
    "teacher, one message": lambda rank: captured(in_process(rank, 1, lambda: Fails(3)), a_teacher),
    "bfloat16, plain": lambda rank: plain(rank, in_bfloat16),
    "bfloat16, captured": lambda rank: captured(RunAgain(), in_bfloat16),
    "bfloat16, one message": lambda rank: captured(in_process(rank, 1, lambda: Fails(3)), in_bfloat16),
    "lost images, plain": lambda rank: plain(rank, loses_images(make_step)),
    "lost images, captured": lambda rank: captured(RunAgain(), loses_images(make_step)),
}


def process(rank: int, folder: str, names: list[str]) -> None:
    for name in names:
        torch.save(SCENARIOS[name](rank), Path(folder) / f"{name}-{rank}.pt")


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    folder, *names = sys.argv[1:]
    run_in_two(process, folder, names)

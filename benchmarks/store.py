"""A step of a student with its live teacher, with a stored one, and without a teacher: python -m benchmarks.store

`live` runs the teacher in every step, `store` reads its rows (float32 logits, filled before the clock runs), `alone` is
the student with labels. `live` and `store` are compared first: after the same steps the students are equal, on a CPU
bit for bit. A turn begins anew with the epoch, so that `store` pays for reading the epoch's rows as a training does.
Where steps are captured, `five seeds` are five students of the store, as branches of one graph. Below the steps: what a
row takes, and how long the rows of an epoch and of a batch take to read.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.timing import Record, commit, device_name, interleaved, peak_bytes, record_file, versions, write_json
from benchmarks.training_step import random_images
from fastkd import recipes
from fastkd.data import DataSet, Source
from fastkd.recipes.planned import PlannedTraining
from fastkd.recipes.recipe import Recipe
from fastkd.run import Job
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.run.stores import opened_shelf
from fastkd.stored import Storing
from fastkd.training.capture import CudaRecorder
from fastkd.training.execution import set_up
from fastkd.training.optimisation import build_optimizer
from fastkd.training.step import Step

CIFAR_PAIRS = (
    *(("wrn_40_2", "wrn_16_2"), ("wrn_40_2", "wrn_40_1"), ("resnet56", "resnet20"), ("resnet32x4", "resnet8x4")),
    *(("vgg13", "vgg8"), ("resnet32x4", "ShuffleV2"), ("wrn_40_2", "ShuffleV1")),
)
"""Pairs of SFTN's Tables 1 and 2."""


SEEDS, SEVERAL = 5, "five seeds"


class Case(NamedTuple):
    name: str
    recipe: Callable[..., Recipe]
    data: Callable[[int], DataSet]
    """Makes so many images."""
    teacher: str
    student: str
    batch: int

    def __str__(self) -> str:
        return f"{self.name} {self.teacher}/{self.student} B={self.batch}"


def cases(quick: bool, device: torch.device) -> list[Case]:
    cifar = partial(random_images, size=32, classes=100)
    found = [Case("cifar-shaped", recipes.cifar100_sftn, cifar, *pair, 64) for pair in CIFAR_PAIRS]
    if device.type == "cuda":
        imagenet = partial(random_images, size=224, classes=1000)
        pairs = (("torchvision_resnet34", "torchvision_resnet18"), ("torchvision_resnet50", "torchvision_resnet34"))
        found += [Case("imagenet-shaped", recipes.imagenet_sftn, imagenet, *pair, 256) for pair in pairs]
    return found[:1] if quick else found


class Contender(NamedTuple):
    step: Step
    source: Source

    def turn(self) -> None:
        """An epoch; the learning rate stays that of the first one."""
        assert sum(self.step.epoch_of(self.source.loader, 0)) == self.source.loader.steps
        for step in (self.step, *self.step.beside):
            step.done.zero_()


def contender(job: Job, name: str, folder: Path, kept: ExitStack) -> Contender:
    """The step of the student, or of its control where it is `alone`; of five students where they are `five seeds`."""
    stored = name in ("store", SEVERAL)
    storing = Storing(teacher_outputs=folder) if stored else Storing()
    job = replace(job, recipe=replace(job.recipe, storing=storing, data_seed=0))
    planned = job.course[2 if name == "alone" else 1]
    assert isinstance(planned, PlannedTraining)
    earlier, shelf, made = Earlier(job.course), None, []
    torch.manual_seed(1)  # every contender has the same teacher
    network = Builder(job, 0).network(job.recipe.stages[0].network)
    earlier.networks["teacher"] = network.to(job.device).eval()
    for seed in range(SEEDS if name == SEVERAL else 1):
        builder = Builder(job, seed)
        stage = builder.stage(planned, earlier).train()
        if job.execution.channels_last:
            stage.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if stored and shelf is None:
            shelf = kept.enter_context(opened_shelf(job, planned, stage, earlier, data_seed=0))
        source = builder.train_source(planned, stage.views)
        source.prepare.to(job.device)
        optimizer, steps = build_optimizer(stage, planned.training, job.device), source.loader.steps
        step = Step(stage, source.prepare, optimizer, planned.training, steps, job.device, job.execution, shelf)
        kept.callback(step.close)
        made.append(Contender(step, source))
    return _ready(made, name, job)


def _ready(made: Sequence[Contender], name: str, job: Job) -> Contender:
    """The first of the contenders, filled, compiled and captured, with the others beside it."""
    first, *others = made
    if first.step.stored is not None:
        first.step.stored.tell = lambda text: print(f"  {text}", flush=True)
        for _ in first.step.fill_store(first.source.loader, 0):
            pass
    for other in others:
        other.step.stored = first.step.stored
        other.step.warm_up(other.source.loader)
    recorder = CudaRecorder(job.device) if job.execution.capture else None
    for line in first.step.warm_up(first.source.loader, recorder, beside=[other.step for other in others]):
        print(f"  {name}: {line}", flush=True)
    return first


def check(live: Contender, store: Contender, device: torch.device) -> None:
    """An epoch from the same beginning, then the same weights."""
    live.turn(), store.turn()
    known = live.step.stage.network.state_dict()
    for name, value in store.step.stage.network.state_dict().items():
        tolerance = 0.0 if device.type == "cpu" else 1e-2
        torch.testing.assert_close(value, known[name], rtol=tolerance, atol=tolerance)


def measure(case: Case, device: torch.device, quick: bool) -> list[Record]:
    recipe = case.recipe(teacher_net=case.teacher, student=case.student, teacher_training="standard", control=True)
    stages = tuple(
        replace(stage, training=replace(stage.training, batch_size=case.batch) if stage.training else None)
        for stage in recipe.stages
    )
    augmentation = replace(recipe.augmentation, crop="pad")
    recipe = replace(recipe, stages=stages, augmentation=augmentation)
    steps = 4 if quick and device.type == "cpu" else 20
    job = Job.of(recipe, case.data(steps * case.batch), device)
    set_up(job.execution, device)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as kept:
        names = ("live", "store", "alone", *((SEVERAL,) if job.execution.capture else ()))
        contenders = {name: contender(job, name, Path(folder), kept) for name in names}
        check(contenders["live"], contenders["store"], device)
        turns: dict[str, Sequence[Callable[[], object]]] = {name: [one.turn] for name, one in contenders.items()}
        timings = interleaved(turns, 5 if quick else 20, device.type)
        print(f"{case} on {device_name(device.type)}")
        records = []
        for name, whole in timings.items():
            timing = whole.per(steps)
            to_live = timing.cpu_s / (timings["live"].cpu_s / steps)
            to_alone = timing.cpu_s / (timings["alone"].cpu_s / steps)
            print(
                f"  {name:10} {timing.median_s * 1e3:9.3f} ms ({timing.p20_s * 1e3:.3f} to {timing.p80_s * 1e3:.3f})"
                f"  cpu {timing.cpu_s * 1e3:8.3f} ms  {to_live:.3f} of live, {to_alone:.3f} of alone (cpu)",
                flush=True,
            )
            if name == SEVERAL:
                print(
                    f"  {SEEDS} seeds take {whole.median_s / timings['store'].median_s:.2f} times one's time",
                    flush=True,
                )
            peak = peak_bytes(contenders[name].turn, device.type)
            at = ("store", name, str(case), device_name(device.type))
            times = (timing.median_s, timing.p20_s, timing.p80_s, timing.cpu_s)
            records.append(Record(*at, *times, peak, True, versions(), commit()))
        return records + reading(case, contenders["store"].step, device)


def reading(case: Case, step: Step, device: torch.device) -> list[Record]:
    """How long the rows of an epoch, of a batch out of the file, and of a batch out of memory take to read."""
    stored = step.stored
    assert stored is not None
    stored.begin_epoch(0)
    files, places = stored.files[0], np.random.default_rng(0).permutation(stored.samples)[: case.batch]
    index = torch.from_numpy(places).to(device)
    calls: dict[str, Callable[[], object]] = {
        "read epoch": lambda: stored.begin_epoch(0),
        "read batch": lambda: files.gather(places),
        "gather batch": lambda: stored.held[0].index_select(0, index),
    }
    files = stored.shelf.stores[0].epoch(0)
    records, row = [], stored.shelf.rows[0]
    for name, call in calls.items():
        taken = [_timed(call) for _ in range(20)]
        median, fifths = statistics.median(taken), statistics.quantiles(taken, n=5, method="inclusive")
        rows = stored.samples if name == "read epoch" else case.batch
        print(f"  {name:12} {median * 1e3:9.3f} ms for {rows:,} rows of {row.bytes} bytes", flush=True)
        at = ("store", name, str(case), device_name(device.type))
        records.append(Record(*at, median, fifths[0], fifths[3], median, None, True, versions(), commit()))
    files.close()
    return records


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one pair, fewer repetitions")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--json", type=record_file, help="write the records to this file")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    records: list[Record] = []
    for case in cases(options.quick, device):
        if options.only in str(case):
            records += measure(case, device, options.quick)
            if options.json:  # after every case, so that one that fails loses nothing
                write_json(records, options.json)


if __name__ == "__main__":
    main()

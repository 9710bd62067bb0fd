"""Whole training steps, data included: python -m benchmarks.training_step

`reference` is the usual research script, see research_script.py; `amp` the same under bfloat16 autocast and
channels_last, `compile` that and compiled (both on a GPU); `fastkd` the engine as `python -m fastkd.train` runs it,
`fastkd fp32` the same in float32. Compiling and capturing are not timed with the steps: how long they took stands in a
column of its own. The ImageNet-shaped case has its images on the device for everybody: it compares steps, not loaders.
"""

import argparse
import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from benchmarks.research_script import research_script
from benchmarks.timing import Record, commit, device_name, interleaved, peak_bytes, record_file, versions, write_json
from fastkd import recipes
from fastkd.data import DataSet, Loader, Split, open_dataset
from fastkd.recipes.planned import PlannedTraining
from fastkd.recipes.recipe import Recipe
from fastkd.run import Job
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.training.capture import CudaRecorder
from fastkd.training.execution import Execution, set_up
from fastkd.training.optimisation import build_optimizer
from fastkd.training.step import Step

TURN = 10  # steps of a contender's turn


class Case(NamedTuple):
    name: str
    recipe: Callable[..., Recipe]
    data: Callable[[], DataSet]
    stage: str
    """sftn, kd or crd"""
    batch: int = 64
    loader: bool = True
    """The research script reads its images through a DataLoader."""

    def __str__(self) -> str:
        return f"{self.name} {self.stage} B={self.batch}"


def random_images(count: int, size: int, classes: int) -> DataSet:
    """So that nothing has to be downloaded."""
    pixels = torch.randint(256, (count, size, size, 3), dtype=torch.uint8)
    split = Split(pixels, torch.arange(count) % classes)
    names, grey = tuple(str(number) for number in range(classes)), (0.5, 0.5, 0.5)
    test = split.take(torch.arange(min(count, classes)).numpy())
    return DataSet(name="random", train=split, test=test, classes=names, mean=grey, std=grey)


def digits() -> DataSet:
    return open_dataset("digits", image_size=8, resident=True, limit_train=None, threads=1)


def cases(quick: bool, device: torch.device) -> list[Case]:
    found = [Case("digits wrn_16_2/resnet8", recipes.digits, digits, stage) for stage in ("sftn", "kd")]
    cifar = partial(random_images, 2560, 32, 100)
    if not quick or device.type == "cuda":
        for stage in ("sftn", "kd"):
            found.append(Case("cifar-shaped wrn_40_2/wrn_16_2", recipes.cifar100_sftn, cifar, stage))
    if device.type == "cuda":
        whole = partial(random_images, 50_000, 32, 100)
        found.append(Case("cifar-shaped wrn_40_2/wrn_16_2", recipes.cifar100_sftn, whole, "crd"))
        imagenet = partial(recipes.imagenet_sftn, teacher_net="torchvision_resnet34", student="torchvision_resnet18")
        for batch in (256, 64):
            images = partial(random_images, 20 * batch, 224, 1000)
            found.append(Case("imagenet-shaped resnet34/resnet18", imagenet, images, "kd", batch, loader=False))
    return found


class Engine(NamedTuple):
    turn: Callable[[], None]
    starting_s: float
    """Compiling and capturing."""


def engine(case: Case, data: DataSet, device: torch.device, execution: Execution) -> Engine:
    """`TURN` steps as fastkd takes them."""
    recipe = case.recipe(**({"method": case.stage} if case.stage != "sftn" else {}))
    augmentation = replace(recipe.augmentation, crop="pad")
    job = Job.of(replace(recipe, augmentation=augmentation, execution=execution), data, device)
    resolved = job.execution
    set_up(resolved, device)
    builder, earlier = Builder(job, 0), Earlier(job.course)
    planned = job.course[0 if case.stage == "sftn" else 1]
    assert isinstance(planned, PlannedTraining)
    training = replace(planned.training, batch_size=case.batch)
    planned = replace(planned, training=training)
    if case.stage != "sftn":
        earlier.networks["teacher"] = builder.network(recipe.stages[0].network).to(device)
    module = builder.stage(planned, earlier).train()
    source = builder.train_source(planned, module.views)
    source.prepare.to(device)
    if resolved.channels_last:
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = build_optimizer(module, training, device)
    step = Step(module, source.prepare, optimizer, training, source.loader.steps, device, resolved)
    started = time.perf_counter()
    told = step.warm_up(source.loader, CudaRecorder(device) if resolved.capture else None)
    starting_s = time.perf_counter() - started
    for line in told:
        print(f"  {line}", flush=True)
    taken = endless_steps(step, source.loader)

    def turn() -> None:
        steps = 0
        while steps < TURN:
            steps += next(taken)
        assert steps == TURN

    return Engine(turn, starting_s)


def endless_steps(step: Step, loader: Loader) -> Iterator[int]:
    """Yields how many steps were taken; the learning rate stays that of the first epoch."""
    while True:
        whole = loader.steps - loader.steps % TURN
        taken = 0
        for steps in step.epoch_of(loader, 0):
            yield steps
            taken += steps
            if taken == whole:
                break
        step.done.zero_()


def measure(case: Case, device: torch.device, quick: bool) -> list[Record]:
    data = case.data()
    styles = ("reference", "amp", "compile") if device.type == "cuda" else ("reference",)
    recipe = case.recipe()
    turns: dict[str, Callable[[], object]] = {}
    starting: dict[str, float] = {}
    for style in styles:
        step = research_script(recipe, data, case.stage, case.batch, device, style=style, loader=case.loader)
        if style == "compile":
            began = time.perf_counter()
            step()
            starting[style] = time.perf_counter() - began
        turns[style] = lambda step=step: [step() for _ in range(TURN)]
    engines = {"fastkd": engine(case, data, device, Execution())}
    if device.type == "cuda":
        engines["fastkd fp32"] = engine(case, data, device, Execution(precision="float32"))
    turns |= {name: found.turn for name, found in engines.items()}
    starting |= {name: found.starting_s for name, found in engines.items()}
    timings = interleaved({name: [turn] for name, turn in turns.items()}, 5 if quick else 20, device.type)
    print(f"{case} on {device_name(device.type)}")
    records = []
    for name, turn in timings.items():
        timing = turn.per(TURN)
        ratio = timings["reference"].median_s / turn.median_s
        print(
            f"  {name:12} {timing.median_s * 1e3:9.3f} ms ({timing.p20_s * 1e3:.3f} to {timing.p80_s * 1e3:.3f})"
            f"  cpu {timing.cpu_s * 1e3:8.3f} ms  {case.batch / timing.median_s:9,.0f} images/s  {ratio:5.2f}x"
            + (f"  start {starting[name]:.1f} s" if starting.get(name) else ""),
            flush=True,
        )
        peak = None
        with contextlib.suppress(torch.OutOfMemoryError):
            peak = peak_bytes(turns[name], device.type)
        place, found = device_name(device.type), versions("torchvision")
        # Nothing is compared here: what a step computes is tested in tests/.
        at = ("training_step", name, str(case), place, timing.median_s, timing.p20_s, timing.p80_s, timing.cpu_s)
        records.append(Record(*at, peak, False, found, commit(), starting.get(name)))
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, the small case alone on a CPU")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--json", type=record_file, help="write the records to this file")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    records: list[Record] = []
    for case in cases(options.quick, device):
        if options.only in str(case):
            records += measure(case, device, options.quick)
            gc.collect()
            if options.json:  # after every case, so that one that fails loses nothing
                write_json(records, options.json)


if __name__ == "__main__":
    main()

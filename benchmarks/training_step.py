"""Whole training steps, data included: python -m benchmarks.training_step

`reference` is the usual research script (the loops of RepDistiller and its descendants, written anew from their
description): eager float32, a DataLoader of PIL images with two workers, KL and CE as separate modules, accuracies by
topk, and `.item()` on every meter in every step. `amp` is the same under bfloat16 autocast and channels_last, `compile`
the same compiled (both on a GPU), `fastkd` the engine as `python -m fastkd.train` runs it. Compiling is not timed; how
long it took stands in the printed table.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.transforms as transforms
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.timing import Record, commit, device_name, interleaved, peak_bytes, versions, write_json
from fastkd import networks, recipes
from fastkd.building import Builder
from fastkd.data import DataSet, Split, open_dataset
from fastkd.execution import Execution, resolve, set_up
from fastkd.networks.grafts import graft
from fastkd.optimisation import build_optimizer
from fastkd.recipe import Recipe
from fastkd.step import Step

BATCH = 64


class Pictures(Dataset[tuple[Tensor, int]]):
    """A split the way a research script reads it: one PIL image at a time."""

    def __init__(self, split: Split, size: int, padding: int, flip: bool):
        self.images, self.labels = split.images.numpy(), split.labels.tolist()
        flips = [transforms.RandomHorizontalFlip()] if flip else []
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(size, padding=padding),
                *flips,
                transforms.ToTensor(),
                transforms.Normalize((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(self.images[place]), self.labels[place]


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def distill_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    soft = F.log_softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    return F.kl_div(*soft, reduction="sum") * temperature**2 / student.shape[0]


def accuracy(logits: Tensor, labels: Tensor) -> list[float]:
    found = logits.topk(5, 1).indices.t().eq(labels.view(1, -1).expand(5, -1))
    return [found[:k].reshape(-1).float().sum(0).item() * 100 / len(labels) for k in (1, 5)]


def research_script(
    recipe: Recipe, data: DataSet, stage: str, device: torch.device, style: str
) -> Callable[[], object]:
    """One step of the loop; style: "reference", "amp" or "compile"."""
    assert isinstance(data.train, Split)
    torch.manual_seed(0)
    size, classes = recipe.image_size, len(data.classes)
    pictures = Pictures(data.train, size, recipe.augmentation.crop_padding, recipe.augmentation.flip)
    batches = endless(DataLoader(pictures, BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True))
    layout = torch.channels_last if style != "reference" else torch.contiguous_format
    teacher = networks.build(recipe.stages[0].network, num_classes=classes)
    student = networks.build(recipe.stages[1].network, num_classes=classes)
    if stage == "sftn":
        branches = graft(teacher, student, size)
        learning = nn.ModuleDict({"teacher": teacher, "branches": branches})
    else:
        learning, branches = nn.ModuleDict({"student": student}), nn.ModuleDict()
        teacher.eval().to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]
    learning.to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(learning.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    if style == "compile":
        for network in (teacher, student):
            network.compile(dynamic=False)
    meters: dict[str, float] = {}

    def step() -> None:
        images, labels = next(batches)
        images, labels = images.to(device, memory_format=layout), labels.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=style != "reference"):
            if stage == "sftn":
                output = teacher(images)
                logits = output.logits
                others = [branch(output.features[int(block) - 1]).logits for block, branch in branches.items()]
                kl = sum((distill_kl(other, logits, 1.0) for other in others), torch.zeros((), device=device))
                ce = sum((F.cross_entropy(other, labels) for other in others), torch.zeros((), device=device))
                loss = F.cross_entropy(logits, labels) + (3 * kl + ce) / len(others)
            else:
                with torch.no_grad():
                    target = teacher(images).logits
                logits = student(images).logits
                loss = 0.1 * F.cross_entropy(logits, labels) + 0.9 * distill_kl(logits, target, 4.0)
        top1, top5 = accuracy(logits, labels)
        meters.update(loss=loss.item(), top1=top1, top5=top5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def engine(recipe: Recipe, data: DataSet, stage: str, device: torch.device) -> tuple[Callable[[], object], float]:
    """One step as fastkd takes it, and the seconds that compiling took."""
    execution, _ = resolve(Execution(), device)
    set_up(execution, device)
    builder = Builder(recipe, data, 0, device, execution)
    chosen = recipe.stages[0 if stage == "sftn" else 1]
    if stage == "kd":
        builder.trained["teacher"] = builder.network(recipe.stages[0].network).to(device)
    module, source = builder.stage(chosen).train(), builder.train_source(chosen)
    source.prepare.to(device)
    if execution.channels_last:
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    assert chosen.training is not None
    optimizer = build_optimizer(module, chosen.training, device)
    step = Step(module, source.prepare, optimizer, chosen.training, source.loader.steps, device, execution)
    raws = (raw for epoch in range(10**6) for raw in source.loader.epoch(epoch))
    started = time.perf_counter()
    step.warm_up(next(raws))
    compiling = time.perf_counter() - started

    def call() -> None:
        step.step.clamp_(max=len(step.learning_rates) - 1)
        step(next(raws))

    return call, compiling


def cases(quick: bool, device: torch.device) -> dict[str, tuple[Recipe, DataSet]]:
    """Recipes with batches of 64; the CIFAR case trains on random pixels of its shape, so that it needs no download."""
    found = {"digits wrn_16_2/resnet8": (recipes.digits(), _digits())}
    if not quick or device.type == "cuda":
        pixels = torch.randint(256, (2048, 32, 32, 3), dtype=torch.uint8)
        split = Split(pixels, torch.arange(2048) % 100)
        names, grey = tuple(str(number) for number in range(100)), (0.5, 0.5, 0.5)
        cifar = DataSet(name="random", train=split, test=split, classes=names, mean=grey, std=grey)
        found["cifar-shaped wrn_40_2/wrn_16_2"] = (recipes.cifar100_sftn(), cifar)
    return found


def _digits() -> DataSet:
    return open_dataset("digits", image_size=8, resident=True, limit_train=None, threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, the small case alone on a CPU")
    parser.add_argument("--json", type=Path, help="write the records to this file")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    records: list[Record] = []
    for name, (recipe, data) in cases(options.quick, device).items():
        for stage in ("sftn", "kd"):
            records += measure(f"{name} {stage} B={BATCH}", recipe, data, stage, device, options.quick)
    if options.json:
        write_json(records, options.json)


def measure(case: str, recipe: Recipe, data: DataSet, stage: str, device: torch.device, quick: bool) -> list[Record]:
    recipe = replace(recipe, threads=None)
    styles = ("reference", "amp", "compile") if device.type == "cuda" else ("reference",)
    calls = {style: research_script(recipe, data, stage, device, style) for style in styles}
    calls["fastkd"], compiling = engine(recipe, data, stage, device)
    repetitions = 20 if quick else 100
    timings = interleaved({style: [call] for style, call in calls.items()}, repetitions, device.type)
    print(f"{case} on {device_name(device.type)}; fastkd compiled in {compiling:.1f} s")
    records = []
    for style, timing in timings.items():
        ratio = timings["reference"].median_s / timing.median_s
        rate = BATCH / timing.median_s
        print(
            f"  {style:10} {timing.median_s * 1e3:9.2f} ms ({timing.p20_s * 1e3:.2f} to {timing.p80_s * 1e3:.2f})"
            f"  cpu {timing.cpu_s * 1e3:8.2f} ms  {rate:9,.0f} images/s  {ratio:5.2f}x"
        )
        peak = None
        with contextlib.suppress(torch.OutOfMemoryError):
            peak = peak_bytes(calls[style], device.type)
        described = (timing.median_s, timing.p20_s, timing.p80_s, timing.cpu_s, peak)
        place = device_name(device.type)
        # Nothing is compared here: what a step computes is tested in tests/.
        records.append(
            Record("training_step", style, case, place, *described, False, versions("torchvision"), commit())
        )
    return records


if __name__ == "__main__":
    main()

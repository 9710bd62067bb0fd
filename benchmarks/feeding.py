"""How long a training step waits for its images, on a GPU: python -m benchmarks.feeding

A plain step of torch (bfloat16, channels_last, SGD; with `--compile` compiled) on photographs that DALI decodes on the
GPU (`dali-gpu`, with the given share of the JPEGs in the GPU's decoding unit) or torchvision in as many processes as
there are cores (`torchvision`), and on one batch that lies on the device (`held`). `waited` is the time between the end
of a step on the GPU and the beginning of the next one, of the whole; what a step loses because decoding shares the GPU
with it shows in the images a second, beside those of `held`.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, islice, pairwise, repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torchvision
from torch.nn import functional

from benchmarks.data import SIZE, cpu_seconds, loader_versions, quantiles
from benchmarks.pictures import photographs, re_encoded
from benchmarks.timing import Record, commit, device_name, record_file, write_json
from fastkd.data import (
    Augmentation,
    Batch,
    DataSet,
    Feeding,
    Format,
    RawBatch,
    Source,
    open_dataset,
    resolved_loader,
    training_source,
)

WARM_UP = 8  # steps: cuDNN chooses its algorithms, the loader fills its queue
GPU = torch.device("cuda")


class Timed(NamedTuple):
    seconds: list[float]
    """Of each step, from the beginning of one to that of the next."""
    waited: list[float]
    cpu_seconds: float
    """Of a step, all processes together."""


class Training:
    """The step of a plain training script."""

    def __init__(self, network: str, *, compiled: bool):
        torch.manual_seed(0)
        built = getattr(torchvision.models, network)(weights=None).to(GPU, memory_format=torch.channels_last)
        self.forward = torch.compile(built, dynamic=False) if compiled else built
        self.optimizer = torch.optim.SGD(built.parameters(), lr=0.01, momentum=0.9, fused=True)

    def __call__(self, batch: Batch) -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = functional.cross_entropy(self.forward(batch.images[0]), batch.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="half as many steps, no torchvision")
    arguments.add_argument("--json", type=record_file, help="write the records to this file")
    arguments.add_argument("--networks", nargs="+", default=["resnet50", "resnet18"])
    arguments.add_argument("--batch", type=int, default=256)
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments.add_argument("--decoder-loads", type=float, nargs="+", help="default: the loader's own")
    arguments.add_argument("--compile", action="store_true")
    options = arguments.parse_args()
    if not torch.cuda.is_available() or resolved_loader("auto") != "dali":
        arguments.exit(message="needs a GPU and DALI: nothing to measure\n")
    torch.backends.cudnn.benchmark = True
    steps = options.steps // 2 if options.quick else options.steps
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        original = photographs(Path(folder), repeat=(WARM_UP + steps + 2) * options.batch // 200 + 1)
        roots = {"imagenet-sample": original, "imagenet-sample at 256": re_encoded(original, Path(folder) / "small")}
        data = {
            name: open_dataset(
                f"imagefolder:{root}", image_size=SIZE, resident=False, limit_train=None, threads=options.workers
            )
            for name, root in roots.items()
        }
        for name in data:
            _check(data[name], options.batch, options.workers)
        for network in options.networks:
            train = Training(network, compiled=options.compile)
            title = f"{network}{', compiled' if options.compile else ''}, batch {options.batch}"
            print(f"\n{title}, {steps} steps\n{'':40}{'images/s':>10}{'waited':>9}{'cpu s/step':>12}", flush=True)
            for case, found in _measure(train, data, steps, options):
                rate = options.batch * len(found.seconds) / sum(found.seconds)
                share = sum(found.waited) / sum(found.seconds)
                print(f"{case:40}{rate:10,.0f}{share:9.1%}{found.cpu_seconds:12.3f}", flush=True)
                records += _records(title, case, found, options.workers)
                if options.json:
                    write_json(records, options.json)


def _measure(
    train: Training, data: dict[str, DataSet], steps: int, options: argparse.Namespace
) -> Iterator[tuple[str, Timed]]:
    source = _source(next(iter(data.values())), "dali", options.batch, options.workers)
    held = next(iter(source.loader.epoch(0))).to(GPU)
    yield "held", _time(train, source, repeat(held), steps)
    for name, files in data.items():
        for load in options.decoder_loads or [None]:
            source = _source(files, "dali", options.batch, options.workers, load)
            yield (
                f"dali-gpu{'' if load is None else f' {load:g}'}, {name}",
                _time(train, source, _epochs(source), steps),
            )
        if not options.quick:
            source = _source(files, "torchvision", options.batch, options.workers)
            yield f"torchvision, {name}", _time(train, source, _epochs(source), steps)


def _time(train: Callable[[Batch], None], source: Source, raws: Iterable[RawBatch], steps: int) -> Timed:
    zero = torch.zeros((), dtype=torch.int64, device=GPU)
    begins, ends = ([torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)] for _ in range(2))
    before = 0.0
    for step, raw in enumerate(islice(raws, WARM_UP + steps + 1), start=-WARM_UP):
        if step == 0:
            before = cpu_seconds()
        if step >= 0:
            begins[step].record()
        train(source.prepare(raw.to(GPU), zero, zero))
        if step >= 0:
            ends[step].record()
        if step >= 2:
            ends[step - 2].synchronize()  # a script that looks at its loss now and then is no further ahead
    torch.cuda.synchronize()
    return Timed(
        [begin.elapsed_time(after) / 1000 for begin, after in pairwise(begins)],
        [end.elapsed_time(after) / 1000 for end, after in zip(ends[:-1], begins[1:], strict=True)],
        (cpu_seconds() - before) / (steps + 1),
    )


def _source(
    data: DataSet, loader: Literal["dali", "torchvision"], batch: int, workers: int, load: float | None = None
) -> Source:
    format = Format(dtype=torch.bfloat16, channels_last=True)
    feeding = Feeding(image_size=SIZE, workers=workers, loader=loader, device=GPU, format=format)
    source = training_source(data, feeding, batch_size=batch, augmentation=Augmentation(crop="resized"), seed=0)
    source.prepare.to(GPU)
    if load is not None:
        files: Any = source.loader
        files.hw_decoder_load = load
    return source


def _epochs(source: Source) -> Iterator[RawBatch]:
    return chain.from_iterable(source.loader.epoch(epoch) for epoch in count())


def _check(data: DataSet, batch: int, workers: int) -> None:
    """Both loaders give the same images in the same order, but for what decoders and resizing make of the last bits."""
    raws = [next(iter(_source(data, loader, batch, workers).loader.epoch(0))) for loader in ("dali", "torchvision")]
    ours, theirs = (raw.to(GPU) for raw in raws)
    assert torch.equal(ours.index, theirs.index) and ours.images is not None and theirs.images is not None
    apart = (ours.images.float() - theirs.images.float()).abs().mean().item()
    print(f"DALI on the GPU and torchvision differ by {apart:.3f} of 255 in the mean")
    assert apart < 2


def _records(title: str, case: str, found: Timed, workers: int) -> list[Record]:
    device = f"{device_name('cuda')}, {workers} workers"
    common = {"peak_bytes": None, "checked": True, "versions": loader_versions(), "commit": commit()}
    contender, _, files = case.partition(", ")
    what = ", ".join(filter(None, (title, files)))
    return [
        Record("feeding", contender, text, device, *quantiles(values), found.cpu_seconds, **common)
        for text, values in ((f"{what}, a step", found.seconds), (f"{what}, waited before a step", found.waited))
    ]


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"{time.perf_counter() - started:.0f} s")

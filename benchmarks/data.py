"""Loaders against each other, images per second and per processor second: python -m benchmarks.data

`torchvision-v1` and `torchvision-v2` are the usual pipelines in torch's DataLoader (v1: Pillow to float; v2: tensors),
`torchvision`, `dali` (its CPU pipeline) and `resident` ours, each up to the normalised float batch that a step trains
on, where it trains: on the GPU, if there is one. `dali-gpu` decodes there too, with the given share of the JPEGs in the
GPU's decoding unit, `resident-gpu` gathers and crops there. Processor time is of all processes. `waited` is what a step
would have waited for the loader, had it taken as long as an image is given to it by `--step-rate`; `benchmarks.feeding`
has real steps.

The JPEGs are those of imagenet-sample beside the checkout, else pictures made for the purpose.
"""

import argparse
import functools
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import v2

from benchmarks.pictures import cifar, photographs, re_encoded
from benchmarks.timing import Record, commit, device_name, record_file, versions, write_json
from fastkd.data import Augmentation, Feeding, Source, Split, open_dataset, resolved_loader, training_source

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, CIFAR_BATCH = 224, 128
CPU = torch.device("cpu")
Pass = Callable[[], Iterable[Callable[[], Tensor]]]
"""One pass over the images: what a loader gives, each with what the step does to it: float batches [B,3,H,W]."""


class Timed(NamedTuple):
    seconds: float
    cpu_seconds: float
    images: int
    waited: float
    """Seconds of the pass in which a step stood still, where one was imitated."""


def main() -> None:
    cores, gpu = len(os.sched_getaffinity(0)), torch.cuda.is_available()
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="under a minute on two cores")
    arguments.add_argument("--json", type=record_file, help="write the records to this file")
    arguments.add_argument("--repetitions", type=int, default=7)
    arguments.add_argument("--workers", type=int, default=cores)
    arguments.add_argument("--batch", type=int, default=128 if gpu else 64, help="JPEGs in a batch")
    arguments.add_argument("--step-rate", type=float, default=5000.0 if gpu else 200.0,
                           help="images a second of a step on JPEGs")  # fmt: skip
    arguments.add_argument("--decoder-loads", type=float, nargs="+", help="default: the loader's own")
    options = arguments.parse_args()
    torch.set_num_threads(1)  # as many processes as cores: more threads would be counted twice
    repetitions = 3 if options.quick else options.repetitions
    device = torch.device("cuda" if gpu else "cpu")
    records: list[Record] = []

    def measure(case: str, contenders: dict[str, Pass], size: int, step_rate: float) -> None:
        _check(contenders, size)
        records.extend(_measure(case, contenders, repetitions, step_rate, options.workers))
        if options.json:
            write_json(records, options.json)

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        # Enough batches for every worker.
        original = photographs(place, repeat=max(1, cores // 2) * (1 if options.quick else 3) * (6 if gpu else 1))
        small = re_encoded(original, place / "small")
        for name, root in (("imagenet-sample", original), ("imagenet-sample at 256", small)):
            contenders = _jpeg_contenders(root, options.workers, options.batch, device, options.decoder_loads)
            measure(name, contenders, SIZE, options.step_rate)
        few = 6_400 if options.quick and not gpu else None
        measure("cifar-100", _cifar_contenders(place, options.workers, device, few), 32, options.step_rate * 100)


def _measure(case: str, contenders: dict[str, Pass], repetitions: int, step_rate: float, workers: int) -> list[Record]:
    """Times of an image, after `_check` went through all of them once."""
    timed = _rounds(contenders, repetitions)
    waits = _rounds(contenders, (repetitions + 1) // 3, step_rate)
    images = next(iter(timed.values()))[0].images
    print(f"\n{case}: {images:,} images a pass, median of {repetitions}")
    print(f"{'':16}{'images/s':>10}{'p20':>9}{'p80':>9}{'per CPU s':>11}   waited, a step doing {step_rate:,.0f}/s")
    device = f"{device_name('cuda') if torch.cuda.is_available() else 'cpu'}, {workers} workers"
    common = {"peak_bytes": None, "checked": True, "versions": loader_versions(), "commit": commit()}
    taken, waited = [], []
    for name, passes in timed.items():
        seconds = [one.seconds / images for one in passes]
        (median, p20, p80), cpu = quantiles(seconds), statistics.median(one.cpu_seconds for one in passes) / images
        stood = [one.waited / images for one in waits[name]]
        share = statistics.median(one.waited / one.seconds for one in waits[name])
        rates = f"{1 / median:10,.0f}{1 / p80:9,.0f}{1 / p20:9,.0f}{1 / cpu:11,.0f}"
        print(f"{name:16}{rates}   {share:.0%}", flush=True)
        taken.append(Record("data", name, f"{case}, an image of {images:,}", device, median, p20, p80, cpu, **common))
        what = f"{case}, waited for an image by a step that takes {1e6 / step_rate:,.0f} µs for it"
        cpu = statistics.median(one.cpu_seconds for one in waits[name]) / images
        waited.append(Record("data", name, what, device, *quantiles(stood), cpu, **common))
    return taken + waited


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """Median, the 20th and the 80th percentile."""
    p20, _, _, p80 = statistics.quantiles(values * 2 if len(values) == 1 else values, n=5, method="inclusive")
    return statistics.median(values), p20, p80


def _rounds(contenders: dict[str, Pass], repetitions: int, step_rate: float | None = None) -> dict[str, list[Timed]]:
    """Passes in turn, round after round."""
    timed: dict[str, list[Timed]] = {name: [] for name in contenders}
    for _ in range(repetitions):
        for name, one_pass in contenders.items():
            timed[name].append(_time(one_pass, step_rate))
    return timed


def _time(one_pass: Pass, step_rate: float | None = None) -> Timed:
    """With a step_rate, each batch is followed by a sleep of so long as a GPU would take for it."""
    cpu, started = cpu_seconds(), time.perf_counter()
    images, waited, asked = 0, 0.0, started
    for prepared in one_pass():
        waited += time.perf_counter() - asked
        batch = prepared()
        if batch.is_cuda:
            torch.cuda.synchronize()
        images += len(batch)
        if step_rate is not None:
            time.sleep(len(batch) / step_rate)
        asked = time.perf_counter()
    return Timed(time.perf_counter() - started, cpu_seconds() - cpu, images, waited)


def cpu_seconds() -> float:
    """Of this process, of its children that have ended, and of those that live."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    ticks = os.sysconf("SC_CLK_TCK")
    for file in Path("/proc/self/task").glob("*/children"):
        for child in file.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def _check(contenders: dict[str, Pass], size: int) -> None:
    """Every pass has as many images; ours have the same pixels as each other, but for how DALI resizes."""
    counts, means = {}, {}
    for name, one_pass in contenders.items():
        count, total = 0, 0.0
        for prepared in one_pass():
            batch = prepared()
            assert batch.shape[1:] == (3, size, size) and batch.isfinite().all(), name
            count, total = count + len(batch), total + batch.double().mean((1, 2, 3)).sum().item()
        counts[name], means[name] = count, total / count
    assert len(set(counts.values())) == 1, counts
    assert max(means.values()) - min(means.values()) < 0.4, means  # other random crops
    for name, mean in means.items():
        assert not name.startswith("dali") or abs(mean - means["torchvision"]) < 0.02, means


class _Batches:
    """Passes over one of our sources, epoch after epoch."""

    def __init__(self, source: Source, device: torch.device):
        self.source, self.device, self.epoch = source, device, 0
        source.prepare.to(device)

    def __call__(self) -> Iterator[Callable[[], Tensor]]:
        zero = torch.zeros((), dtype=torch.int64, device=self.device)
        for raw in self.source.loader.epoch(self.epoch):
            yield lambda raw=raw: self.source.prepare(raw.to(self.device), zero, zero + self.epoch).images[0]
        self.epoch += 1


def _jpeg_contenders(
    root: Path, workers: int, batch: int, device: torch.device, decoder_loads: list[float] | None
) -> dict[str, Pass]:
    crop = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    v1 = v2.Compose([*crop, _to_float_by_pillow, v2.Normalize(MEAN, STD)])
    tensors = v2.Compose([v2.PILToTensor(), *crop, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    contenders: dict[str, Pass] = {
        "torchvision-v1": _usual(datasets.ImageFolder(str(root / "train"), v1), batch, workers, device),
        "torchvision-v2": _usual(datasets.ImageFolder(str(root / "train"), tensors), batch, workers, device),
    }
    data = open_dataset(f"imagefolder:{root}", image_size=SIZE, resident=False, limit_train=None, threads=workers)

    def ours(loader: Literal["dali", "torchvision"], decoding: torch.device) -> Source:
        feeding = Feeding(image_size=SIZE, workers=workers, loader=loader, device=decoding)
        resized = Augmentation(crop="resized")
        return training_source(data, feeding, batch_size=batch, augmentation=resized, seed=0, drop_last=False)

    contenders["torchvision"] = _Batches(ours("torchvision", device), device)
    if resolved_loader("auto") == "dali":
        contenders["dali"] = _Batches(ours("dali", CPU), device)
        for load in (decoder_loads or [None]) if device.type == "cuda" else ():
            source = ours("dali", device)
            if load is not None:
                loader: Any = source.loader
                loader.hw_decoder_load = load
            contenders["dali-gpu" if load is None else f"dali-gpu {load:g}"] = _Batches(source, device)
    return contenders


def _cifar_contenders(place: Path, workers: int, device: torch.device, limit: int | None) -> dict[str, Pass]:
    data = cifar(place, limit)
    assert isinstance(data.train, Split)
    images, labels = data.train.images.contiguous().numpy(), data.train.labels.tolist()
    crop = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
    v1 = v2.Compose([Image.fromarray, *crop, _to_float_by_pillow, v2.Normalize(data.mean, data.std)])
    tensors = v2.Compose(
        [v2.ToImage(), *crop, v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean, data.std)]
    )

    def ours(device: torch.device) -> Pass:
        feeding = Feeding(image_size=32, device=device)
        source = training_source(
            data, feeding, batch_size=CIFAR_BATCH, augmentation=Augmentation(), seed=0, drop_last=False
        )
        return _Batches(source, device)

    contenders = {
        "torchvision-v1": _usual(_Arrays(images, labels, v1), CIFAR_BATCH, workers, device),
        "torchvision-v2": _usual(_Arrays(images, labels, tensors), CIFAR_BATCH, workers, device),
        "resident": ours(CPU),
    }
    if device.type == "cuda":
        contenders["resident-gpu"] = ours(device)
    return contenders


class _Arrays(Dataset[tuple[Tensor, int]]):
    def __init__(self, images: np.ndarray, labels: list[int], transform: Callable):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(self.images[place]), self.labels[place]


def _usual(dataset: Dataset, batch_size: int, workers: int, device: torch.device) -> Pass:
    loader = DataLoader(
        dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0,
        worker_init_fn=_one_thread, pin_memory=device.type == "cuda",
    )  # fmt: skip
    return lambda: (functools.partial(batch.to, device, non_blocking=True) for batch, _ in loader)


def _to_float_by_pillow(image: Image.Image) -> Tensor:
    """What torchvision calls ToTensor."""
    from torchvision.transforms.functional import to_tensor

    return to_tensor(image)


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


def loader_versions() -> dict[str, str]:
    return versions("torchvision", "pillow", "nvidia-dali-cuda130", "nvidia-dali-cuda120")


if __name__ == "__main__":
    main()

"""Loaders against each other, images per second and per processor second: python -m benchmarks.data

`torchvision-v1` and `torchvision-v2` are the usual pipelines in torch's DataLoader (v1: Pillow to float; v2: tensors),
`torchvision`, `dali` and `resident` ours, each up to the normalised float batch that a step trains on; `dali-gpu` and
`resident-gpu` the same on a GPU. Processor time is of all processes. `waited` is what a step would have waited for the
loader, had it taken as long as an image is given to it by `--step-rate`.

The JPEGs are those of imagenet-sample beside the checkout, else pictures made for the purpose.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import v2

from benchmarks.timing import Record, commit, device_name, versions, write_json
from fastkd.data import Augmentation, DataSet, Source, Split, open_dataset, resolved_loader, training_source
from fastkd.data.cifar import cifar100

REAL = Path(__file__).parents[2] / "shared" / "data"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, BATCH, CIFAR_BATCH = 224, 64, 128
Pass = Callable[[], Iterable[Tensor]]
"""One pass over the images: float batches [B,3,H,W]."""


class Timed(NamedTuple):
    seconds: float
    cpu_seconds: float
    images: int
    waited: float
    """Seconds of the pass in which a step stood still, where one was imitated."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="under a minute on two cores")
    arguments.add_argument("--json", type=Path, help="write the records to this file")
    arguments.add_argument("--repetitions", type=int, default=7)
    arguments.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments.add_argument("--step-rate", type=float, default=200.0, help="images a second of a step on JPEGs")
    options = arguments.parse_args()
    torch.set_num_threads(1)  # as many processes as cores: more threads would be counted twice
    repetitions = 3 if options.quick else options.repetitions
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as place:
        photographs = _photographs(Path(place), repeat=1 if options.quick else 3)
        small = _re_encoded(photographs, Path(place) / "small")
        for name, root in (("imagenet-sample", photographs), ("imagenet-sample at 256", small)):
            contenders = _jpeg_contenders(root, options.workers)
            _check(contenders, SIZE)
            records += _measure(name, contenders, repetitions, options.step_rate)
        contenders = _cifar_contenders(Path(place), options.workers, limit=6_400 if options.quick else None)
        _check(contenders, 32)
        records += _measure("cifar-100", contenders, repetitions, options.step_rate * 100)
    if options.json:
        write_json(records, options.json)


def _measure(case: str, contenders: dict[str, Pass], repetitions: int, step_rate: float) -> list[Record]:
    """Passes in turn, round after round; the first of each is not counted."""
    timed: dict[str, list[Timed]] = {name: [] for name in contenders}
    for repetition in range(repetitions + 1):
        for name, one_pass in contenders.items():
            found = _time(one_pass)
            if repetition:
                timed[name].append(found)
    waits = {name: _time(one_pass, step_rate) for name, one_pass in contenders.items()}
    records = []
    print(f"\n{case}: {next(iter(timed.values()))[0].images:,} images a pass, median of {repetitions}")
    print(f"{'':16}{'images/s':>10}{'p20':>9}{'p80':>9}{'per CPU s':>11}   waited, a step doing {step_rate:,.0f}/s")
    for name, passes in timed.items():
        seconds = [one.seconds for one in passes]
        p20, _, _, p80 = statistics.quantiles(seconds, n=5, method="inclusive")
        median, cpu = statistics.median(seconds), statistics.median(one.cpu_seconds for one in passes)
        images, wait = passes[0].images, waits[name]
        share = wait.waited / wait.seconds
        rates = f"{images / median:10,.0f}{images / p80:9,.0f}{images / p20:9,.0f}{images / cpu:11,.0f}"
        print(f"{name:16}{rates}   {share:.0%}")
        device = device_name("cuda" if name.endswith("gpu") else "cpu")
        common = {"peak_bytes": None, "checked": True, "versions": _versions(), "commit": commit()}
        what = f"{case}, {images} images"
        records.append(Record("data", name, what, device, median, p20, p80, cpu, **common))
        waited = f"{what}, waited by a step of {step_rate:g} images/s in {wait.seconds:.4g} s"
        records.append(
            Record("data", name, waited, device, wait.waited, wait.waited, wait.waited, wait.cpu_seconds, **common)
        )
    return records


def _time(one_pass: Pass, step_rate: float | None = None) -> Timed:
    """With a step_rate, each batch is followed by a sleep of so long as a GPU would take for it."""
    cpu, started = _cpu_seconds(), time.perf_counter()
    images, waited, asked = 0, 0.0, started
    for batch in one_pass():
        if batch.is_cuda:
            torch.cuda.synchronize()
        waited += time.perf_counter() - asked
        images += len(batch)
        if step_rate is not None:
            time.sleep(len(batch) / step_rate)
        asked = time.perf_counter()
    return Timed(time.perf_counter() - started, _cpu_seconds() - cpu, images, waited)


def _cpu_seconds() -> float:
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
        batches = [batch.float().cpu() for batch in one_pass()]
        assert all(batch.shape[1:] == (3, size, size) and batch.isfinite().all() for batch in batches), name
        counts[name] = sum(len(batch) for batch in batches)
        means[name] = torch.stack([batch.mean() for batch in batches]).mean().item()
    assert len(set(counts.values())) == 1, counts
    assert max(means.values()) - min(means.values()) < 0.4, means  # other random crops
    if "dali" in means:
        assert abs(means["dali"] - means["torchvision"]) < 0.01, means


class _Batches:
    """Passes over one of our sources, epoch after epoch."""

    def __init__(self, source: Source, device: torch.device):
        self.source, self.device, self.epoch = source, device, 0
        source.prepare.to(device)

    def __call__(self) -> Iterator[Tensor]:
        zero = torch.zeros((), dtype=torch.int64, device=self.device)
        for raw in self.source.loader.epoch(self.epoch):
            yield self.source.prepare(raw.to(self.device), zero, zero + self.epoch).images[0]
        self.epoch += 1


def _jpeg_contenders(root: Path, workers: int) -> dict[str, Pass]:
    crop = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    v1 = v2.Compose([*crop, _to_float_by_pillow, v2.Normalize(MEAN, STD)])
    tensors = v2.Compose([v2.PILToTensor(), *crop, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    contenders: dict[str, Pass] = {
        "torchvision-v1": _usual(datasets.ImageFolder(str(root / "train"), v1), BATCH, workers),
        "torchvision-v2": _usual(datasets.ImageFolder(str(root / "train"), tensors), BATCH, workers),
    }
    data = open_dataset(f"imagefolder:{root}", image_size=SIZE, resident=False, limit_train=None, threads=workers)

    def ours(loader, device: torch.device) -> Pass:
        source = training_source(
            data, image_size=SIZE, batch_size=BATCH, augmentation=Augmentation(crop="resized"), seed=0,
            drop_last=False, workers=workers, loader=loader, device=device,
        )  # fmt: skip
        return _Batches(source, device)

    contenders["torchvision"] = ours("torchvision", torch.device("cpu"))
    if resolved_loader("auto") == "dali":
        contenders["dali"] = ours("dali", torch.device("cpu"))
        if torch.cuda.is_available():
            contenders["dali-gpu"] = ours("dali", torch.device("cuda"))
    return contenders


def _cifar_contenders(place: Path, workers: int, limit: int | None) -> dict[str, Pass]:
    data = _cifar(place, limit)
    assert isinstance(data.train, Split)
    images, labels = data.train.images.contiguous().numpy(), data.train.labels.tolist()
    crop = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
    v1 = v2.Compose([Image.fromarray, *crop, _to_float_by_pillow, v2.Normalize(data.mean, data.std)])
    tensors = v2.Compose(
        [v2.ToImage(), *crop, v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean, data.std)]
    )

    def ours(device: torch.device) -> Pass:
        source = training_source(
            data, image_size=32, batch_size=CIFAR_BATCH, augmentation=Augmentation(), seed=0, drop_last=False,
            device=device,
        )  # fmt: skip
        return _Batches(source, device)

    contenders = {
        "torchvision-v1": _usual(_Arrays(images, labels, v1), CIFAR_BATCH, workers),
        "torchvision-v2": _usual(_Arrays(images, labels, tensors), CIFAR_BATCH, workers),
        "resident": ours(torch.device("cpu")),
    }
    if torch.cuda.is_available():
        contenders["resident-gpu"] = ours(torch.device("cuda"))
    return contenders


class _Arrays(Dataset[tuple[Tensor, int]]):
    def __init__(self, images: np.ndarray, labels: list[int], transform: Callable):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(self.images[place]), self.labels[place]


def _usual(dataset: Dataset, batch_size: int, workers: int) -> Pass:
    loader = DataLoader(
        dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
    )  # fmt: skip
    return lambda: (batch for batch, _ in loader)


def _to_float_by_pillow(image: Image.Image) -> Tensor:
    """What torchvision calls ToTensor."""
    from torchvision.transforms.functional import to_tensor

    return to_tensor(image)


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


def _photographs(place: Path, repeat: int) -> Path:
    """A folder train/CLASS/… of links to the real ones, each `repeat` times, and a small val."""
    root, real = place / "photographs", REAL / "imagenet-sample"
    if not real.is_dir():
        print(f"no real photographs ({real}): made ones are read instead")
        real = place / "made"
        for number in range(64):
            rng = np.random.default_rng(number)
            noise = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            (real / f"{number:03}").mkdir(parents=True)
            noise.resize((500, 375), Image.Resampling.BICUBIC).save(real / f"{number:03}" / "0.jpg", quality=95)
    for folder in sorted(path for path in real.iterdir() if path.is_dir()):
        (root / "val").mkdir(parents=True, exist_ok=True)
        (root / "val" / folder.name).symlink_to(folder)
        (root / "train" / folder.name).mkdir(parents=True)
        for number in range(repeat):
            (root / "train" / folder.name / str(number)).symlink_to(folder)
    return root


def _re_encoded(root: Path, out: Path) -> Path:
    """The same pictures with a shorter side of 256 pixels, as many keep ImageNet."""
    for file in sorted((root / "val").glob("*/*")):
        (out / "val" / file.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            scale = 256 / min(image.size)
            size = (max(256, round(image.width * scale)), max(256, round(image.height * scale)))
            image.convert("RGB").resize(size).save(out / "val" / file.parent.name / file.name, "JPEG", quality=90)
    for folder in sorted((root / "train").iterdir()):
        (out / "train" / folder.name).mkdir(parents=True)
        for number in folder.iterdir():
            (out / "train" / folder.name / number.name).symlink_to(out / "val" / folder.name)
    return out


def _cifar(place: Path, limit: int | None) -> DataSet:
    """The real one, else bytes of its shape: nothing here depends on what is to be seen."""
    unpack = REAL / "unpack_cifar100.py"
    if unpack.exists():
        few = [] if limit is None else ["--limit", str(limit)]
        subprocess.run([sys.executable, str(unpack), str(place / "cifar"), *few], check=True, capture_output=True)
    else:
        (place / "cifar").mkdir()
        for part, count in (("train", limit or 50_000), ("test", 100)):
            records = np.random.default_rng(0).integers(0, 100, (count, 3074), dtype=np.uint8)
            records.tofile(place / "cifar" / f"{part}.bin")
    return cifar100(str(place / "cifar"))


def _versions() -> dict[str, str]:
    return versions("torchvision", "pillow", "nvidia-dali-cuda130", "nvidia-dali-cuda120")


if __name__ == "__main__":
    main()

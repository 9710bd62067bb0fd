"""A training at ImageNet's size without its pictures or a GPU: python -m benchmarks.rehearsal --place FOLDER

1.28 million names of twenty small photographs, in class folders (hard links) and in tar shards:

- what opening them costs the ranks of one run, of which one scans, in seconds, memory and open files, anew and with
  what an earlier scan kept;
- an epoch of a tiny network, ended in its middle (SIGTERM: a checkpoint is written; SIGKILL: it is not) and taken up by
  the same command; afterwards every step's row numbers are compared with the order of the epoch;
- images a second that are read where each call for bytes takes so many milliseconds, by the number of workers.

FOLDER takes 3.3 GB, which are removed at the end.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.many_images import make_folders, make_shards
from benchmarks.rehearsed import delayed, memory, open_files, opened
from benchmarks.timing import Record, commit, record_file, versions, write_json
from fastkd.data import Augmentation, Feeding, training_source
from fastkd.data.order import Order

IMAGENET, QUICK = 1_281_167, 2_000
"""Images to train on."""
WORKERS = (1, 2, 4, 8, 16)
SECONDS_OF_A_RATE = 6.0
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed: one keeping of the images."""

    kind: str
    """folder or tar"""
    spec: str
    """--data"""
    place: Path
    images: int
    tested: int
    trained: int
    """How many of the images an epoch has."""
    batch: int


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="2,000 images: under a minute and a half on two cores")
    arguments.add_argument("--json", type=record_file, help="write the records to this file")
    arguments.add_argument("--place", type=Path, help="where the images are made (default: a temporary folder)")
    arguments.add_argument("--images", type=int, help=f"images to train on (default: {IMAGENET:,}; quick: {QUICK:,})")
    arguments.add_argument("--kinds", nargs="+", choices=("folder", "tar"), default=("folder", "tar"))
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=tuple(PARTS))
    arguments.add_argument("--ranks", type=int, help="processes of one run that open the data (default: 8; quick: 2)")
    arguments.add_argument("--delays", type=float, nargs="+", help="milliseconds a call (default: 0 1 5 20)")
    arguments.add_argument("--train-on", type=int, help="so many of the images make the epoch (default: all)")
    arguments.add_argument("--batch", type=int, help="images of a batch (default: 2,048; quick: 100)")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    images = options.images or (QUICK if options.quick else IMAGENET)
    classes = min(1_000, max(2, images // 100))
    tested = max(classes, images * 50_000 // IMAGENET)
    records: list[Record] = []
    with tempfile.TemporaryDirectory(dir=options.place) as folder:
        for kind in options.kinds:
            place = Path(folder) / kind
            began = time.perf_counter()
            spec = (make_folders if kind == "folder" else make_shards)(place / "images", images, tested, classes)
            print(f"{kind}: {images + tested:,} images made in {time.perf_counter() - began:.0f} s", flush=True)
            batch = options.batch or (100 if options.quick else 2_048)
            trained = min(images, options.train_on or images)
            rehearsal = Rehearsal(kind, spec, place, images, tested, trained, batch)
            for part in options.parts:
                records += PARTS[part](rehearsal, options)
                if options.json:
                    write_json(records, options.json)
            shutil.rmtree(place)


def record_of(
    rehearsal: Rehearsal, case: str, seconds: float, cpu: float, *, peak: int | None = None, checked: bool = True
) -> Record:
    device = f"cpu, {len(os.sched_getaffinity(0))} cores"
    how = (device, seconds, seconds, seconds, cpu, peak, checked, versions("torchvision"), commit())
    return Record("rehearsal", rehearsal.kind, case, *how)


# --- what the ranks of a run pay to open the data


def opening(rehearsal: Rehearsal, options: argparse.Namespace) -> list[Record]:
    """One process, then several of one run: seconds of the slowest, memory of all, images that each looked at."""
    several = options.ranks or (2 if options.quick else 8)
    found = []
    for ranks in (1, several):
        folder = rehearsal.place / f"opened-{ranks}"
        folder.mkdir()
        subprocess.run([*_started(ranks), "open", rehearsal.spec, str(folder)], check=True, env=ENVIRONMENT)
        told = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
        seconds, memories = max(one["seconds"] for one in told), sum(one["Pss"] for one in told)
        looked = [one["looked"] for one in told]
        right = all((one["images"], one["tested"]) == (rehearsal.images, rehearsal.tested) for one in told)
        assert right and looked[0] == rehearsal.images + rehearsal.tested and not any(looked[1:]), told
        files = max(one["files"] for one in told)
        print(
            f"  opened by {ranks}: {seconds:.1f} s, CPU of rank 0 {told[0]['cpu_s']:.1f} s, of the others at most "
            f"{max([0.0, *(one['cpu_s'] for one in told[1:])]):.1f} s; memory {memories / 2**20:,.0f} MiB in all, "
            f"{max(one['Rss'] for one in told[-1:]) / 2**20:,.0f} MiB mapped by the last; {files} open files at most; "
            f"images looked at by each: {looked}",
            flush=True,
        )
        cpu = sum(one["cpu_s"] for one in told)
        case = f"{rehearsal.images:,} images opened by {ranks} process{'es' * (ranks > 1)} of a run"
        found.append(record_of(rehearsal, case, seconds, cpu, peak=memories))
    return found


def _started(ranks: int) -> list[str]:
    one = ["-m", "benchmarks.rehearsed"]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--rdzv-endpoint", "localhost:0"]
    return [sys.executable, *(one if ranks == 1 else [*launcher, "--rdzv-backend", "c10d", "-m", "--", one[1]])]


# --- an epoch that is ended in its middle


class Step(NamedTuple):
    epoch: int
    step: int
    index: np.ndarray


def epoch(rehearsal: Rehearsal, _: argparse.Namespace) -> list[Record]:
    """Trains a tiny network, ended by a signal in the middle of the epoch and taken up by the same command."""
    ended_by = signal.SIGTERM if rehearsal.kind == "folder" else signal.SIGKILL
    log, run = rehearsal.place / "log", rehearsal.place / "run"
    log.touch()
    steps = rehearsal.trained // rehearsal.batch
    began = time.perf_counter()
    first = _training(rehearsal, log, run)
    started = _wait_for_steps(first, log, rehearsal, 1)
    _wait_for_steps(first, log, rehearsal, steps // 2)
    _tell_of_processes(first.pid, f"first batch after {started - began:.1f} s from the start of the program")
    first.send_signal(ended_by)
    first.wait()
    before = len(list(_logged(log)))
    resumed = time.perf_counter()
    second = _training(rehearsal, log, run)
    again = _wait_for_steps(second, log, rehearsal, before + 1) - resumed
    _tell_of_processes(second.pid, f"ended by {ended_by.name} after {before} steps, taken up in {again:.1f} s")
    if second.wait():
        raise SystemExit(f"the training ended with code {second.returncode}")
    whole = time.perf_counter() - began
    made_again = check_order(list(_logged(log)), rehearsal, steps)
    print(
        f"  {steps} steps of {rehearsal.batch:,}, {made_again} of them made twice: every image once, in the order of "
        f"the epoch; {whole:.0f} s in all",
        flush=True,
    )
    return [
        record_of(rehearsal, f"{rehearsal.images:,} images, from the start to the first batch", started - began, 0.0),
        record_of(rehearsal, f"{rehearsal.images:,} images, from taking up to the next batch", again, 0.0),
        record_of(rehearsal, f"an epoch of {rehearsal.trained:,} images with its interruption", whole, 0.0),
    ]


def _training(rehearsal: Rehearsal, log: Path, run: Path) -> subprocess.Popen[bytes]:
    words = ["digits", "--data", rehearsal.spec, "--method", "ce", "--control", "off", "--student", "resnet8"]
    words += ["--image-size", "8", "--resident", "off", "--crop", "pad", "--loader", "torchvision", "--workers", "1"]
    words += ["--threads", "1", "--seeds", "1", "--epochs", "1", "--batch-size", str(rehearsal.batch)]
    words += ["--run", str(run), "--resume", "auto"]
    if rehearsal.trained < rehearsal.images:
        words += ["--limit-train", str(rehearsal.trained)]
    line = [sys.executable, "-m", "benchmarks.rehearsed", "train", str(log), str(rehearsal.trained), *words]
    with open(rehearsal.place / "said", "ab") as said:
        return subprocess.Popen(line, env=ENVIRONMENT, stdout=said, stderr=said)


def _wait_for_steps(process: subprocess.Popen[bytes], log: Path, rehearsal: Rehearsal, count: int) -> float:
    """When so many steps stood in the log."""
    while log.stat().st_size < count * 8 * (3 + rehearsal.batch):
        if process.poll() is not None:
            raise SystemExit((rehearsal.place / "said").read_text())
        time.sleep(0.05)
    return time.perf_counter()


def _tell_of_processes(number: int, words: str) -> None:
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    each = [
        f"{name} {memory(process)['Pss'] / 2**20:,.0f} MiB, {open_files(process)} open files"
        for name, process in (("the process", number), *(("a worker", child) for child in children))
    ]
    print(f"  {words}; {'; '.join(each)}", flush=True)


def _logged(log: Path) -> Iterator[Step]:
    """The steps that were made, in their order; one whose line a kill cut off was not."""
    numbers = np.fromfile(log, np.int64)
    while len(numbers) >= 3 and len(numbers) >= 3 + numbers[2]:
        count = int(numbers[2])
        yield Step(int(numbers[0]), int(numbers[1]), numbers[3 : 3 + count])
        numbers = numbers[3 + count :]


def check_order(made: Sequence[Step], rehearsal: Rehearsal, steps: int) -> int:
    """Each step has the images of the epoch's order, each image comes once; returns how many steps were made twice."""
    order = Order(rehearsal.trained, rehearsal.batch, seed=0)
    numbers = [step.step for step in made]
    assert sorted(set(numbers)) == list(range(steps)) and {step.epoch for step in made} == {0}
    backwards = [(left, right) for left, right in itertools.pairwise(numbers) if right != left + 1]
    assert len(backwards) <= 1 and all(right <= left for left, right in backwards), "it goes on once"
    expected = order.whole(0).numpy()
    assert all(np.array_equal(step.index, expected[step.step]) for step in made)
    seen = np.bincount(expected.reshape(-1), minlength=rehearsal.trained)
    assert seen.max() == 1 and seen.sum() == steps * rehearsal.batch
    return len(numbers) - steps


# --- what a store far away asks of those that read


def reading(rehearsal: Rehearsal, options: argparse.Namespace) -> list[Record]:
    """Images a second by workers, where each call waits."""
    delays = options.delays or ([0, 5] if options.quick else [0, 1, 5, 20])
    workers = (1, 2) if options.quick else WORKERS
    data = opened(rehearsal.spec)
    found = []
    print("  images a second   " + "".join(f"{count:>9}" for count in workers) + "  workers")
    for delay in delays:
        rates = []
        for count in workers:
            rate = _rate(data, count, delay / 1000, SECONDS_OF_A_RATE / (6 if options.quick else 1))
            rates.append(rate)
            case = f"an image where a call takes {delay:g} ms, {count} worker{'s' * (count > 1)}"
            found.append(record_of(rehearsal, case, 1 / rate, 0.0))
        print(f"  {delay:>6g} ms a call    " + "".join(f"{rate:9,.0f}" for rate in rates), flush=True)
    return found


def _rate(data, workers: int, delay: float, seconds: float) -> float:
    """Images a second, after the first batch of each worker."""
    how = {"batch_size": 64, "augmentation": Augmentation(crop="pad", crop_padding=1), "seed": 0}
    feeding = Feeding(image_size=8, workers=workers)
    with delayed(delay):
        batches = training_source(data, feeding, **how).loader.epoch(0)
        for _ in range(workers):
            next(batches)
        started, images = time.perf_counter(), 0
        for batch in batches:
            images += len(batch.index)
            if (taken := time.perf_counter() - started) > seconds:
                break
    return images / taken


PARTS = {"opening": opening, "epoch": epoch, "reading": reading}

if __name__ == "__main__":
    main()

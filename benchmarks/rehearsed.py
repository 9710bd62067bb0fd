"""The processes of a rehearsal, which measure themselves: python -m benchmarks.rehearsed open|train …, see `rehearsal`.

open SPEC FOLDER            opens a data set as a rank of a run, and writes FOLDER/RANK.json
train LOG IMAGES OPTION …   trains on so many images as `fastkd.train` does; each step's row numbers are written
    behind LOG, a step that is made again once more
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastkd.train
from fastkd.data import Batch, DataSet, RawBatch, Reading, fingerprint, open_dataset, paths, tar
from fastkd.data.augment import StreamedImages
from fastkd.data.shards import Shards
from fastkd.support import distributed
from fastkd.support.joining import processes
from fastkd.training import saving_times

KEPT_EVERY_S = 15.0
"""Seconds between checkpoints: an epoch of a rehearsal is over before the usual ten minutes."""


def opened(spec: str) -> DataSet:
    return open_dataset(spec, image_size=8, resident=False, limit_train=None, threads=1, reading=Reading(workers=2))


def memory(process: int | str = "self") -> dict[str, int]:
    """{Rss, Pss: bytes} of a process; pages that several share count in Pss by their parts."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return {name: found[name] for name in ("Rss", "Pss")}


def open_files(process: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


@contextmanager
def counted(calls: list[int]) -> Iterator[None]:
    """Counts the images whose heads are looked at."""
    before = {module: module.__dict__[name] for module, name in ((paths, "probe"), (tar, "probe_bytes"))}

    def counting(probe: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any) -> Any:
            calls[0] += 1
            return probe(*arguments)

        return count

    paths.probe, tar.probe_bytes = counting(before[paths]), counting(before[tar])
    try:
        yield
    finally:
        paths.probe, tar.probe_bytes = before[paths], before[tar]


@contextmanager
def delayed(seconds: float) -> Iterator[None]:
    """Every call for an image's bytes waits first, as on a store far away: two for a file (to open and to read it), one
    for a member of a shard."""
    read_whole, read = paths.read_whole, Shards.read

    def late_file(path: str) -> np.ndarray:
        time.sleep(2 * seconds)
        return read_whole(path)

    def late_part(self: Shards, number: int, count: int, offset: int) -> bytes:
        time.sleep(seconds)
        return read(self, number, count, offset)

    if seconds:
        paths.read_whole, Shards.read = late_file, late_part
    try:
        yield
    finally:
        paths.read_whole, Shards.read = read_whole, read


def open_as_a_rank(spec: str, folder: Path) -> None:
    with processes(torch.device("cpu")):
        before = memory()
        distributed.wait_for_all()
        looked, started, cpu = [0], time.perf_counter(), time.process_time()
        with counted(looked):
            data = opened(spec)
        found = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu, "looked": looked[0]}
        fingerprint(data)  # reads all that was found: pages that nobody has touched would not count
        distributed.wait_for_all()
        after = memory()
        found |= {name: after[name] - before[name] for name in after} | {"files": open_files()}
        found |= {"images": len(data.train), "tested": len(data.test)}
        (folder / f"{distributed.rank()}.json").write_text(json.dumps(found))
        distributed.wait_for_all()  # what the processes share counts as long as all of them are there


def train_and_log(log: Path, images: int, words: list[str]) -> None:
    forward = StreamedImages.forward
    with open(log, "ab", buffering=0) as file:

        def logging(self: StreamedImages, raw: RawBatch, step: Tensor, epoch: Tensor) -> Batch:
            if len(self.labels) == images:  # else it prepares those that are tested on
                line = np.concatenate([[int(epoch), int(step), len(raw.index)], raw.index.numpy()])
                file.write(line.astype(np.int64).tobytes())
            return forward(self, raw, step, epoch)

        StreamedImages.forward = logging
        saving_times.CHECKPOINT_SECONDS = KEPT_EVERY_S
        fastkd.train.main(words)


def main() -> None:
    what, *words = sys.argv[1:]
    if what == "open":
        open_as_a_rank(words[0], Path(words[1]))
    else:
        train_and_log(Path(words[0]), int(words[1]), words[2:])


if __name__ == "__main__":
    main()

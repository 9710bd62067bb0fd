"""What a checkpoint costs the steps of a training: python -m benchmarks.checkpoints

A turn is a number of steps of a student (batch 64, CRD against a bank of so many rows), with a checkpoint in front of
the first: `none` has none, `once` writes it at once, `aside` by a thread. Of several processes (`--processes`, gloo)
one writes all where they are `whole`, each its rows of the bank where they are `shared`. Before anything is timed the
checkpoints are read and compared. No step is taken while it is `stopped`; what a turn takes longer than `none` is
`lost`, the thread's share of the cores with it. Processor seconds are those of the first process.
"""

import argparse
import dataclasses
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks.timing import Record, commit, device_name, record_file, versions, write_json
from benchmarks.training_step import random_images
from fastkd import networks
from fastkd.data import Augmentation, Batch, Feeding, evaluation_source, training_source
from fastkd.losses import CRDLoss
from fastkd.support.display import Display
from fastkd.support.distributed import from_all, is_main, rank, wait_for_all, world_size
from fastkd.support.log import MetricsLog
from fastkd.support.session import Session
from fastkd.training.checkpoint import read_checkpoint
from fastkd.training.execution import EVERYTHING_OFF, Resolved
from fastkd.training.optimisation import Training
from fastkd.training.replays import STEPS
from fastkd.training.saving import Standing
from fastkd.training.stages import Stage, StageLoss
from fastkd.training.trainer import Trainer

BATCH = 64
IMAGENET = 1_281_167
"""Images of ImageNet's training set."""


class Case(NamedTuple):
    network: str
    rows: int
    """Rows of the bank, of two embeddings of 128 numbers each."""

    def __str__(self) -> str:
        return f"{self.network}, a bank of {self.rows:,} rows"


class Turn(NamedTuple):
    """What the steps of a turn took."""

    seconds: float
    stopped: float
    """Until the first step could begin."""
    longest: float
    cpu: float
    behind: float
    """Seconds that were waited for the file behind the last step; 0: it was written while the steps went on."""


class Contrasting(Stage):
    evaluates = False

    def __init__(self, case: Case):
        super().__init__()
        torch.manual_seed(0)
        self.network = networks.build(case.network, num_classes=100)
        width = self.network(torch.zeros(1, 3, 32, 32)).embedding.shape[1]
        self.loss = CRDLoss(width, width, case.rows, labels=torch.arange(case.rows) % 100, negatives=256)

    def forward(self, batch: Batch) -> StageLoss:
        assert isinstance(batch.images, Tensor)
        embedding = self.network(batch.images[0]).embedding
        total = self.loss(embedding, embedding.detach().flip(1), batch.index).total
        return StageLoss(total, {"crd": total.detach()}, torch.zeros(2, dtype=torch.int64))


def contenders() -> dict[str, Resolved | None]:
    """{name: how checkpoints are written}; None: there are none."""
    once, aside = EVERYTHING_OFF, EVERYTHING_OFF._replace(write_aside=True)
    if world_size() == 1:
        return {"none": None, "once": once, "aside": aside}
    shared = {
        f"{name} shared": how._replace(shard_checkpoints=True) for name, how in (("once", once), ("aside", aside))
    }
    return {"none": None, "once whole": once, "aside whole": aside, **shared}


def trainer_of(case: Case, folder: Path, steps: int) -> Trainer:
    data = random_images(steps * BATCH, 32, 100)
    feeding = Feeding(image_size=32, rank=rank(), world_size=world_size())
    train = training_source(data, feeding, batch_size=BATCH, augmentation=Augmentation(), seed=0)
    return Trainer(
        "student",
        Contrasting(case),
        Training(epochs=1000, batch_size=BATCH, lr=0.01),
        train,
        evaluation_source(data, feeding, batch_size=BATCH),
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        session=Session(Display(terminal=False)),
        checkpoint=folder / "student.pt",
        log=MetricsLog(folder / "metrics.jsonl"),
    )


def turn(trainer: Trainer, how: Resolved | None) -> Turn:
    wait_for_all()
    times, before, began = [], _cpu(), time.perf_counter()
    last = began
    save(trainer, how)
    stopped = time.perf_counter() - began
    for step, _ in enumerate(trainer.step.epoch_of(trainer.train_source.loader, 0)):
        if step % STEPS == 0 or world_size() == 1:
            trainer.saving.look()
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        times.append(now - last)
        last = now
    cpu = _cpu() - before
    trainer.saving.settle()
    trainer.step.done.zero_()
    return Turn(last - began, stopped, max(times), cpu, time.perf_counter() - last)


def save(trainer: Trainer, how: Resolved | None) -> None:
    if how is not None:
        trainer.step.execution = how
        trainer.saving.save(Standing(trainer.progress, None, 0.0), aside=True)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def check(trainer: Trainer) -> None:
    """Every contender's checkpoint holds what the training does."""
    for how in contenders().values():
        save(trainer, how)
        trainer.saving.settle()
        wait_for_all()
        if how is not None and is_main():
            found = read_checkpoint(trainer.checkpoint, "student")["model"]
            for name, value in trainer.stage.state_dict().items():
                assert torch.equal(found[name], value.cpu()), name
        wait_for_all()


def measure(case: Case, folder: Path, steps: int, rounds: int) -> list[Record]:
    trainer = trainer_of(case, folder, steps)
    trainer.stage.train()
    turn(trainer, None)
    check(trainer)
    taken: dict[str, list[Turn]] = {name: [] for name in contenders()}
    for _ in range(rounds):
        for name, how in contenders().items():
            taken[name].append(turn(trainer, how))
    if not is_main():
        return []
    sizes = [path.stat().st_size for path in sorted(folder.glob("student.pt*"))]
    where = f"{device_name(trainer.device.type)}, {world_size()} processes"
    print(f"{case}, {steps} steps, on {where}; files of {', '.join(f'{size / 2**20:,.1f} MiB' for size in sizes)}")
    return [record for name, turns in taken.items() for record in _records(case, where, name, turns, taken["none"])]


def _records(case: Case, where: str, name: str, turns: Sequence[Turn], none: Sequence[Turn]) -> list[Record]:
    lost, cpu = (_paired(turns, none, which) for which in ("seconds", "cpu"))
    stopped, longest, behind = ([getattr(turn, which) for turn in turns] for which in ("stopped", "longest", "behind"))
    print(
        f"  {name:12} {statistics.median(turn.seconds for turn in turns):8.3f} s a turn, stopped {_words(stopped)} s,"
        f" lost {_words(lost)} s, longest step {_words(longest)} s, cpu {statistics.median(cpu):+.3f} s,"
        f" waited behind the turn {statistics.median(behind):.3f} s",
        flush=True,
    )
    at, made_of = (str(case), where), (versions(), commit())
    return [
        Record("checkpoints", f"{name} {what}", *at, *_quantiles(values), statistics.median(cpu), None, True, *made_of)
        for what, values in (("stopped", stopped), ("lost", lost), ("longest step", longest))
    ]


def _paired(turns: Sequence[Turn], none: Sequence[Turn], which: str) -> list[float]:
    """What each turn took longer than the one without a checkpoint of the same round."""
    return [getattr(one, which) - getattr(other, which) for one, other in zip(turns, none, strict=True)]


def _quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return statistics.median(values), fifths[0], fifths[3]


def _words(values: Sequence[float]) -> str:
    median, low, high = _quantiles(values)
    return f"{median:.3f} ({low:.3f} to {high:.3f})"


def _in_group(number: int, processes: int, folder: str, work: partial) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=processes)
    torch.set_num_threads(1)
    records = work()
    if number == 0:
        Path(folder, "records.json").write_text(json.dumps([dataclasses.asdict(record) for record in records]))
    from_all(None)
    dist.destroy_process_group()


def measured(case: Case, steps: int, rounds: int, processes: int) -> list[Record]:
    with tempfile.TemporaryDirectory() as name:
        work = partial(measure, case, Path(name), steps, rounds)
        if processes == 1:
            return work()
        mp.spawn(  # pyright: ignore[reportPrivateImportUsage]
            _in_group, (processes, name, work), nprocs=processes
        )
        return [Record(**record) for record in json.loads(Path(name, "records.json").read_text())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small bank, fewer rounds")
    parser.add_argument("--rows", type=int, nargs="*", help="rows of the banks")
    parser.add_argument("--steps", type=int, default=100, help="steps of a turn: in fewer a large file is not written")
    parser.add_argument("--rounds", type=int, help="turns of each contender")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=record_file, help="write the records to this file")
    options = parser.parse_args()
    records: list[Record] = []
    for rows in options.rows or ((10_000,) if options.quick else (10_000, IMAGENET)):
        rounds = options.rounds or (3 if options.quick else 7)
        records += measured(Case("resnet8", rows), options.steps, rounds, options.processes)
        if options.json:
            write_json(records, options.json)


if __name__ == "__main__":
    main()

"""Two processes that contrast ten images with a memory bank, and share out what they write of it."""

import shutil
from pathlib import Path

import torch

from fastkd import networks
from fastkd.losses import CRDLoss
from fastkd.support import states
from fastkd.support.distributed import is_main, rank, wait_for_all
from fastkd.support.errors import UserError
from fastkd.training import checkpoint_shares, writer
from fastkd.training.execution import EVERYTHING_OFF
from fastkd.training.saving import Standing
from fastkd.training.stages import Stage, StageLoss
from fastkd.training.trainer import Trainer
from helpers.trainers import SAMPLES, trainer_in

LEAST_BYTES = 600
"""Some tensors of this tiny stage are larger, the bank among them, and most are not."""


class Contrasted(Stage):
    evaluates = False

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = networks.build("resnet8", num_classes=3)
        self.loss = CRDLoss(64, 64, SAMPLES, labels=torch.arange(SAMPLES) % 3, embed_dim=8, negatives=4)

    def forward(self, batch):
        embedding = self.network(batch.images[0]).embedding
        total = self.loss(embedding, embedding.detach().flip(1), batch.index).total
        return StageLoss(total, {"crd": total.detach()}, torch.zeros(2, dtype=torch.int64))


def trainer_of(folder: Path, *, aside: bool = True, shared: bool = True) -> Trainer:
    execution = EVERYTHING_OFF._replace(write_aside=aside, shard_checkpoints=shared)
    return trainer_in(folder, Contrasted(), training={"epochs": 3, "ema": 0.5}, execution=execution)


def train(number: int, folder: str) -> None:
    """The same instant as one file and as shares, at once and aside; what was trained on; what went wrong."""
    checkpoint_shares.LEAST_BYTES, here, found = LEAST_BYTES, Path(folder), {}
    trainer = trainer_of(here / "run")
    trainer.epoch()
    standing = Standing(trainer.progress, trainer.records.logged, 1.5)
    for name, execution in {
        "whole": EVERYTHING_OFF,
        "once": EVERYTHING_OFF._replace(shard_checkpoints=True),
        "aside": trainer.step.execution,
    }.items():
        trainer.step.execution = execution
        trainer.saving.save(standing, aside=True)
        trainer.saving.settle()
        keep(here, name)
    trainer.save()
    trainer.epoch()
    trainer.saving.writer.wait_alone()
    wait_for_all()
    keep(here, "between")  # the shares are there, the checkpoint that counts them is not
    trainer.saving.look()
    trainer.saving.settle()
    keep(here, "after")
    found["trained"] = trainer.stage.state_dict()
    again = trainer_of(here / "run")
    again.load()
    again.epoch()
    found["again"] = again.stage.state_dict()
    found["words"] = failed(again)
    keep(here, "failed")
    torch.save(found, here / f"found-{number}.pt")


def failed(trainer: Trainer) -> str:
    """What is raised where the second process finds its disk full."""
    plain = writer.write_state

    def full(path, state, look):
        if rank() == 1:
            raise UserError(f"cannot write {path}: the disk is full")
        return plain(path, state, look)

    writer.write_state = full
    try:
        trainer.save()
        trainer.saving.settle()
    except UserError as error:
        return str(error)
    finally:
        writer.write_state = plain
    return ""


def keep(folder: Path, name: str) -> None:
    """Copies what a process that is killed in this instant leaves."""
    wait_for_all()
    if is_main():
        shutil.copytree(folder / "run", folder / name)
    wait_for_all()


def write_until_killed(number: int, folder: str) -> None:
    """One checkpoint after the other, whose large tensors all hold the checkpoint's number; in small, slow pieces."""
    checkpoint_shares.LEAST_BYTES, states._CHUNK = LEAST_BYTES, 200
    trainer = trainer_of(Path(folder))
    trainer.load()
    while True:
        trainer.progress.seconds += 1.0
        with torch.no_grad():
            trainer.stage.loss.bank.fill_(trainer.progress.seconds)
            for parameter in trainer.stage.parameters():
                parameter.fill_(trainer.progress.seconds)
        trainer.saving.save(Standing(trainer.progress, None, 0.0), aside=True)

"""A trainer of ten made images, and what it leaves in a folder."""

import pytest
import torch

from fastkd import networks
from fastkd.data import Augmentation, DataSet, Split
from fastkd.support.distributed import rank, world_size
from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.support.log import MetricsLog, read_metrics
from fastkd.support.session import Session
from fastkd.support.states import write_state
from fastkd.training.optimisation import Training
from fastkd.training.stages import Supervised
from fastkd.training.trainer import Trainer
from helpers.feeding import evaluation_of, training_of
from helpers.interrupts import AfterSteps
from helpers.tiny import CPU, TIMES, Quiet

SAMPLES, BATCH = 10, 4  # three steps an epoch, the last of two images
STEPS = 3


def made_data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (SAMPLES, 8, 8, 3), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(SAMPLES) % 3)
    return DataSet(name="made", train=split, test=split, classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.25,) * 3)


def supervised(network="resnet8"):
    torch.manual_seed(0)
    return Supervised(networks.build(network, num_classes=3), "student")


def trainer_in(folder, stage=None, *, name="student", display=None, interrupt=None, training=None, **options):
    data = made_data()
    settings = Training(**({"epochs": 2, "batch_size": BATCH, "lr": 0.01, "drop_last": False} | (training or {})))
    train = training_of(
        data,
        image_size=8,
        batch_size=BATCH,
        augmentation=Augmentation(crop_padding=1),
        seed=0,
        drop_last=False,
        rank=rank(),
        world_size=world_size(),
    )
    return Trainer(
        name,
        stage or supervised(),
        settings,
        train,
        evaluation_of(data, image_size=8, batch_size=BATCH),
        device=CPU,
        session=Session(display or Quiet(), interrupt or Interrupt()),
        checkpoint=folder / f"{name}.pt",
        log=MetricsLog(folder / "metrics.jsonl"),
        **options,
    )


def stopped_after(count, folder, **options):
    """The checkpoint of a training that was asked to stop while it took its `count`-th step."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped, match="stopped by SIGINT in student"):
        trainer_in(folder, interrupt=AfterSteps(patch, count), **options).fit()
    return folder / "student.pt"


def edit(checkpoint, **changes):
    write_state(checkpoint, torch.load(checkpoint, weights_only=True) | changes)


def logged(folder):
    """Everything but times."""
    records = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]

"""The optimiser of a stage and its learning rate, which is a table over the steps."""

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.optim.swa_utils
from torch import Tensor

from fastkd.networks.base import Network
from fastkd.support.errors import UserError
from fastkd.training.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Training:
    """How one stage is optimised. Learning rate and batch size are those of the whole batch, over all processes."""

    epochs: int
    """Epochs of every stage; milestones move in proportion."""
    batch_size: int = 64
    """Images of a batch, over all processes."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.05
    """Learning rate of every stage, for the whole batch."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: float = 5e-4
    """Weight decay; it applies to every parameter, as in the papers' code."""
    schedule: Literal["multistep", "cosine", "constant"] = "multistep"
    """How the learning rate changes."""
    milestones: tuple[int, ...] = ()
    """Epochs, counted from 0, from which on the learning rate is multiplied by --factor once more."""
    factor: float = 0.1
    """What the learning rate is multiplied by at each milestone."""
    warmup_epochs: int = 0
    """Epochs of a linear rise of the learning rate."""
    warmup_by: Literal["epoch", "iteration"] = "iteration"
    """Whether the rise has a level for each epoch, or for each step."""
    drop_last: bool = True
    """Leave out the last, shorter batch of an epoch; the papers' code trains on it."""
    accumulate: int = 1
    """Take each batch in so many parts, to save memory; BatchNorm sees the parts one by one."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, evaluated and saved beside them; 0 is none."""
    sync_batchnorm: bool = False
    """BatchNorm's statistics are those of all processes (GPUs only)."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UserError(f"epochs is at least 1, got {self.epochs}")
        if not self.lr > 0:
            raise UserError(f"the learning rate is above 0, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise UserError(f"the momentum is 0 to 1, got {self.momentum}")
        if not self.weight_decay >= 0:
            raise UserError(f"the weight decay is at least 0, got {self.weight_decay}")
        if not self.factor > 0:
            raise UserError(f"the factor of the learning rate is above 0, got {self.factor}")
        if self.batch_size < 1:
            raise UserError(f"the batch size is at least 1, got {self.batch_size}")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise UserError(f"warm-up takes 0 to {self.epochs} epochs, got {self.warmup_epochs}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise UserError(f"milestones rise, got {list(self.milestones)}")
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise UserError(f"a batch of {self.batch_size} images does not divide into {self.accumulate} parts")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"the gradient is clipped to a norm above 0, got {self.clip_norm}")
        if not 0 <= self.ema < 1:
            raise UserError(f"the decay of the averaged weights is 0 to 1, got {self.ema}")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise UserError("Nesterov momentum belongs to SGD with a momentum above 0")


def learning_rates(training: Training, steps_per_epoch: int) -> Tensor:
    """[epochs * steps_per_epoch] float32: the learning rate of each step."""
    steps = torch.arange(training.epochs * steps_per_epoch, dtype=torch.float64)
    epochs = steps // steps_per_epoch
    warmup = training.warmup_epochs * steps_per_epoch
    if training.schedule == "multistep":
        passed = sum(((epochs >= milestone).to(torch.int64) for milestone in training.milestones), torch.tensor(0))
        level = training.factor**passed
    elif training.schedule == "cosine":
        done = (steps - warmup).clamp(min=0) / max(len(steps) - warmup, 1)
        level = (1 + torch.cos(math.pi * done)) / 2
    else:
        level = torch.ones_like(steps)
    if training.warmup_by == "iteration":
        rise = (steps + 1) / max(warmup, 1)
    else:
        rise = (epochs + 1) / (training.warmup_epochs + 1)
    return (training.lr * torch.where(steps < warmup, rise, level)).float().expand(len(steps)).contiguous()


def build_optimizer(stage: Stage, training: Training, device: torch.device) -> torch.optim.Optimizer:
    """SGD or Adam, fused, whose learning rates are tensors: they change without anything waiting for the device."""
    groups = [
        {"params": group["params"], "lr": torch.tensor(training.lr, device=device), "lr_factor": group["lr_factor"]}
        for group in stage.parameter_groups()
    ]
    if training.optimizer == "adam":
        return torch.optim.Adam(groups, weight_decay=training.weight_decay, fused=True)
    optimizer = torch.optim.SGD(
        groups,
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
        fused=True,
    )
    if training.momentum:
        # The first step's momentum is a Python branch inside the optimiser; from zero it comes to the same.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: Tensor) -> None:
    for group in optimizer.param_groups:
        group["lr"].copy_(rate * group["lr_factor"])


def clip_gradients(optimizer: torch.optim.Optimizer, norm: float) -> None:
    """Scales the gradients in place to that norm at most, without anything waiting for the device."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, norm, foreach=True)


def gradients_are_finite(optimizer: torch.optim.Optimizer) -> Tensor:
    """A boolean scalar on the device: a finite loss can have gradients that are not."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norms: list[Tensor] = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage, reportAssignmentType]
    return torch.stack([norm.to(torch.float32) for norm in norms]).isfinite().all()


class WeightAverage:
    """An exponential moving average of a network's weights: a copy of the network, in eval mode."""

    def __init__(self, network: Network, decay: float):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        # `swa_utils.AveragedModel` reads its step count on the host; its multi-tensor update does not.
        self.average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, network: Network) -> None:
        averaged: Any = list(self.network.parameters())
        live: Any = [parameter.detach() for parameter in network.parameters()]
        self.average(averaged, live, 0)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Restores momentum and the like; keeps this optimiser's own learning-rate tensors."""
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate

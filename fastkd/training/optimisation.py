"""The optimiser of a stage and its learning rate, which is a table over the steps."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.optim.swa_utils
from torch import Tensor

from fastkd.networks.base import Network
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWith, rare
from fastkd.support.plain import Checked
from fastkd.support.ranges import Decay, Epochs, EpochsOrNone, Images, NotNegative, Positive
from fastkd.support.words import counted
from fastkd.training.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Training(Checked):
    """How one stage is optimised. Learning rate and batch size are those of the whole batch, over all processes."""

    epochs: Epochs
    """Epochs of every stage; milestones move in proportion."""
    batch_size: Images = 64
    """Images of a batch, over all processes."""
    optimizer: Literal["sgd", "adam", "adamw", "lamb", "lars"] = "sgd"
    """AdamW's weight decay is decoupled. LAMB and LARS are timm's (pip install timm); their steps are not captured."""
    lr: Positive = 0.05
    """Learning rate of every stage, for the whole batch."""
    scale_lr_from: Images | None = rare(None)
    """The batch size that the learning rate is meant for: it grows in proportion to --batch-size (linear scaling)."""
    momentum: Annotated[Decay, OnlyWith("optimizer", ("sgd", "lars"))] = 0.9
    """Momentum of SGD and of LARS."""
    nesterov: bool = False
    """Nesterov's momentum."""
    weight_decay: NotNegative = 5e-4
    """Weight decay; it applies to every parameter, as in the papers' code."""
    schedule: Literal["multistep", "cosine", "cosine_by_epoch", "constant"] = "multistep"
    """How the learning rate changes; a cosine falls with each step, or has a level for each epoch."""
    milestones: Annotated[tuple[EpochsOrNone, ...], OnlyWith("schedule", "multistep")] = ()
    """Epochs, counted from 0, from which on the learning rate is multiplied by --factor once more."""
    factor: Annotated[Positive, OnlyWith("schedule", "multistep"), OnlyWith("milestones")] = 0.1
    """What the learning rate is multiplied by at each milestone."""
    warmup_epochs: EpochsOrNone = 0
    """Epochs of a linear rise of the learning rate."""
    warmup_by: Annotated[Literal["epoch", "iteration"], OnlyWith("warmup_epochs")] = rare("iteration")
    """Whether the rise has a level for each epoch, or for each step."""
    freeze_epochs: EpochsOrNone = rare(0)
    """First epochs of a training that begins with weights in which its body is held and the classifier learns;
    BatchNorm's statistics follow the images all the same."""
    body_lr_factor: Positive = rare(1.0)
    """What the learning rate is multiplied by for all but the classifier of a network that begins with weights."""
    drop_last: bool = rare(True)
    """Leave out the last, shorter batch of an epoch; the papers' code trains on it."""
    accumulate: Images = 1
    """Take each batch in so many parts, to save memory; BatchNorm sees the parts one by one."""
    shards: Images | None = rare(None)
    """Take each batch in so many shards, one after the other in each process, and add them up in one order: any number
    of processes that divides it gives the same bytes (default: one a process)."""
    clip_norm: Positive | None = None
    """Largest norm of the whole gradient."""
    ema: Decay = 0.0
    """Decay of an exponential moving average of the weights, evaluated and saved beside them; 0 is none."""
    sync_batchnorm: bool = rare(False)
    """BatchNorm's statistics are those of all processes: two short messages a layer and step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise UserError(f"warm-up takes 0 to {counted(self.epochs, 'epoch')}, got {self.warmup_epochs}")
        if self.freeze_epochs > self.epochs:
            raise UserError(f"--freeze-epochs is at most the {counted(self.epochs, 'epoch')}, got {self.freeze_epochs}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise UserError(f"milestones rise, got {list(self.milestones)}")
        if self.batch_size % self.accumulate:
            raise UserError(
                f"a batch of {counted(self.batch_size, 'image')} does not divide into {self.accumulate} parts"
            )
        if self.shards is not None:
            self._check_shards(self.shards)
        if self.nesterov and (self.optimizer not in ("sgd", "lars") or self.momentum == 0):
            raise UserError("Nesterov momentum belongs to SGD or LARS with a momentum above 0")
        self._check_last_rate()

    @property
    def rate(self) -> float:
        """The learning rate of the whole batch: `lr`, or the linear scaling of it (Goyal et al. 2017, section 2.1)."""
        return self.lr if self.scale_lr_from is None else self.lr * self.batch_size / self.scale_lr_from

    def images_at_once(self, processes: int) -> int:
        """The images of one forward pass of one of so many processes, in a whole batch; others may have one more."""
        return self.batch_size // (self.shards or processes) // self.accumulate

    def _check_shards(self, shards: int) -> None:
        if shards > self.batch_size:
            raise UserError(f"a batch of {counted(self.batch_size, 'image')} does not divide into {shards} shards")
        if self.accumulate > 1:
            raise UserError("--shards takes each batch in parts, as --accumulate does: give one of the two")
        if self.sync_batchnorm:
            raise UserError("--shards: each has BatchNorm statistics of its own, --sync-batchnorm has those of all")

    def _check_last_rate(self) -> None:
        passed = len(self.milestones) if self.schedule == "multistep" else 0
        last = math.log10(self.rate) + passed * math.log10(self.factor)
        if passed and not -37 <= last <= 38:
            rate = f"about 1e{last:+.0f} after {passed} milestones"
            raise UserError(
                f"the learning rate is {rate}, which float32 does not hold: change --factor or --milestones"
            )
        if self.scale_lr_from is not None and not -37 <= last <= 38:
            raise UserError(f"--scale-lr-from makes the learning rate about 1e{last:+.0f}, which float32 does not hold")


OF_BEGINNING = ("freeze_epochs", "body_lr_factor")
"""The settings of a training that begins with weights."""


def learning_rates(training: Training, steps_per_epoch: int) -> Tensor:
    """[epochs * steps_per_epoch] float32: the learning rate of each step."""
    steps = torch.arange(training.epochs * steps_per_epoch, dtype=torch.float64)
    epochs = steps // steps_per_epoch
    warmup = training.warmup_epochs * steps_per_epoch
    if training.schedule == "multistep":
        passed = sum(((epochs >= milestone).to(torch.int64) for milestone in training.milestones), torch.tensor(0))
        level = training.factor**passed
    elif training.schedule == "cosine_by_epoch":
        done = (epochs - training.warmup_epochs).clamp(min=0) / max(training.epochs - training.warmup_epochs, 1)
        level = (1 + torch.cos(math.pi * done)) / 2
    elif training.schedule == "cosine":
        done = (steps - warmup).clamp(min=0) / max(len(steps) - warmup, 1)
        level = (1 + torch.cos(math.pi * done)) / 2
    else:
        level = torch.ones_like(steps)
    if training.warmup_by == "iteration":
        rise = (steps + 1) / max(warmup, 1)
    else:
        rise = (epochs + 1) / (training.warmup_epochs + 1)
    return (training.rate * torch.where(steps < warmup, rise, level)).float().expand(len(steps)).contiguous()


def build_optimizer(stage: Stage, training: Training, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of a stage, whose learning rates are tensors: they change without anything waiting for the device.

    SGD, Adam and AdamW are PyTorch's fused ones; LAMB and LARS are timm's. Raises UserError where timm is missing.
    """
    groups = [group | {"lr": torch.tensor(training.rate, device=device)} for group in _groups(stage, training)]
    if training.optimizer in ("adam", "adamw"):
        kind = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, weight_decay=training.weight_decay, fused=True)
    if training.optimizer in ("lamb", "lars"):
        return _layerwise(groups, training)
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


def _groups(stage: Stage, training: Training) -> Iterator[dict]:
    """The stage's groups of parameters; the body of its network is in groups of its own, where it learns otherwise.

    frozen: the share of the training in which the group's learning rate is 0.
    """
    body: set[int] = set()
    if training.freeze_epochs or training.body_lr_factor != 1:
        head = {id(parameter) for layer in stage.network.last_layers() for parameter in layer.parameters()}
        body = {id(parameter) for parameter in stage.network.parameters()} - head
    for group in stage.parameter_groups():
        factor = group["lr_factor"]
        for held in (False, True):
            parameters = [one for one in group["params"] if (id(one) in body) is held]
            if parameters and held:
                frozen = training.freeze_epochs / training.epochs
                yield {"params": parameters, "lr_factor": factor * training.body_lr_factor, "frozen": frozen}
            elif parameters or not held:
                yield {"params": parameters, "lr_factor": factor, "frozen": 0.0}


def _layerwise(groups: list[dict], training: Training) -> torch.optim.Optimizer:
    """LAMB or LARS, whose steps are scaled by each layer's ratio of weights to gradients."""
    try:
        from timm.optim.lamb import Lamb  # pyright: ignore[reportMissingImports]
        from timm.optim.lars import Lars  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"--optimizer {training.optimizer} is timm's, which is not installed: pip install timm"
        ) from error
    how: dict[str, Any] = {"weight_decay": training.weight_decay}  # whose type timm has from its default, 0
    if training.optimizer == "lamb":
        return Lamb(groups, **how)
    return Lars(groups, **how | {"momentum": training.momentum, "nesterov": training.nesterov})


def follows_the_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step reads nothing on the host and skips itself where `found_inf` is 1, as a fused optimiser's."""
    return all(group.get("fused", False) for group in optimizer.param_groups)


class RateTable:
    """The learning rates of every step and parameter group, on the device; the optimiser reads those of one step."""

    def __init__(self, optimizer: torch.optim.Optimizer, rates: Tensor):
        """rates: [steps] float32, before the groups' factors. The groups' own rates become views of one tensor."""
        groups = optimizer.param_groups
        self.table = torch.stack([_of_group(rates, group) for group in groups], dim=1)
        """[steps,groups]"""
        self.current = torch.stack([group["lr"] for group in groups]).unsqueeze(0)
        """[1,groups]: what the optimiser reads."""
        for group, rate in zip(groups, self.current[0], strict=True):
            group["lr"] = rate

    def set(self, step: Tensor) -> None:
        """Sets the rates of a step, [] int64 on the device, in place; behind the table's end the last ones stay."""
        # Indexed by a tensor the table would be read on the host. Warming up may go beyond its end, training does not.
        place = step.clamp(max=len(self.table) - 1).view(1)
        torch.index_select(self.table, 0, place, out=self.current)


def _of_group(rates: Tensor, group: dict) -> Tensor:
    """[steps]: the learning rates of a group of parameters."""
    own = rates * group["lr_factor"]
    own[: round(group.get("frozen", 0.0) * len(rates))] = 0.0
    return own


def gradients_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def norms_of(gradients: list[Tensor]) -> list[Tensor]:
    """The norm of each gradient, a float32 scalar."""
    norms: list[Tensor] = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage, reportAssignmentType]
    return [norm.to(torch.float32) for norm in norms]


def not_finite(numbers: Tensor) -> Tensor:
    """A float32 scalar: 1 where one of the numbers is not finite, else 0, as optimisers take it for `found_inf`."""
    finite = torch.linalg.vector_norm(numbers, math.inf) < math.inf  # false where one is NaN, as their maximum is then
    return torch.logical_not(finite, out=torch.empty((), device=numbers.device))


def clip_gradients(optimizer: torch.optim.Optimizer, norm: Tensor, greatest: float) -> None:
    """Scales the gradients in place to that norm at most, without anything waiting for the device.

    norm: [] float32, that of all of them together.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grads_with_norm_(parameters, greatest, norm, foreach=True)


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
        pairs = [*zip(self.network.buffers(), network.buffers(), strict=True)]
        for dtype in {mine.dtype for mine, _ in pairs}:
            mine, theirs = zip(*(pair for pair in pairs if pair[0].dtype == dtype), strict=True)
            torch._foreach_copy_(mine, theirs)  # pyright: ignore[reportPrivateImportUsage]


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Restores momentum and the like; keeps this optimiser's own learning-rate tensors."""
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate

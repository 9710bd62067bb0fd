"""Checkpoints of a stage: what they are made of, and what makes one unfit for the training that is to go on."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastkd.support.errors import UserError
from fastkd.support.plain import is_plain
from fastkd.support.schemas import Checkpoint, checked
from fastkd.support.states import read_state
from fastkd.support.words import counted
from fastkd.training.checkpoint_shares import read_shares
from fastkd.training.optimisation import load_optimizer_state

FORMAT = 2
_WITHOUT_DIGEST = 1  # what fastkd 0.1 wrote


def read_checkpoint(path: Path, stage: str) -> dict[str, Any]:
    """A checkpoint of the stage of that name; raises UserError for one that is damaged, or lacks what ours have."""
    state, with_digest = read_state(path)
    found = state.get("format", "none")
    if found not in (_WITHOUT_DIGEST, FORMAT):
        raise UserError(f"{path} has format {found}, this fastkd reads {_WITHOUT_DIGEST} and {FORMAT}")
    if not with_digest and found != _WITHOUT_DIGEST:
        raise UserError(f"{path} is damaged: the digest at its end is gone")
    checked(Checkpoint, state, str(path))
    if state["stage"] != stage:
        raise UserError(f"{path} is of the stage {state['stage']!r}, expected {stage!r}")
    if not is_plain(state["identity"]):
        raise UserError(f"{path} says in no plain words what it was made with")
    if not state["rngs"] or len(state["meters"]) != len(state["rngs"]):
        raise UserError(f"{path} has {len(state['rngs'])} random states and {len(state['meters'])} meters")
    read_shares(state, path)
    return state


def load_module(module: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Fills a stage, or its averaged weights; raises UserError for tensors that are others than the module's."""
    for name, own in module.state_dict().items():
        other = state.get(name)
        if other is not None and other.dtype != own.dtype:
            raise UserError(f"{path} does not fit this stage: {name} is {other.dtype}, expected {own.dtype}")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path} does not fit this stage: {first}") from error


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Any]], path: Path, steps: int) -> None:
    """Restores momentum and the like, after so many steps; raises UserError where it is not this optimiser's."""
    saved = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if steps and parameters and not state and _remembers(optimizer):
        raise UserError(
            f"{path} does not fit this stage: nothing of the optimiser's is in it after {counted(steps, 'step')}"
        )
    for place, own in state.items():
        if not 0 <= place < len(parameters):
            raise UserError(f"{path} does not fit this stage: the optimiser has no parameter {place}")
        for name, value in own.items():
            shapes = (parameters[place].shape, torch.Size())
            if not isinstance(value, Tensor) or value.shape not in shapes or not value.is_floating_point():
                raise UserError(f"{path} does not fit this stage: the optimiser's {name} of parameter {place}")
    lacking = [place for place, fresh in saved["state"].items() if fresh.keys() - state.get(place, {}).keys()]
    if lacking:
        raise UserError(f"{path} does not fit this stage: the optimiser's state of parameter {lacking[0]} is missing")
    load_optimizer_state(optimizer, {"state": state, "param_groups": saved["param_groups"]})


def _remembers(optimizer: torch.optim.Optimizer) -> bool:
    """Whether steps leave a state: those of SGD without momentum leave none."""
    return isinstance(optimizer, torch.optim.Adam) or any(group.get("momentum") for group in optimizer.param_groups)


def random_state(state: dict[str, Tensor], path: Path) -> Tensor:
    """The state of torch's generator on the CPU."""
    found, own = state["cpu"], torch.get_rng_state()
    if found.dtype != own.dtype or found.shape != own.shape:
        raise UserError(f"{path} has a random state of {list(found.shape)} {found.dtype}, expected {list(own.shape)}")
    return found


def check_progress(progress: dict[str, Any], path: Path, epochs: int, steps_per_epoch: int) -> None:
    """Raises UserError for a place that this training has not."""
    if progress["epoch"] > epochs or progress["step"] > steps_per_epoch:
        raise UserError(
            f"{path} stands at epoch {progress['epoch']}, step {progress['step']}: this training has "
            f"{counted(epochs, 'epoch')} of {counted(steps_per_epoch, 'step')}"
        )


def check_meter(meter: dict[str, Any], path: Path) -> None:
    """Raises UserError for running sums that are none."""
    hits, largest, sums = meter["hits"], meter.get("largest", torch.zeros(2)), meter["sums"].values()
    if largest.shape != (2,) or largest.dtype != torch.float32:
        raise UserError(f"{path} has norms of another kind than those of fastkd")
    if hits.shape != (2,) or hits.dtype != torch.int64 or any(s.shape or s.dtype != torch.float64 for s in sums):
        raise UserError(f"{path} has running sums of another kind than those of fastkd")

"""Softmax, KL and CE over a teacher's logits and its branches' (or a student's and its teachers') in one operation.

reference.py      plain PyTorch: the CPU path, the oracle, the definition
kernel_rows.py    Triton, rows in registers
kernel_wide.py    the same for rows that are too wide
kernel_finish.py  the sum over the batch, and the scaling of gradients
kernel_parts.py   what the kernels share
launch.py         grids and tiles
operation.py      registration with torch.library

This file is the choice between them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastkd.ops import select
from fastkd.ops.distill_loss import reference
from fastkd.ops.distill_loss.reference import Losses
from fastkd.ops.numbers import NUMBERS, Scalar, neutral
from fastkd.support.errors import UserError

__all__ = ["Losses", "Numbers", "compute"]

Numbers = Tensor | Mapping[str, Scalar]
"""The numbers of a form: by name, or as the float32 tensor of a loss module, which goes to a kernel as it is."""


def compute(
    form: str,
    anchor_BK: Tensor,
    partners_BK: Sequence[Tensor],
    labels_B: Tensor,
    numbers: Numbers,
    *,
    ignore_index: int,
    **options,
) -> Losses:
    """Computes a form of the loss (a row of `fastkd.ops.numbers.NUMBERS`) by the implementation that `select` chooses.

    options: those of the form, as its definition in `reference.py` names them.
    """
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise TypeError(f"ignore_index is an integer, got {ignore_index!r}")
    if _reference_is_chosen(anchor_BK):
        named = _named(form, numbers) if isinstance(numbers, Tensor) else numbers
        return reference.FORMS[form](anchor_BK, partners_BK, labels_B, **named, **options, ignore_index=ignore_index)
    return _fused(form, anchor_BK, partners_BK, labels_B, numbers, **options, ignore_index=ignore_index)


def _reference_is_chosen(anchor_BK: Tensor) -> bool:
    implementation, reason = select.choose("distill_loss", anchor_BK.device.type)
    if implementation == "reference":
        return True
    why_not = ""
    if anchor_BK.dtype == torch.float64:
        why_not = "the kernel computes in float32, the logits are float64"
    elif reference.is_transforming():
        why_not = "torch.func does not transform the kernel"
    if why_not and reason == select.FORCED:
        raise UserError(f"FASTKD_OPS=distill_loss=triton: {why_not}")
    return bool(why_not)


def _fused(
    form: str,
    anchor_BK: Tensor,
    partners_BK: Sequence[Tensor],
    labels_B: Tensor,
    numbers: Numbers,
    *,
    shares: Tensor | None = None,
    detached: bool = False,
    tau_squared: bool = True,
    ignore_index: int,
) -> Losses:
    from fastkd.ops.distill_loss.operation import distill_loss  # imports Triton

    if labels_B.device.type == "cpu":  # called for its assertion: on a GPU it asserts nothing and would launch kernels
        reference.counted_rows(labels_B, anchor_BK.shape[1], ignore_index)
    if shares is not None:  # [M] or [M,B]
        shape = (len(partners_BK), len(labels_B))
        shares = shares.detach().float().reshape(shape[0], -1).expand(shape)
    wanted = [torch.is_grad_enabled() and tensor.requires_grad for tensor in (anchor_BK, *partners_BK)]
    total, parts, hits, *_ = distill_loss(
        anchor_BK,
        list(partners_BK),
        labels_B,
        _packed(form, numbers, anchor_BK.device),
        shares,
        form,
        wanted,
        detached,
        tau_squared,
        ignore_index,
    )
    return Losses(total, parts.detach().unbind(), hits)


def _named(form: str, numbers: Tensor) -> dict[str, Tensor]:
    return {name: numbers[number.role] for name, number in NUMBERS[form].items()}


def _packed(form: str, numbers: Numbers, device: torch.device) -> Tensor:
    if isinstance(numbers, Tensor):
        if numbers.device != device:
            raise ValueError(
                f"the loss is on {numbers.device}, the logits are on {device}: move it with .to({str(device)!r})"
            )
        return numbers
    # Filled on the device: a copy from the host would make the host wait, and could not be captured.
    packed = torch.ones(len(neutral(form)), dtype=torch.float32, device=device)
    for place, value in enumerate(neutral(form)):
        if value != 1.0:
            packed[place].fill_(value)
    for name, value in numbers.items():
        packed[NUMBERS[form][name].role].copy_(value) if isinstance(value, Tensor) else packed[
            NUMBERS[form][name].role
        ].fill_(value)
    return packed

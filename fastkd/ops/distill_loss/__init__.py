"""Softmax, KL and CE over a teacher's logits and its branches' (or a student's and its teachers') in one operation.

reference.py      plain PyTorch: the oracle, the definition, the path where nothing is compiled
kernel_rows.py    Triton, rows in registers
kernel_wide.py    the same for rows that are too wide
kernel_finish.py  the sum over the batch, and the scaling of gradients
kernel_parts.py   what the kernels share
launch.py         grids and tiles
operation.py      registration with torch.library; csrc/distill_rows.h is the kernel of a CPU

This file is the choice between them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fastkd.ops import compiled, select
from fastkd.ops.distill_loss import reference
from fastkd.ops.distill_loss.operation import Given, differentiable
from fastkd.ops.distill_loss.reference import Losses
from fastkd.ops.numbers import NUMBERS, Scalar, neutral

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
    if not -(2**63) <= ignore_index < 2**63:
        raise ValueError(f"ignore_index is an integer of 64 bits, got {ignore_index}")
    path = _path(form, (anchor_BK, *partners_BK))
    if path == "reference":
        named = _named(form, numbers) if isinstance(numbers, Tensor) else numbers
        return reference.FORMS[form](anchor_BK, partners_BK, labels_B, **named, **options, ignore_index=ignore_index)
    return _fused(form, anchor_BK, partners_BK, labels_B, numbers, **options, ignore_index=ignore_index, path=path)


_KERNELS = ("triton", "cpu")
_IN_FLOAT32 = tuple((path, "the kernel computes in float32, the logits are float64") for path in _KERNELS)
_NOT_TRANSFORMED = tuple((path, "torch.func does not transform the kernel") for path in _KERNELS)


def _path(form: str, logits_BK: Sequence[Tensor]) -> str:
    impossible: select.Reasons = ()
    if any(tensor.dtype == torch.float64 for tensor in logits_BK):
        impossible = _IN_FLOAT32
    elif reference.is_transforming():
        impossible = _NOT_TRANSFORMED
    elif logits_BK[0].device.type == "cpu" and not compiled.has_form(form):
        impossible = (("cpu", f"the compiled cpu library has no kernel of the form {form}"),)
    return select.choose("distill_loss", logits_BK[0].device.type, impossible)[0]


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
    path: str,
) -> Losses:
    if path == "triton" and labels_B.device.type == "cpu":  # called for its assertion; on a GPU it would launch kernels
        reference.counted_rows(labels_B, anchor_BK.shape[1], ignore_index)
    if shares is not None:  # [M] or [M,B]
        shape = (len(partners_BK), len(labels_B))
        shares = shares.detach().float().reshape(shape[0], -1).expand(shape)
    learning = torch.is_grad_enabled()
    given = Given(
        labels_B,
        _packed(form, numbers, anchor_BK.device),
        shares,
        form,
        [learning and tensor.requires_grad for tensor in (anchor_BK, *partners_BK)],
        detached,
        tau_squared,
        ignore_index,
        path,
    )
    total, parts, hits = differentiable(anchor_BK, list(partners_BK), given)
    return Losses(total, parts.unbind(), hits)


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

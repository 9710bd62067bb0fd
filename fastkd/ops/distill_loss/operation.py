"""The kernels as operations of PyTorch: schema, shapes for `torch.compile`, backward. Imports Triton.

`fastkd::distill_loss` gives loss and gradients in one functional call; `fastkd::scale_gradients_` multiplies the saved
gradients by what arrives in backward, in place: a functional product would move as many bytes as the loss itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastkd.ops.distill_loss import launch
from fastkd.ops.select import interpreting

SPENT = (
    "distill_loss: a second backward needs a second forward; the gradients are computed in the forward pass and the "
    "first backward has used them up"
)


@torch.library.custom_op("fastkd::distill_loss", mutates_args=())
def distill_loss(
    anchor_BK: Tensor,
    partners_BK: Sequence[Tensor],
    labels_B: Tensor,
    numbers: Tensor,
    shares_MB: Tensor | None,
    form: str,
    wanted: Sequence[bool],
    detached: bool,
    tau_squared: bool,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], Tensor]:
    """Total, parts [3], hits [networks, 2], the gradients of the networks (anchor, partners) that are `wanted`, and
    what these have still to be multiplied by: 1 unless rows are ignored.
    """
    logits = [anchor_BK, *partners_BK]
    gradients = [_gradient_like(tensor) if want else None for tensor, want in zip(logits, wanted, strict=True)]
    total, parts, hits, correction = launch.compute_losses_and_gradients(
        logits,
        gradients,
        labels_B.contiguous(),
        numbers,
        shares_MB,
        form,
        detached=detached,
        tau_squared=tau_squared,
        ignore_index=ignore_index,
    )
    return total, parts, hits, [gradient for gradient in gradients if gradient is not None], correction


@distill_loss.register_fake
def _(anchor_BK, partners_BK, labels_B, numbers, shares_MB, form, wanted, detached, tau_squared, ignore_index):
    logits = [anchor_BK, *partners_BK]
    networks = len(logits) if launch.FORMS[form].PARTNERS_LEARN else 1
    return (
        numbers.new_empty((), dtype=torch.float32),
        numbers.new_empty(3, dtype=torch.float32),
        labels_B.new_empty(networks, 2),
        [_gradient_like(tensor) for tensor, want in zip(logits, wanted, strict=True) if want],
        numbers.new_empty((), dtype=torch.float32),
    )


def _gradient_like(logits: Tensor) -> Tensor:
    """An empty gradient, float32 for float16 logits.

    float16 would flush most gradients of a mean over the batch to zero before the loss scale reaches them.
    """
    inexact = (torch.float16, torch.bfloat16) if interpreting() else (torch.float16,)  # interpreted, bf16 truncates
    dtype = torch.float32 if logits.dtype in inexact else logits.dtype
    return torch.empty(logits.shape, dtype=dtype, device=logits.device)


@torch.library.custom_op("fastkd::scale_gradients_", mutates_args=("gradients",))
def scale_gradients_(gradients: Sequence[Tensor], scale: Tensor, correction: Tensor) -> None:
    """Multiplies the gradients by scale · correction, in place."""
    launch.scale_in_place(gradients, scale, correction)


@scale_gradients_.register_fake
def _(gradients, scale, correction):
    return None


def _save(ctx, inputs, output) -> None:
    anchor_BK, partners_BK, *_ = inputs
    *_, gradients, correction = output
    ctx.set_materialize_grads(False)  # else autograd fills zeros of the gradients' size for outputs nobody uses
    ctx.save_for_backward(correction, *gradients)
    ctx.wanted = inputs[6]
    ctx.dtypes = [tensor.dtype for tensor in (anchor_BK, *partners_BK)]


def _backward(ctx, total_gradient, *_unused):
    try:
        correction, *gradients = ctx.saved_tensors
    except RuntimeError as error:
        raise RuntimeError(SPENT) from error
    if all(type(gradient) is Tensor for gradient in gradients):
        scale_gradients_(gradients, total_gradient, correction)
    else:  # traced: the compiler fuses a product with what follows, and would undo a mutation by a copy
        gradients = [gradient * (total_gradient * correction) for gradient in gradients]
    saved = iter(gradients)
    anchor, *partners = (
        next(saved).to(dtype) if want else None for want, dtype in zip(ctx.wanted, ctx.dtypes, strict=True)
    )
    return anchor, partners, *[None] * 8


distill_loss.register_autograd(_backward, setup_context=_save)

"""The losses as operations of PyTorch: schema, shapes for `torch.compile`, backward.

`fastkd::distill_loss` gives loss and gradients in one functional call; `fastkd::scale_gradients_` multiplies the saved
gradients by what arrives in backward, in place: a functional product would move as many bytes as the loss itself.
`path` says who computes: "cpu" is the compiled library, "triton" are Triton's kernels.

They are defined by a `Library`, with an `autograd.Function` of our own: `custom_op` takes three times as long on the
host, which is what a loss of few numbers waits for.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastkd.ops import compiled
from fastkd.ops.numbers import partners_learn
from fastkd.ops.select import interpreting

SPENT = (
    "distill_loss: a second backward needs a second forward; the gradients are computed in the forward pass and the "
    "first backward has used them up"
)

_library = torch.library.Library("fastkd", "FRAGMENT")
_library.define(
    "distill_loss(Tensor anchor_BK, Tensor[] partners_BK, Tensor labels_B, Tensor numbers, Tensor? shares_MB, "
    "str form, bool[] wanted, bool detached, bool tau_squared, int ignore_index, str path) "
    "-> (Tensor, Tensor, Tensor, Tensor[], Tensor)"
)
_library.define("scale_gradients_(Tensor(a!)[] gradients, Tensor scale, Tensor correction, str path) -> ()")
# What the compiled library implements. It is told where to write: no allocation in C++.
_library.define(
    "_distill_loss(Tensor[] logits, Tensor(a!)[] gradients, Tensor labels, Tensor numbers, Tensor? shares, str form, "
    "bool detached, bool tau_squared, int ignore_index, Tensor(b!) total, Tensor(c!) parts, Tensor(d!) hits, "
    "Tensor(e!) correction) -> ()"
)
_library.define("_distill_scale(Tensor(a!)[] gradients, Tensor scale) -> ()")


class Given(NamedTuple):
    """What the operation takes behind the logits, in its order."""

    labels_B: Tensor
    numbers: Tensor
    shares_MB: Tensor | None
    form: str
    wanted: list[bool]
    """Of anchor and partners, who gets a gradient."""
    detached: bool
    tau_squared: bool
    ignore_index: int
    path: str


distill_loss = torch.ops.fastkd.distill_loss.default
"""Total, parts [3], hits [networks that learn, 2], the gradients of the networks (anchor, partners) that are `wanted`,
and what these have still to be multiplied by: 1 unless Triton's kernels ignore rows."""
scale_gradients_ = torch.ops.fastkd.scale_gradients_.default
"""Multiplies the gradients by scale · correction, in place."""


def _compute(
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
    path: str,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], Tensor]:
    logits = [anchor_BK, *partners_BK]
    gradients = [_gradient_like(tensor, path) if want else None for tensor, want in zip(logits, wanted, strict=True)]
    if path == "triton":
        from fastkd.ops.distill_loss import launch  # imports Triton

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
    else:
        assert path == "cpu", path
        compiled.load("cpu")
        total, parts, hits, correction = _outputs(form, logits, labels_B, numbers)
        absent = numbers.new_empty(0)
        places = [absent if gradient is None else gradient for gradient in gradients]
        torch.ops.fastkd._distill_loss(
            logits,
            places,
            labels_B.contiguous(),
            numbers,
            shares_MB,
            form,
            detached,
            tau_squared,
            ignore_index,
            total,
            parts,
            hits,
            correction,
        )
    return total, parts, hits, [gradient for gradient in gradients if gradient is not None], correction


def _promise(
    anchor_BK, partners_BK, labels_B, numbers, shares_MB, form, wanted, detached, tau_squared, ignore_index, path
):
    logits = [anchor_BK, *partners_BK]
    total, parts, hits, correction = _outputs(form, logits, labels_B, numbers)
    gradients = [_gradient_like(tensor, path) for tensor, want in zip(logits, wanted, strict=True) if want]
    return total, parts, hits, gradients, correction


def _outputs(form: str, logits: list[Tensor], labels_B: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
    """Room for total, parts, hits and correction."""
    total = numbers.new_empty((), dtype=torch.float32)
    parts = numbers.new_empty(3, dtype=torch.float32)
    hits = labels_B.new_empty(len(logits) if partners_learn(form) else 1, 2)
    return total, parts, hits, torch.empty_like(total)


def _gradient_like(logits: Tensor, path: str) -> Tensor:
    """An empty gradient, float32 for float16 logits.

    float16 would flush most gradients of a mean over the batch to zero before the loss scale reaches them.
    """
    exact = logits.dtype == torch.float32 or (
        logits.dtype == torch.bfloat16 and not (path == "triton" and interpreting())  # interpreted, bf16 truncates
    )
    return torch.empty(logits.shape, dtype=logits.dtype if exact else torch.float32, device=logits.device)


def _scale(gradients: Sequence[Tensor], scale: Tensor, correction: Tensor, path: str) -> None:
    if path == "triton":
        from fastkd.ops.distill_loss import launch

        launch.scale_in_place(gradients, scale, correction)
    else:
        torch.ops.fastkd._distill_scale(gradients, scale)
    torch.autograd.graph.increment_version(gradients)  # so that a second backward raises


class _Loss(torch.autograd.Function):
    """`distill_loss` for autograd, which takes no lists: the partners come one by one, as the gradients leave.

    below: what computes, without autograd.
    """

    @staticmethod
    def forward(ctx, below, given: Given, anchor_BK, *partners_BK):
        total, parts, hits, gradients, correction = below(anchor_BK, partners_BK, *given)
        ctx.set_materialize_grads(False)  # else autograd fills zeros of the gradients' size for outputs nobody uses
        ctx.mark_non_differentiable(parts, hits, correction, *gradients)
        ctx.save_for_backward(correction, *gradients)
        ctx.wanted, ctx.path = given.wanted, given.path
        ctx.dtypes = [tensor.dtype for tensor in (anchor_BK, *partners_BK)]
        return total, parts, hits, correction, *gradients

    @staticmethod
    def backward(ctx, total_gradient, *_unused):
        return _backward_once(ctx, total_gradient) if torch.is_grad_enabled() else _backward(ctx, total_gradient)


def _backward(ctx, total_gradient: Tensor) -> tuple[Tensor | None, ...]:
    try:
        correction, *gradients = ctx.saved_tensors
    except RuntimeError as error:
        raise RuntimeError(SPENT) from error
    if all(type(gradient) is Tensor for gradient in gradients):
        scale_gradients_(gradients, total_gradient, correction, ctx.path)
    else:  # traced: the compiler fuses a product with what follows, and would undo a mutation by a copy
        gradients = [gradient * (total_gradient * correction) for gradient in gradients]
    saved = iter(gradients)
    found = [next(saved).to(dtype) if want else None for want, dtype in zip(ctx.wanted, ctx.dtypes, strict=True)]
    return None, None, *found


_backward_once = torch.autograd.function.once_differentiable(_backward)
"""For `create_graph=True`: to differentiate the gradients again is an error, as they are no function to autograd."""


def differentiable(anchor_BK: Tensor, partners_BK: Sequence[Tensor], given: Given) -> tuple[Tensor, Tensor, Tensor]:
    """Total, parts and hits. `distill_loss` without the dispatcher where nothing but autograd would see the call.

    Its two ways through Python take as long as the kernel for a batch of few numbers.
    """
    tensors = (anchor_BK, *partners_BK)
    if torch.compiler.is_compiling() or is_dispatched_elsewhere(tensors):
        return distill_loss(anchor_BK, partners_BK, *given)[:3]
    if any(given.wanted):
        return _Loss.apply(_compute, given, *tensors)[:3]  # pyright: ignore[reportOptionalSubscript]
    return _compute(anchor_BK, partners_BK, *given)[:3]


def is_dispatched_elsewhere(arguments: Sequence[Any]) -> bool:
    """Whether a mode (tracing, fake tensors, whatever counts operations), a function transform or a tensor of another
    class among the arguments of an operation wants to see it."""
    transforms = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    if torch._C._len_torch_dispatch_stack() > 0 or transforms.peek_interpreter_stack() is not None:
        return True
    return any(isinstance(one, Tensor) and type(one) is not Tensor for one in arguments)


def _dispatched(keyset, anchor_BK, partners_BK, *rest):
    """`distill_loss` at the dispatch keys of autograd."""

    def below(*arguments):
        with torch._C._AutoDispatchBelowAutograd():
            return distill_loss.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    given = Given(*rest)
    if not (torch.is_grad_enabled() and any(given.wanted)):
        return below(anchor_BK, partners_BK, *given)
    total, parts, hits, correction, *gradients = _Loss.apply(below, given, anchor_BK, *partners_BK)
    return total, parts, hits, gradients, correction


_library.impl("distill_loss", _compute, "CompositeExplicitAutograd")
_library.impl("distill_loss", _dispatched, "Autograd", with_keyset=True)
_library.impl("scale_gradients_", _scale, "CompositeExplicitAutograd")
torch.library.register_fake("fastkd::distill_loss", _promise, lib=_library)
torch.library.register_fake("fastkd::scale_gradients_", lambda *_unused: None, lib=_library)

"""The losses of rows as operations of PyTorch: schema, shapes for `torch.compile`, backward.

`fastkd::row_loss` gives the loss of every row and the gradient of the logits in one functional call;
`fastkd::scale_rows_` multiplies the saved gradient by what arrives in backward, in place. `fastkd::linear_loss` is the
same behind a linear layer, without the logits: it gives the sum, and the gradients of the layer's input and parameters.
`path` says who computes: "triton", "cpu" (the compiled library) or "reference".

The first two are defined by a `Library`, as in `distill_loss`, since `custom_op` takes three times as long on the host.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from fastkd.ops.distill_loss.operation import is_dispatched_elsewhere
from fastkd.ops.row_loss import fused, reference
from fastkd.ops.row_loss.inputs import Found, Fused, Rows
from fastkd.ops.schema import flat, leaves, nested, schema
from fastkd.ops.select import interpreting

SPENT = (
    "row_loss: a second backward needs a second forward; the gradients are computed in the forward pass and the first "
    "backward has used them up"
)

_library = torch.library.Library("fastkd", "FRAGMENT")
_library.define(f"row_loss({schema(Rows)}, bool wanted, str path) -> (Tensor, Tensor, Tensor, Tensor)")
_library.define("scale_rows_(Tensor(a!) gradient_BRK, Tensor scale_N, str path) -> ()")

row_loss = torch.ops.fastkd.row_loss.default
"""What `Found` names. wanted: whether the gradient is."""
scale_rows_ = torch.ops.fastkd.scale_rows_.default
"""Multiplies every row by its number, in place."""


def _compute(rows: Rows, wanted: bool, path: str) -> Found:
    room = _room(rows, wanted)
    if path == "reference":
        for place, value in zip(room, reference.losses_and_gradient(rows, wanted), strict=True):
            place.copy_(value)
    else:
        fused.kernel_of(path).fill(rows, room, room.gradient_BRK if wanted else None)
    return room


def _room(rows: Rows, wanted: bool) -> Found:
    student = rows.student_BRK
    samples = student.shape[0] * student.shape[1]
    gradient = torch.empty_like(student, dtype=_gradient_type(student.dtype)) if wanted else student.new_empty(0)
    return Found(
        rows.weights_N.new_empty(samples),
        rows.weights_N.new_empty(2, samples),
        torch.empty(samples, dtype=torch.int64, device=student.device),
        gradient,
    )


def _gradient_type(logits: torch.dtype) -> torch.dtype:
    """float32 for float16 logits, most of whose gradients would be 0 before the loss scale reaches them."""
    inexact = (torch.float16, torch.bfloat16) if interpreting() else (torch.float16,)  # interpreted, bf16 truncates
    return torch.float32 if logits in inexact else logits


def _scale(gradient_BRK: Tensor, scale_N: Tensor, path: str) -> None:
    if path == "triton":
        from fastkd.ops.row_loss import launch

        launch.scale_in_place(gradient_BRK, scale_N.contiguous())
    elif path == "reference" or not bool((scale_N == 1).all()):  # as after `total.backward()`
        gradient_BRK.mul_(scale_N.view(*gradient_BRK.shape[:2], 1))
    torch.autograd.graph.increment_version(gradient_BRK)  # so that a second backward raises


class _Loss(torch.autograd.Function):
    """`row_loss` for autograd.

    below: what computes the loss of the student's logits, without autograd.
    """

    @staticmethod
    def forward(ctx, below: Callable[[], Found], path: str, student_BRK):
        found = Found(*below())
        ctx.set_materialize_grads(False)  # else autograd fills zeros of the gradient's size for outputs nobody uses
        ctx.mark_non_differentiable(*found[1:])
        ctx.save_for_backward(found.gradient_BRK)
        ctx.dtype, ctx.path = student_BRK.dtype, path
        return tuple(found)

    @staticmethod
    def backward(ctx, losses_gradient_N, *_unused):
        return _backward_once(ctx, losses_gradient_N) if torch.is_grad_enabled() else _backward(ctx, losses_gradient_N)


def _backward(ctx, losses_gradient_N: Tensor) -> tuple[Tensor | None, ...]:
    gradient = _saved(ctx)[0]
    if type(gradient) is Tensor:
        scale_rows_(gradient, losses_gradient_N, ctx.path)
    else:  # traced: the compiler fuses a product with what follows, and would undo a mutation by a copy
        gradient = gradient * losses_gradient_N.view(*gradient.shape[:2], 1)
    return None, None, gradient.to(ctx.dtype)


_backward_once = torch.autograd.function.once_differentiable(_backward)
"""For `create_graph=True`: to differentiate the gradients again is an error, as they are no function to autograd."""


def _saved(ctx) -> Sequence[Tensor]:
    try:
        return ctx.saved_tensors
    except RuntimeError as error:
        raise RuntimeError(SPENT) from error


def differentiable(rows: Rows, path: str) -> Found:
    """`row_loss`, without the dispatcher where nothing but autograd would see the call."""
    student, arguments = rows.student_BRK, flat(rows)
    wanted = torch.is_grad_enabled() and student.requires_grad
    if torch.compiler.is_compiling() or is_dispatched_elsewhere(arguments):
        return Found(*row_loss(*arguments, wanted, path))
    if wanted:
        return Found(*_Loss.apply(partial(_compute, rows, True, path), path, student))  # pyright: ignore[reportArgumentType]
    return _compute(rows, False, path)


def _as_operation(*arguments) -> Found:
    *given, wanted, path = arguments
    return _compute(nested(Rows, iter(given)), wanted, path)


def _dispatched(keyset, *arguments):
    """`row_loss` at the dispatch keys of autograd."""

    def below():
        with torch._C._AutoDispatchBelowAutograd():
            return row_loss.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    *_, wanted, path = arguments
    return _Loss.apply(below, path, arguments[0]) if torch.is_grad_enabled() and wanted else below()


def _promise(*arguments) -> Found:
    *given, wanted, _ = arguments
    return _room(nested(Rows, iter(given)), wanted)


_library.impl("row_loss", _as_operation, "CompositeExplicitAutograd")
_library.impl("row_loss", _dispatched, "Autograd", with_keyset=True)
_library.impl("scale_rows_", _scale, "CompositeExplicitAutograd")
torch.library.register_fake("fastkd::row_loss", _promise, lib=_library)
torch.library.register_fake("fastkd::scale_rows_", lambda *_unused: None, lib=_library)


@torch.library.custom_op(
    "fastkd::linear_loss",
    mutates_args=(),
    schema=f"({schema(Fused)}, bool[] wanted, int chunk_rows, str path) -> (Tensor, Tensor, Tensor, Tensor[])",
)
def linear_loss(*arguments) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The sum of the losses, parts [2,N], ranks [N], and the gradients that are `wanted` of hidden, weight and bias."""
    *given, wanted, chunk_rows, path = arguments
    return fused.losses_and_gradients(nested(Fused, iter(given)), wanted, chunk_rows, path)


@linear_loss.register_fake
def _(*arguments):
    *given, wanted, _, _ = arguments
    inputs = nested(Fused, iter(given))
    samples, weights = inputs.student.hidden_ND.shape[0], inputs.weights_N
    return (
        weights.new_empty(()),
        weights.new_empty(2, samples),
        torch.empty(samples, dtype=torch.int64, device=weights.device),
        fused.room_for_gradients(inputs, wanted),
    )


@torch.library.custom_op("fastkd::scale_all_", mutates_args=("gradients",))
def scale_all_(gradients: Sequence[Tensor], scale: Tensor) -> None:
    """Multiplies the gradients by a number, in place."""
    torch._foreach_mul_(list(gradients), scale.to(gradients[0].dtype))  # pyright: ignore[reportPrivateImportUsage]


@scale_all_.register_fake
def _(*_unused):
    return None


def _save_linear(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[3])
    ctx.wanted = inputs[-3]
    ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in inputs[:3]]


def _backward_linear(ctx, total_gradient, *_unused):
    gradients = list(_saved(ctx))
    if all(type(gradient) is Tensor for gradient in gradients):
        scale_all_(gradients, total_gradient)
    else:
        gradients = [gradient * total_gradient for gradient in gradients]
    saved = iter(gradients)
    found = [next(saved).to(dtype) if want else None for want, dtype in zip(ctx.wanted, ctx.dtypes, strict=True)]
    return *found, *[None] * len(list(leaves(Fused)))  # the first three are the layer's


linear_loss.register_autograd(_backward_linear, setup_context=_save_linear)

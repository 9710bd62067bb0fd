"""The CRD memory bank as operations of PyTorch: schemas, shapes for `torch.compile`, backward.

`fastkd::crd_loss` is functional and gives loss and gradients in one call; `fastkd::crd_normaliser` gives Z;
`fastkd::crd_update_` is the step's mutation: the rows of the batch, Z, the step counter. `path` says who computes:
"cpu", "cpu_tiles" and "gather" are the compiled libraries, "dense" is Triton; `draw` also has "reference".

The dense path takes three operations for the first two: `crd_count` needs no embedding, so that it may run beside the
networks; `crd_prepare` gives Z and what the bank is multiplied by; `crd_score` gives loss and gradients.

What they take is declared in `inputs.py`. They are `custom_op`s whose bodies call what the libraries implement, because
a mutating operation that is implemented in C++ alone does not tell autograd that it has changed anything.
"""

import functools

import torch
from torch import Tensor

from fastkd.ops import compiled
from fastkd.ops.crd import draws
from fastkd.ops.crd.draws import DrawPlan
from fastkd.ops.crd.inputs import Drawn, Inputs, Prepared
from fastkd.ops.schema import leaves, nested, schema

SPENT = (
    "CRD: a second backward needs a second forward; the gradients are computed in the forward pass and the first "
    "backward has used them up"
)

_INPUTS, _PLAN = schema(Inputs), schema(DrawPlan)
_LOSS = (
    f"({_INPUTS}, Tensor(a!) total, Tensor(b!) sides, Tensor(c!) student_gradient, Tensor(d!) teacher_gradient) -> ()"
)
# What the libraries implement. They are told where to write: no allocation in C++.
_SCHEMAS = (
    f"_crd_loss{_LOSS}",
    f"_crd_loss_by_tiles{_LOSS}",
    f"_crd_normaliser({_INPUTS}, Tensor(a!) out) -> ()",
    "_crd_update(Tensor(a!) bank, Tensor(b!) z, Tensor(c!) step, Tensor rows, Tensor student, Tensor teacher, "
    "Tensor new_z, Tensor numbers) -> ()",
    f"_crd_draw(Tensor rows, {_PLAN}, int n, Tensor(a!) out) -> ()",
    f"_crd_mark(Tensor rows, {_PLAN}, int n, Tensor(a!) bits, Tensor(b!) positives) -> ()",
)
_library = torch.library.Library("fastkd", "FRAGMENT")
for _schema in _SCHEMAS:
    _library.define(_schema)


@torch.library.custom_op(
    "fastkd::crd_loss", mutates_args=(), schema=f"({_INPUTS}, str path) -> (Tensor, Tensor, Tensor, Tensor)"
)
def crd_loss(*arguments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The total, its two sides [2], the gradients of the student's and the teacher's embeddings."""
    *given, path = arguments
    inputs = nested(Inputs, iter(given))
    outputs = _outputs(inputs.contrast.student_BD)
    if path == "cpu_tiles":
        _library_of(path)._crd_loss_by_tiles(*given, *outputs)
    else:
        _library_of(path)._crd_loss(*given, *outputs)
    return outputs


@crd_loss.register_fake
def _(*arguments):
    return _outputs(nested(Inputs, iter(arguments)).contrast.student_BD)


def _outputs(student_BD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        student_BD.new_empty(()),
        student_BD.new_empty(2),
        torch.empty_like(student_BD),
        torch.empty_like(student_BD),
    )


@torch.library.custom_op("fastkd::crd_normaliser", mutates_args=(), schema=f"({_INPUTS}, str path) -> Tensor")
def crd_normaliser(*arguments) -> Tensor:
    """[2]: z if it is known (above 0), else what this batch makes it. The device decides: the host does not wait."""
    *given, path = arguments
    inputs = nested(Inputs, iter(given))
    out = torch.empty_like(inputs.z)
    _library_of(path)._crd_normaliser(*given, out)
    return out


@crd_normaliser.register_fake
def _(*arguments):
    return torch.empty_like(nested(Inputs, iter(arguments)).z)


@torch.library.custom_op(
    "fastkd::crd_count", mutates_args=(), schema=f"(Tensor rows, Tensor? chosen, {_PLAN}, int n) -> (Tensor, Tensor)"
)
def crd_count(rows_B, chosen_BK, *arguments) -> tuple[Tensor, Tensor]:
    """What the samples drew, for the dense path: the fields of `Drawn`."""
    from fastkd.ops.crd import dense  # imports Triton

    *plan, n = arguments
    return dense.count(rows_B, chosen_BK, DrawPlan(*plan), n)


@crd_count.register_fake
def _(rows_B, chosen_BK, *arguments):
    *plan, n = arguments
    return tuple(Drawn.empty(rows_B, n, distinct=DrawPlan(*plan).distinct and chosen_BK is None))


@torch.library.custom_op("fastkd::crd_prepare", mutates_args=(), schema=f"({_INPUTS}) -> (Tensor, Tensor)")
def crd_prepare(*arguments) -> tuple[Tensor, Tensor]:
    """What is known before the bank is scored, for the dense path: the fields of `Prepared`."""
    from fastkd.ops.crd import dense

    z, scaled = dense.prepare(nested(Inputs, iter(arguments)))
    assert scaled is not None
    return z, scaled


@crd_prepare.register_fake
def _(*arguments):
    inputs = nested(Inputs, iter(arguments))
    return tuple(Prepared.empty(inputs.contrast.student_BD, inputs.z))


@torch.library.custom_op("fastkd::crd_score", mutates_args=())
def crd_score(
    student_BD: Tensor,
    teacher_BD: Tensor,
    counts: Tensor,
    positives: Tensor,
    scaled: Tensor,
    bank_n2D: Tensor,
    z: Tensor,
    numbers: Tensor,
    negatives: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `crd_loss` gives, from what was counted and prepared. The embeddings are there for their gradients."""
    from fastkd.ops.crd import dense

    outputs = _outputs(student_BD)
    dense.compute_losses_and_gradients(Drawn(counts, positives), scaled, bank_n2D, z, numbers, negatives, outputs)
    return outputs


@crd_score.register_fake
def _(student_BD, *_unused):
    return _outputs(student_BD)


@torch.library.custom_op("fastkd::crd_update_", mutates_args=("bank_n2D", "z", "step"))
def crd_update_(
    bank_n2D: Tensor,
    z: Tensor,
    step: Tensor,
    rows_B: Tensor,
    student_BD: Tensor,
    teacher_BD: Tensor,
    new_z: Tensor,
    numbers: Tensor,
    path: str,
) -> None:
    """Moves the batch's rows towards its embeddings, stores Z, counts the step."""
    if path == "dense":
        from fastkd.ops.crd import dense

        dense.update(bank_n2D, z, step, rows_B, student_BD, teacher_BD, new_z, numbers)
    else:
        _library_of(path)._crd_update(bank_n2D, z, step, rows_B, student_BD, teacher_BD, new_z, numbers)


@crd_update_.register_fake
def _(*_unused):
    return None


@torch.library.custom_op(
    "fastkd::crd_draw", mutates_args=(), schema=f"(Tensor rows, {_PLAN}, int n, str path) -> Tensor"
)
def crd_draw(rows_B, *arguments) -> Tensor:
    """[B,K+1] int64: the positive and the K negatives of every sample, as the losses draw them for themselves."""
    *given, n, path = arguments
    plan = nested(DrawPlan, iter(given))
    if path == "reference":
        return draws.draw(rows_B, plan)
    out = rows_B.new_empty(len(rows_B), plan.negatives + 1)
    if path == "dense":
        from fastkd.ops.crd import dense

        dense.draw(rows_B, n, plan, out)
    else:
        _library_of(path)._crd_draw(rows_B, *given, n, out)
    return out


@crd_draw.register_fake
def _(rows_B, *arguments):
    return rows_B.new_empty(rows_B.shape[0], nested(DrawPlan, iter(arguments)).negatives + 1)


@torch.library.custom_op("fastkd::crd_scale_", mutates_args=("student_gradient", "teacher_gradient"))
def crd_scale_(student_gradient: Tensor, teacher_gradient: Tensor, scale: Tensor) -> None:
    """Multiplies both gradients by `scale` in place, in one launch."""
    torch._foreach_mul_((student_gradient, teacher_gradient), scale)  # pyright: ignore[reportPrivateImportUsage]


@crd_scale_.register_fake
def _(*_unused):
    return None


@functools.cache
def _library_of(path: str):
    assert path in ("cpu", "cpu_tiles", "gather"), path
    compiled.load("cuda" if path == "gather" else "cpu")
    return torch.ops.fastkd


def _save(ctx, inputs, output) -> None:
    _, _, student_gradient, teacher_gradient = output
    ctx.save_for_backward(student_gradient, teacher_gradient)


def _scaled(ctx, total_gradient: Tensor) -> tuple[Tensor, Tensor]:
    try:
        student_gradient, teacher_gradient = ctx.saved_tensors
    except RuntimeError as error:
        raise RuntimeError(SPENT) from error
    crd_scale_(student_gradient, teacher_gradient, total_gradient)
    return student_gradient, teacher_gradient


def _backward(ctx, total_gradient, *_unused):
    student_gradient, teacher_gradient = _scaled(ctx, total_gradient)
    gradients = {"student_BD": student_gradient, "teacher_BD": teacher_gradient}
    return *(gradients.get(name) for name, _ in leaves(Inputs)), None  # the last is the path's


def _backward_of_score(ctx, total_gradient, *_unused):
    return *_scaled(ctx, total_gradient), *(None,) * 7


crd_loss.register_autograd(_backward, setup_context=_save)
crd_score.register_autograd(_backward_of_score, setup_context=_save)

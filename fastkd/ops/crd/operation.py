"""The CRD memory bank as operations of PyTorch: schemas, shapes for `torch.compile`, backward.

`fastkd::crd_loss` is functional and gives loss and gradients in one call; `fastkd::crd_normaliser` gives Z;
`fastkd::crd_update_` is the step's mutation: the rows of the batch, Z, the step counter. `path` says who computes:
"cpu" and "gather" are the compiled libraries, "dense" is Triton; `draw` also has "reference".

They are `custom_op`s whose bodies call what the libraries implement, because a mutating operation that is implemented
in C++ alone does not tell autograd that it has changed anything.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from fastkd.ops import compiled
from fastkd.ops.crd import draws

SPENT = (
    "CRD: a second backward needs a second forward; the gradients are computed in the forward pass and the first "
    "backward has used them up"
)

_INPUTS = (
    "Tensor student, Tensor teacher, Tensor bank, Tensor rows, Tensor? chosen, Tensor starts, Tensor step, Tensor z, "
    "Tensor settings, int negatives, int seed, int first_place, bool replacement, bool relaxed"
)
# What the libraries implement. They are told where to write: no allocation in C++.
_SCHEMAS = (
    f"_crd_loss({_INPUTS}, Tensor(a!) total, Tensor(b!) sides, Tensor(c!) student_gradient, "
    "Tensor(d!) teacher_gradient) -> ()",
    f"_crd_normaliser({_INPUTS}, Tensor(a!) out) -> ()",
    "_crd_update(Tensor(a!) bank, Tensor(b!) z, Tensor(c!) step, Tensor rows, Tensor student, Tensor teacher, "
    "Tensor new_z, Tensor settings) -> ()",
    "_crd_draw(Tensor rows, Tensor starts, Tensor step, int n, int negatives, int seed, int first_place, "
    "bool replacement, bool relaxed, Tensor(a!) out) -> ()",
)
_library = torch.library.Library("fastkd", "FRAGMENT")
for _schema in _SCHEMAS:
    _library.define(_schema)


class _Inputs(NamedTuple):
    """What _INPUTS names, and the path."""

    student_BD: Tensor
    teacher_BD: Tensor
    bank_n2D: Tensor
    rows_B: Tensor
    chosen_BK: Tensor | None
    starts: Tensor
    step: Tensor
    z: Tensor
    settings: Tensor
    negatives: int
    seed: int
    first_place: int
    replacement: bool
    relaxed: bool
    path: str

    def for_dense(self) -> tuple:
        plan = draws.Plan(self.starts, self.step, *self[9:14])
        return *self[:5], self.z, self.settings, plan


@torch.library.custom_op(
    "fastkd::crd_loss", mutates_args=(), schema=f"({_INPUTS}, str path) -> (Tensor, Tensor, Tensor, Tensor)"
)
def crd_loss(*inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Total, its two sides [2], the gradients of the student's and the teacher's embeddings."""
    given = _Inputs(*inputs)
    outputs = _outputs(given.student_BD)
    if given.path == "dense":
        from fastkd.ops.crd import dense  # imports Triton

        dense.losses_and_gradients(*given.for_dense(), outputs=outputs)
    else:
        _compiled(given.path)._crd_loss(*given[:-1], *outputs)
    return outputs


@crd_loss.register_fake
def _(student_BD, *_unused):
    return _outputs(student_BD)


def _outputs(student_BD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        student_BD.new_empty(()),
        student_BD.new_empty(2),
        torch.empty_like(student_BD),
        torch.empty_like(student_BD),
    )


@torch.library.custom_op("fastkd::crd_normaliser", mutates_args=(), schema=f"({_INPUTS}, str path) -> Tensor")
def crd_normaliser(*inputs) -> Tensor:
    """[2]: z where it is known (above 0), else what this batch makes it. The device decides: nobody waits for it."""
    given = _Inputs(*inputs)
    out = torch.empty_like(given.z)
    if given.path == "dense":
        from fastkd.ops.crd import dense

        dense.normaliser(*given.for_dense(), out=out)
    else:
        _compiled(given.path)._crd_normaliser(*given[:-1], out)
    return out


@crd_normaliser.register_fake
def _(*inputs):
    return torch.empty_like(_Inputs(*inputs).z)


@torch.library.custom_op("fastkd::crd_update_", mutates_args=("bank_n2D", "z", "step"))
def crd_update_(
    bank_n2D: Tensor,
    z: Tensor,
    step: Tensor,
    rows_B: Tensor,
    student_BD: Tensor,
    teacher_BD: Tensor,
    new_z: Tensor,
    settings: Tensor,
    path: str,
) -> None:
    """Moves the batch's rows towards its embeddings, keeps Z, counts the step."""
    if path == "dense":
        from fastkd.ops.crd import dense

        dense.update(bank_n2D, z, step, rows_B, student_BD, teacher_BD, new_z, settings)
    else:
        _compiled(path)._crd_update(bank_n2D, z, step, rows_B, student_BD, teacher_BD, new_z, settings)


@crd_update_.register_fake
def _(*_unused):
    return None


@torch.library.custom_op("fastkd::crd_draw", mutates_args=())
def crd_draw(
    rows_B: Tensor,
    starts: Tensor,
    step: Tensor,
    n: int,
    negatives: int,
    seed: int,
    first_place: int,
    replacement: bool,
    relaxed: bool,
    path: str,
) -> Tensor:
    """[B,K+1] int64: the positive and the K negatives of every sample. What the losses draw for themselves."""
    plan = (negatives, seed, first_place, replacement, relaxed)
    if path == "reference":
        return draws.draw(rows_B, draws.Plan(starts, step, *plan))
    out = rows_B.new_empty(len(rows_B), negatives + 1)
    if path == "dense":
        from fastkd.ops.crd import dense

        dense.draw(rows_B, n, draws.Plan(starts, step, *plan), out)
    else:
        _compiled(path)._crd_draw(rows_B, starts, step, n, *plan, out)
    return out


@crd_draw.register_fake
def _(rows_B, starts, step, n, negatives, *_unused):
    return rows_B.new_empty(rows_B.shape[0], negatives + 1)


@torch.library.custom_op("fastkd::crd_scale_", mutates_args=("student_gradient", "teacher_gradient"))
def crd_scale_(student_gradient: Tensor, teacher_gradient: Tensor, scale: Tensor) -> None:
    # One launch for both.
    torch._foreach_mul_((student_gradient, teacher_gradient), scale)  # pyright: ignore[reportPrivateImportUsage]


@crd_scale_.register_fake
def _(*_unused):
    return None


@functools.cache
def _compiled(path: str):
    assert path in ("cpu", "gather"), path
    compiled.load("cuda" if path == "gather" else "cpu")
    return torch.ops.fastkd


def _save(ctx, inputs, output) -> None:
    _, _, student_gradient, teacher_gradient = output
    ctx.save_for_backward(student_gradient, teacher_gradient)


def _backward(ctx, total_gradient, *_unused):
    try:
        student_gradient, teacher_gradient = ctx.saved_tensors
    except RuntimeError as error:
        raise RuntimeError(SPENT) from error
    crd_scale_(student_gradient, teacher_gradient, total_gradient)
    return student_gradient, teacher_gradient, *[None] * 13


crd_loss.register_autograd(_backward, setup_context=_save)

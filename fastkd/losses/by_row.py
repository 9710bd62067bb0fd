"""The losses that are defined for a batch, row by row: weights, any reduction, labels that are absent or probabilities.

`fastkd.ops.distill_loss` gives the mean over the rows that count. Anything else is made here of the losses of the rows,
each that of a batch of one row, which `torch.vmap` maps over them: in plain PyTorch, as no kernel has such an output.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fastkd.losses.row_checks import labels_are_classes
from fastkd.losses.rows import Counting, labels_as_classes, weights_and_divisor
from fastkd.losses.shapes import as_matrix, shape_of_labels
from fastkd.ops import distill_loss
from fastkd.ops.distill_loss import Losses, Numbers
from fastkd.ops.distill_loss.reference_parts import log_softmax
from fastkd.ops.numbers import NUMBERS, Scalar
from fastkd.ops.sparse import SparseTeacher


class CrossEntropy(NamedTuple):
    """A cross-entropy of a form."""

    weight: str
    """The name of its weight."""
    part: int = 0
    """Its place among the parts."""
    of_partners: bool = False
    """Whether it is the mean over the partners, else the anchor's."""


STUDENTS = (CrossEntropy("ce_weight"),)
OF_TEACHER_AND_BRANCHES = (CrossEntropy("teacher_weight"), CrossEntropy("ce_weight", 2, of_partners=True))
CROSS_ENTROPIES = {"sftn": OF_TEACHER_AND_BRANCHES, "sftn_reverse": OF_TEACHER_AND_BRANCHES}
"""The cross-entropies of the forms that have others than that of a student."""


class Rows(NamedTuple):
    """What every row adds, without its weight."""

    total: Tensor
    """[N]."""
    parts: Tensor
    """[N,parts], detached."""
    hits: Tensor
    """[N,networks,2]."""


def losses(
    form: str,
    anchor: Tensor,
    partners: Sequence[Tensor | SparseTeacher],
    labels: Tensor | None,
    numbers: Numbers,
    counting: Counting,
    *,
    operation: Callable[..., Losses] = distill_loss.compute,
    shares: Tensor | None = None,
    **options,
) -> Losses:
    """A form of the loss after all checks: by the operation where it is a mean over classes as labels, else row by row.

    anchor, partners: logits in any of `SHAPES`; a `SparseTeacher` has k classes in each row of the anchor.
    shares: [M], or [M] and the labels' shape: how much each partner is compared with.

    With `reduction` "none" the total and the parts have the labels' shape; the hits are counts in any case.
    """
    rows = as_matrix(anchor)
    networks = [rows, *(as_matrix(one) if isinstance(one, Tensor) else _of_rows(one) for one in partners)]
    if shares is not None and shares.ndim > 1:
        shares = shares.flatten(1)
    of_batch = partial(operation, form, **options, ignore_index=counting.ignore_index)
    if counting.is_plain and labels is not None and labels_are_classes(labels):
        return of_batch(rows, networks[1:], labels.flatten(), numbers, **_given(shares))
    counting.check(anchor)
    classes_N = labels_as_classes(labels)
    as_classes = labels is not None and labels_are_classes(labels)
    ones = rows.new_ones(len(rows), dtype=torch.promote_types(rows.dtype, torch.float32))
    weights, divisor = weights_and_divisor(classes_N, labels, rows.shape[1], counting, ones)
    counts = weights != 0
    # A row that does not count is not read: whatever it holds reaches no gradient.
    networks = [torch.where(counts[:, None], one, 0) if isinstance(one, Tensor) else one for one in networks]
    named, entropies = _named(form, numbers), CROSS_ENTROPIES.get(form, STUDENTS)
    if not as_classes:
        numbers = named | {entropy.weight: 0.0 for entropy in entropies}
    columns_N = torch.zeros_like(counts, dtype=torch.int64) if classes_N is None else classes_N
    found = _each(of_batch, networks, columns_N, numbers, shares)
    if not as_classes:
        target = None if labels is None else as_matrix(labels.detach())
        found = _with_cross_entropies(found, entropies, networks, target, named)
    return _reduced(found, weights, divisor, counting, shape_of_labels(anchor))


def _of_rows(teacher: SparseTeacher) -> SparseTeacher:
    """The rows [N,k] of a teacher with rows of any shape."""
    indices, log_probabilities, tail = teacher
    tail = tail.flatten() if isinstance(tail, Tensor) else tail
    return SparseTeacher(indices.flatten(0, -2), log_probabilities.flatten(0, -2), tail)


def _given(shares: Tensor | None) -> dict[str, Tensor]:
    return {} if shares is None else {"shares": shares}


def _each(
    of_batch: Callable[..., Losses],
    networks: Sequence[Tensor | SparseTeacher],
    columns_N: Tensor,
    numbers: Numbers,
    shares: Tensor | None,
) -> Rows:
    """What every row adds. shares: [M] or [M,N]."""
    rows, *others = networks
    assert isinstance(rows, Tensor)
    if not len(rows):  # which vmap does not map over
        empty = of_batch(rows, others, columns_N, numbers, **_given(shares))
        return Rows(rows.sum(1), rows.new_zeros(0, len(empty.parts)), empty.hits.new_zeros(0, *empty.hits.shape))
    if shares is not None:
        shares = shares.view(len(others), -1).expand(-1, len(rows))
    partners = [one if isinstance(one, Tensor) else [x for x in one if isinstance(x, Tensor)] for one in others]
    tails = [[x for x in one if isinstance(x, str)] if isinstance(one, SparseTeacher) else None for one in others]

    def of_one(anchor_K: Tensor, partners: list, column: Tensor, share_M: Tensor | None):
        alone = [
            one[None] if tail is None else SparseTeacher(*(x[None] for x in one), *tail)
            for one, tail in zip(partners, tails, strict=True)
        ]
        share = None if share_M is None else share_M[:, None]
        found = of_batch(anchor_K[None], alone, column[None], numbers, **_given(share))
        return found.total, torch.stack(found.parts), found.hits

    places = (0, 0 if partners else None, 0, None if shares is None else 1)
    return Rows(*torch.vmap(of_one, in_dims=places)(rows, partners, columns_N, shares))


def _with_cross_entropies(
    found: Rows,
    entropies: Sequence[CrossEntropy],
    networks: Sequence[Tensor | SparseTeacher],
    target_NK: Tensor | None,
    numbers: Mapping[str, Scalar],
) -> Rows:
    """Puts the cross-entropies with probabilities in the place of those with classes; without labels there are none."""
    total, parts = found.total, found.parts.clone()
    for entropy in entropies:
        if target_NK is None:
            parts[:, entropy.part] = 0
            continue
        rows = [one for one in (networks[1:] if entropy.of_partners else networks[:1]) if isinstance(one, Tensor)]
        each = [soft_cross_entropy(one, target_NK, numbers.get("ce_temperature", 1.0)) for one in rows]
        ce = torch.stack(each).mean(0)
        total = total + numbers[entropy.weight] * ce
        parts[:, entropy.part] = ce.detach()
    return Rows(total, parts, torch.zeros_like(found.hits) if target_NK is None else found.hits)


def _reduced(
    found: Rows, weights_N: Tensor, divisor: Tensor | Scalar | None, counting: Counting, shape: tuple[int, ...]
) -> Losses:
    counts = weights_N != 0
    total, parts = torch.where(counts, weights_N * found.total, 0), torch.where(counts[:, None], found.parts, 0)
    hits = torch.where(counts[:, None, None], found.hits, 0).sum(0)
    if counting.reduction == "none":
        return Losses(total.view(shape), tuple(part.view(shape) for part in parts.unbind(1)), hits)
    total, sums = total.sum(), (weights_N[:, None] * parts).sum(0)
    if divisor is not None:
        total, sums = total / divisor, sums / divisor
    return Losses(total, sums.unbind(), hits)


def soft_cross_entropy(logits_NK: Tensor, target_NK: Tensor, temperature: Scalar) -> Tensor:
    """[N]: the cross-entropy with probabilities; a class of probability 0 adds nothing."""
    return -torch.where(target_NK == 0, 0, target_NK * log_softmax(logits_NK, temperature)).sum(1)


def _named(form: str, numbers: Numbers) -> dict[str, Scalar]:
    if isinstance(numbers, Tensor):
        return {name: numbers[number.role] for name, number in NUMBERS[form].items()}
    return dict(numbers)

"""Every public loss of logits with weights of rows, reductions, counts, and labels that are absent or probabilities.

What a row adds is asked of the plain loss, of a batch of this row alone; the cross-entropy with probabilities of
PyTorch's own.
"""

import inspect
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd import losses
from fastkd.losses import (
    ABDivergenceLoss,
    DKDLoss,
    JSDLoss,
    KDLoss,
    LabelSmoothingLoss,
    MultiTeacherLoss,
    NKDLoss,
    RLDLoss,
    SFTNLoss,
    TTMLoss,
    VirtualTeacherLoss,
    ab_divergence_loss,
    ce_loss,
    dkd_loss,
    jsd_loss,
    kd_loss,
    keep_top,
    label_smoothing_loss,
    multi_teacher_loss,
    nkd_loss,
    rld_loss,
    sftn_loss,
    ttm_loss,
    virtual_teacher_loss,
)

ROWS, CLASSES = 6, 5


def made(seed: int) -> Tensor:
    return 2 * torch.randn(ROWS, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER, OTHER = made(1), made(2), made(3)
LABELS = torch.tensor([0, 3, -100, 1, 4, 2])
COUNTED = LABELS != -100
WEIGHTS = torch.tensor([0.5, 0.0, 9.0, 2.0, 1.0, 1.5], dtype=torch.float64)
MIXED = made(4).softmax(1)


class Given(NamedTuple):
    """A loss, and what it takes beside a student's logits and the labels."""

    function: object
    module: type | None
    teachers: tuple = (TEACHER,)
    options: dict = {}  # noqa: RUF012 - nobody changes it
    labels: str = "classes, probabilities, none"
    ce_weights: tuple[str, ...] = ("ce_weight",)


LOSSES = {
    "ce": Given(ce_loss, None, (), labels="classes, probabilities", ce_weights=()),
    "kd": Given(kd_loss, KDLoss, options={"temperature": 2.0}),
    "kd standardised": Given(kd_loss, KDLoss, options={"standardise": True}),
    "several teachers": Given(multi_teacher_loss, MultiTeacherLoss, ([TEACHER, OTHER],)),
    "several teachers standardised": Given(
        multi_teacher_loss, MultiTeacherLoss, ([TEACHER, OTHER],), {"standardise": True}
    ),
    "sftn": Given(
        sftn_loss,
        SFTNLoss,
        ([TEACHER, OTHER],),
        {"ce_temperature": 1.5, "teacher_weight": 0.7},
        "classes, probabilities",
        ("teacher_weight", "ce_weight"),
    ),
    "dkd": Given(dkd_loss, DKDLoss, labels="classes"),
    "dkd standardised": Given(dkd_loss, DKDLoss, options={"standardise": True}, labels="classes"),
    "nkd": Given(nkd_loss, NKDLoss, labels="classes, probabilities"),
    "rld": Given(rld_loss, RLDLoss, labels="classes"),
    "ttm": Given(ttm_loss, TTMLoss),
    "wttm": Given(ttm_loss, TTMLoss, options={"weighted": True}),
    "ab divergence": Given(ab_divergence_loss, ABDivergenceLoss),
    "ab divergence, continuous": Given(
        ab_divergence_loss, ABDivergenceLoss, options={"continuous": True, "alpha": 0.5, "beta": 0.0}
    ),
    "jsd": Given(jsd_loss, JSDLoss, options={"ce_weight": 0.3}),
    "jsd standardised": Given(jsd_loss, JSDLoss, options={"ce_weight": 0.3, "standardise": True}),
    "virtual teacher": Given(virtual_teacher_loss, VirtualTeacherLoss, (), labels="classes"),
    "softened virtual teacher": Given(virtual_teacher_loss, VirtualTeacherLoss, (), {"temperature": 20.0}, "classes"),
    "label smoothing": Given(
        label_smoothing_loss, LabelSmoothingLoss, (), labels="classes, probabilities", ce_weights=()
    ),
    "label smoothing of others": Given(
        label_smoothing_loss, LabelSmoothingLoss, (), {"spread": "others"}, "classes, probabilities", ()
    ),
}
each = pytest.mark.parametrize("name", LOSSES)


def call(given: Given, student: Tensor, labels: Tensor | None, teachers=None, **how):
    teachers = given.teachers if teachers is None else teachers
    return given.function(student, *teachers, labels, **given.options | how)


def of_rows(given: Given, chosen) -> tuple:
    """The teachers' rows of a choice."""
    return tuple([one[chosen] for one in x] if isinstance(x, list) else x[chosen] for x in given.teachers)


def one_by_one(given: Given, student: Tensor, **how) -> Tensor:
    """[N]: what every row adds, by the plain loss of a batch of one."""
    rows = [slice(i, i + 1) for i in range(len(student))]
    return torch.stack([call(given, student[i], LABELS[i], of_rows(given, i), **how).total for i in rows])


def test_every_loss_of_logits_is_here():
    functions = {given.function for given in LOSSES.values()}
    public = {getattr(losses, name) for name in losses.__all__ if name.endswith("_loss")}
    assert public - functions == {losses.linear_kd_loss, losses.linear_jsd_loss}  # tests/losses/test_linear.py
    for function in functions:
        assert {"weights", "reduction", "count"} <= set(inspect.signature(function).parameters)


@each
def test_reductions_weights_and_counts(name):
    given, leaf = LOSSES[name], STUDENT.clone().requires_grad_()
    plain = torch.where(COUNTED, one_by_one(given, leaf), 0)
    used = torch.where(COUNTED, WEIGHTS, 0)
    (pull,) = torch.autograd.grad((used * plain).sum() / used.sum(), leaf, retain_graph=True)
    none = call(given, leaf, LABELS, weights=WEIGHTS, reduction="none")
    torch.testing.assert_close(none.total, used * plain)
    mean = call(given, leaf, LABELS, weights=WEIGHTS)
    torch.testing.assert_close(mean.total, (used * plain).sum() / used.sum())
    torch.testing.assert_close(torch.autograd.grad(mean.total, leaf)[0], pull)
    torch.testing.assert_close(call(given, leaf, LABELS, reduction="sum").total, plain.sum())
    for count in (7.0, torch.tensor(7.0, dtype=torch.float64)):
        torch.testing.assert_close(call(given, leaf, LABELS, count=count).total, plain.sum() / 7)
    for one, all_of_it, part in zip(none[1:-1], mean[1:-1], call(given, leaf, LABELS)[1:-1], strict=True):
        assert one.shape == (ROWS,) and not one.requires_grad and part.ndim == 0
        torch.testing.assert_close((used * one).sum() / used.sum(), all_of_it)
    masked = torch.where(used == 0, -100, LABELS)
    assert torch.equal(mean.hits, call(given, leaf, masked).hits) and torch.equal(none.hits, mean.hits)


@each
def test_modules_take_them_too(name):
    given = LOSSES[name]
    if given.module is None:
        return
    for reduction in ("mean", "sum", "none"):
        loss = given.module(**given.options, reduction=reduction)
        found = loss(STUDENT, *given.teachers, LABELS, weights=WEIGHTS)
        expected = call(given, STUDENT, LABELS, weights=WEIGHTS, reduction=reduction)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # a module's numbers are float32
    counted = given.module(**given.options)(STUDENT, *given.teachers, LABELS, count=7.0)
    torch.testing.assert_close(counted, call(given, STUDENT, LABELS, count=7.0), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="reduction is 'mean' or 'sum' or 'none', got 'median'"):
        given.module(reduction="median")


def pixels(rows: Tensor) -> Tensor:
    return rows.view(2, 3, 1, CLASSES).movedim(-1, 1)


def tokens(rows: Tensor) -> Tensor:
    return rows.view(2, 3, CLASSES)


@each
@pytest.mark.parametrize("shaped, shape", ((tokens, (2, 3)), (pixels, (2, 3, 1))))
def test_tokens_and_pixels(name, shaped, shape):
    given = LOSSES[name]
    teachers = tuple([shaped(one) for one in x] if isinstance(x, list) else shaped(x) for x in given.teachers)
    how = {"weights": WEIGHTS.view(shape), "reduction": "none"}
    found = call(given, shaped(STUDENT), LABELS.view(shape), teachers, **how)
    expected = call(given, STUDENT, LABELS, weights=WEIGHTS, reduction="none")
    assert found.total.shape == shape
    torch.testing.assert_close(found.total.flatten(), expected.total)
    plain = call(given, shaped(STUDENT), LABELS.view(shape), teachers)
    torch.testing.assert_close(plain.total, call(given, STUDENT, LABELS).total, rtol=1e-6, atol=1e-9)
    if "probabilities" in given.labels:
        mixed = call(given, shaped(STUDENT), shaped(MIXED), teachers, **how)
        torch.testing.assert_close(
            mixed.total.flatten(), call(given, STUDENT, MIXED, **how | {"weights": WEIGHTS}).total
        )


@each
def test_rows_that_do_not_count_are_not_read(name):
    given = LOSSES[name]
    broken = torch.where((WEIGHTS == 0)[:, None], torch.nan, STUDENT).requires_grad_()
    found = call(given, broken, LABELS, weights=WEIGHTS)
    torch.testing.assert_close(found.total, call(given, STUDENT, LABELS, weights=WEIGHTS).total)
    found.total.backward()
    assert broken.grad.isfinite().all() and (broken.grad[[1, 2]] == 0).all()
    nothing = call(given, STUDENT, torch.full_like(LABELS, -100), weights=WEIGHTS)
    assert nothing.total == 0 and not nothing.hits.any()


@each
def test_labels_as_probabilities(name):
    """Where all of it is on one class it is the loss with this class; cross-entropies are PyTorch's own."""
    given = LOSSES[name]
    if "probabilities" not in given.labels:
        with pytest.raises(ValueError, match=r"labels are int64 \[6\], got torch.float64 \[6, 5\]"):
            call(given, STUDENT, MIXED)
        return
    classes = MIXED.argmax(1)
    for how in ({}, {"weights": WEIGHTS}, {"reduction": "sum"}, {"count": 7.0}, {"reduction": "none"}):
        sharp = call(given, STUDENT, F.one_hot(classes, CLASSES).double(), **how)
        torch.testing.assert_close(sharp, call(given, STUDENT, classes, **how), rtol=1e-6, atol=1e-9)
    mixed, own = call(given, STUDENT, MIXED), call(given, STUDENT, classes)
    assert torch.equal(mixed.hits, own.hits)
    by_torch = F.cross_entropy(STUDENT / given.options.get("ce_temperature", 1.0), MIXED)
    torch.testing.assert_close(mixed[1], by_torch)
    if name == "label smoothing":
        torch.testing.assert_close(mixed.total, F.cross_entropy(STUDENT, MIXED, label_smoothing=0.1))
    elif name == "label smoothing of others":
        q = 0.9 * MIXED + 0.1 * (1 - MIXED) / (CLASSES - 1)
        torch.testing.assert_close(mixed.total, F.cross_entropy(STUDENT, q))
    elif given.ce_weights:
        off = dict.fromkeys(given.ce_weights, 0.0)
        rest = call(given, STUDENT, MIXED, **off).total
        torch.testing.assert_close(rest, call(given, STUDENT, classes, **off).total, rtol=1e-6, atol=1e-9)
        signature = inspect.signature(given.function).parameters
        weights = [given.options.get(one, signature[one].default) for one in given.ce_weights]
        entropies = [mixed[1]] if name != "sftn" else [mixed.teacher_ce, mixed.branch_ce]
        added = sum(weight * ce for weight, ce in zip(weights, entropies, strict=True))
        torch.testing.assert_close(mixed.total, rest + added, rtol=1e-6, atol=1e-9)


def test_branches_have_probabilities_too():
    terms = sftn_loss(STUDENT, [TEACHER, OTHER], MIXED, ce_temperature=1.5)
    expected = (F.cross_entropy(TEACHER / 1.5, MIXED) + F.cross_entropy(OTHER / 1.5, MIXED)) / 2
    torch.testing.assert_close(terms.branch_ce, expected)


@each
def test_without_labels(name):
    given = LOSSES[name]
    options = {key: value for key, value in given.options.items() if key != "ce_weight"}
    plain = given._replace(options=options)
    if "none" not in given.labels:
        with pytest.raises(TypeError, match="labels are"):
            call(plain, STUDENT, None)
        if given.module is not None:
            with pytest.raises(TypeError, match="labels are"):
                given.module(**options)(STUDENT, *given.teachers, None)
        return
    found = call(plain, STUDENT, None)
    expected = call(plain, STUDENT, LABELS.clamp(min=0), ce_weight=0.0)
    torch.testing.assert_close(found.total, expected.total, rtol=1e-6, atol=1e-9)
    assert found.ce == 0 and not found.hits.any()
    weighted = call(plain, STUDENT, None, weights=WEIGHTS, reduction="none")
    torch.testing.assert_close(
        weighted.total, WEIGHTS * call(plain, STUDENT, LABELS.clamp(min=0), ce_weight=0.0, reduction="none").total
    )
    with pytest.raises(ValueError, match=r"ce_weight is 0 where there are no labels, got 0\.5"):
        call(plain, STUDENT, None, ce_weight=0.5)
    module = given.module(**options, ce_weight=0.5)
    with pytest.raises(ValueError, match=r"ce_weight is 0 where there are no labels, got 0\.5"):
        module(STUDENT, *given.teachers, None)
    module.ce_weight = 0.0
    torch.testing.assert_close(module(STUDENT, *given.teachers).total, found.total, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["dkd", *(pytest.param(name, marks=pytest.mark.slow) for name in LOSSES if name != "dkd")]
)
def test_they_trace_whole(name):
    given = LOSSES[name]

    torch._dynamo.reset()  # the function below is one code object to it, which is compiled so many times and no more

    def weighed(student, labels, weights):
        return call(given, student, labels, weights=weights, reduction="none").total

    traced = torch.compile(weighed, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(STUDENT, LABELS, WEIGHTS), weighed(STUDENT, LABELS, WEIGHTS))


def test_kept_classes_of_a_teacher():
    teacher, labels = keep_top(TEACHER, 3, temperature=4.0), LABELS.clamp(min=0)
    for function, given in ((dkd_loss, teacher), (multi_teacher_loss, [teacher, keep_top(OTHER, 2, temperature=4.0)])):
        each_alone = torch.stack(
            [function(STUDENT[i : i + 1], _row(given, i), labels[i : i + 1]).total for i in range(ROWS)]
        )
        torch.testing.assert_close(function(STUDENT, given, labels, reduction="none").total, each_alone)
        total = function(STUDENT, given, labels, weights=WEIGHTS).total
        torch.testing.assert_close(total, (WEIGHTS * each_alone).sum() / WEIGHTS.sum())


def _row(given, i):
    if isinstance(given, list):
        return [_row(one, i) for one in given]
    return type(given)(*(x[i : i + 1] for x in given))


def test_teachers_have_weights_of_rows_beside_the_rows_own():
    shares = torch.rand(2, ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    loss = MultiTeacherLoss(ce_weight=0.0)
    found = loss(STUDENT, [TEACHER, OTHER], LABELS, shares, weights=WEIGHTS).total
    used = torch.where(COUNTED, WEIGHTS, 0)
    parts = [
        share * one_by_one(Given(kd_loss, KDLoss, (teacher,)), STUDENT, ce_weight=0.0)
        for share, teacher in zip(shares, (TEACHER, OTHER), strict=True)
    ]
    torch.testing.assert_close(found, (used * sum(parts)).sum() / used.sum(), rtol=1e-6, atol=1e-9)


def test_an_empty_batch_has_no_rows():
    empty, labels = torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)
    for name in ("dkd", "sftn", "label smoothing"):
        given = LOSSES[name]
        teachers = tuple([empty, empty] if isinstance(x, list) else empty for x in given.teachers)
        assert call(given, empty, labels, teachers, reduction="sum").total == 0
        assert call(given, empty, labels, teachers, reduction="none").total.shape == (0,)

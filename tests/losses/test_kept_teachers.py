"""Every loss that compares a student with a teacher, from some classes of the teacher's rows, against its definition.

The definitions are written in probabilities, in float64, out of the rows that both networks have on the kept classes
and the rest.
"""

from typing import NamedTuple

import pytest
import torch
from helpers.places import ROOT
from torch import Tensor

from fastkd import losses
from fastkd.losses import (
    DISTLoss,
    SparseTeacher,
    ab_divergence_loss,
    dkd_loss,
    jsd_loss,
    kd_loss,
    keep_draws,
    keep_top,
    linear_jsd_loss,
    linear_kd_loss,
    multi_teacher_loss,
    nkd_loss,
    rld_loss,
    sftn_loss,
    ttm_loss,
)

N, K = 5, 9
STUDENT, TEACHER = 2 * torch.randn(2, N, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, 8, 6, 2])
TAILS = ("lumped", "renormalised", "sampled")


class Rows(NamedTuple):
    """One sample's probabilities on the classes that are compared, as the loss's temperature has them."""

    p: Tensor
    q: Tensor
    label: int
    """The place of the label, whose p is 0 where it is not kept."""
    p_one: Tensor
    """The teacher's at temperature 1."""
    q_one: Tensor


def without(row: Tensor, place: int) -> Tensor:
    return torch.cat([row[:place], row[place + 1 :]]) / (1 - row[place])


def kl(p: Tensor, q: Tensor) -> Tensor:
    return sum(a * (a / b).log() for a, b in zip(p, q, strict=True) if a > 0)


def binary(row: Tensor, place: int) -> Tensor:
    return torch.stack([row[place], 1 - row[place]])


def dkd(rows: Rows) -> Tensor:
    target = kl(binary(rows.p, rows.label), binary(rows.q, rows.label))
    return 4 * (0.5 * target + 3 * kl(without(rows.p, rows.label), without(rows.q, rows.label)))


def nkd(rows: Rows) -> Tensor:
    p, q = without(rows.p, rows.label), without(rows.q, rows.label)
    others = -sum(a * b.log() for a, b in zip(p, q, strict=True) if a > 0)
    return 1.3 * 4 * others - 0.5 * rows.p_one[rows.label] * rows.q_one[rows.label].log()


def alpha_beta(rows: Rows) -> Tensor:
    a, b, (p, q) = 0.8, 0.3, rows[:2]
    return -2 * (p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)).sum() / (a * b)


class Form(NamedTuple):
    """A loss at some numbers, without its cross-entropy, and what it is of a sample."""

    function: object
    numbers: dict
    definition: object
    temperature: float = 2.0
    """Of the teacher that is kept."""
    of_student: float = 2.0


FORMS = {
    "kd": Form(kd_loss, {"temperature": 2.0, "kl_weight": 0.7}, lambda rows: 0.7 * 4 * kl(rows.p, rows.q)),
    "several": Form(
        lambda s, t, y, **numbers: multi_teacher_loss(
            s, t if isinstance(t, Tensor) and t.ndim > s.ndim else [t], y, **numbers
        ),
        {"temperature": 2.0, "kl_weight": 0.7},
        lambda rows: 0.7 * 4 * kl(rows.p, rows.q),
    ),
    "dkd": Form(dkd_loss, {"temperature": 2.0, "alpha": 0.5, "beta": 3.0}, dkd),
    "nkd": Form(nkd_loss, {"temperature": 2.0, "alpha": 0.5, "gamma": 1.3}, nkd),
    "ttm": Form(ttm_loss, {"exponent": 0.25, "kl_weight": 3.0}, lambda rows: 3 * kl(rows.p, rows.q), 4.0, 1.0),
    "wttm": Form(
        ttm_loss,
        {"exponent": 0.25, "kl_weight": 3.0, "weighted": True},
        lambda rows: 3 * (rows.p_one**0.25).sum() * kl(rows.p, rows.q),
        4.0,
        1.0,
    ),
    "ab": Form(ab_divergence_loss, {"temperature": 2.0, "alpha": 0.8, "beta": 0.3, "weight": 2.0}, alpha_beta),
    "jsd": Form(
        jsd_loss,
        {"temperature": 2.0, "beta": 0.25},
        lambda rows: (
            0.25 * kl(rows.p, 0.25 * rows.p + 0.75 * rows.q) + 0.75 * kl(rows.q, 0.25 * rows.p + 0.75 * rows.q)
        ),
    ),
}
OF_THE_LABEL = ("dkd", "nkd")
each = pytest.mark.parametrize("name", FORMS)


def found(form: Form, teacher, student: Tensor = STUDENT, labels: Tensor = LABELS, **how):
    """(loss, gradient)."""
    leaf = student.clone().requires_grad_()
    loss = form.function(leaf, teacher, labels, ce_weight=0.0, **form.numbers | how).total
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


def with_label(k: int) -> Tensor:
    """[N,k]: the greatest classes, the label among them, in no order."""
    return keep_top(TEACHER + 100 * torch.nn.functional.one_hot(LABELS, K), k).indices.flip(1)


def kept(indices: Tensor, temperature: float, tail: str) -> SparseTeacher:
    log_p = (TEACHER / temperature).log_softmax(1)
    rest = log_p.scatter(1, indices, -torch.inf).logsumexp(1) if tail == "lumped" else tail
    return SparseTeacher(indices, log_p.gather(1, indices), rest)


@each
@pytest.mark.parametrize("tail", (*TAILS[:2], "lumped by its word"))
def test_all_classes_in_any_order_are_the_whole_teacher(name, tail):
    """What rounding leaves of 1, where nobody gave the tail, is no class."""
    form, by_word = FORMS[name], tail == "lumped by its word"
    indices = torch.stack([torch.randperm(K, generator=torch.Generator().manual_seed(i)) for i in range(N)])
    sparse = kept(indices, form.temperature, "lumped" if by_word else tail)
    sparse = sparse._replace(tail="lumped") if by_word else sparse
    torch.testing.assert_close(found(form, sparse), found(form, TEACHER), rtol=1e-9, atol=1e-12)


def lumped_rows(form: Form, indices: Tensor, leaf: Tensor, i: int) -> Rows:
    """The kept classes, a label that is not among them, and one class for the others."""
    classes, label = indices[i].tolist(), LABELS[i].item()
    named = classes if label in classes else [*classes, label]
    p, q = (z[i].div(tau).softmax(0) for z, tau in ((TEACHER, form.temperature), (leaf, form.of_student)))
    rest = 1 - p[classes].sum()
    own = p[named] * torch.tensor([float(k in classes) for k in named])
    equal = K - len(classes)
    powers = own**form.temperature
    p_one = torch.cat([powers, (rest / equal)[None].pow(form.temperature).expand(equal)])
    q_one = leaf[i].softmax(0)
    return Rows(
        torch.cat([own, rest[None]]),
        torch.cat([q[named], 1 - q[named].sum()[None]]),
        named.index(label),
        p_one / p_one.sum(),
        q_one[named],
    )


@each
@pytest.mark.parametrize("has_label", (True, False))
def test_lumped_is_the_definition_with_one_class_more(name, has_label):
    form = FORMS[name]
    indices = with_label(4)
    if not has_label:  # each row loses its label where that is a part of the loss
        others = TEACHER.scatter(1, LABELS[:, None], -torch.inf)
        indices = others.topk(4, 1).indices if name in OF_THE_LABEL else TEACHER.topk(4, 1).indices
    leaf = STUDENT.clone().requires_grad_()
    expected = torch.stack([form.definition(_compared(name, form, indices, leaf, i)) for i in range(N)]).mean()
    value, gradient = found(form, kept(indices, form.temperature, "lumped"))
    torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(expected, leaf)[0], rtol=1e-7, atol=1e-9
    )  # 1 - p is rounded


def _compared(name: str, form: Form, indices: Tensor, leaf: Tensor, i: int) -> Rows:
    """Only a loss of the label gives it a place of its own."""
    rows = lumped_rows(form, indices, leaf, i)
    if name in OF_THE_LABEL or LABELS[i].item() in indices[i].tolist():
        return rows
    q = torch.cat([rows.q[:-2], rows.q[-2:].sum()[None]])
    return rows._replace(p=torch.cat([rows.p[:-2], rows.p[-1:]]), q=q)


@each
def test_renormalised_is_the_loss_of_the_kept_classes_alone(name):
    form = FORMS[name]
    indices = with_label(4)
    places = (indices == LABELS[:, None]).long().argmax(1)
    alone = STUDENT.gather(1, indices)
    value, pull = found(form, TEACHER.gather(1, indices), alone, places)
    expected = value, torch.zeros_like(STUDENT).scatter(1, indices, pull)
    torch.testing.assert_close(found(form, kept(indices, form.temperature, "renormalised")), expected)


@pytest.mark.parametrize("name", OF_THE_LABEL)
def test_a_label_that_renormalised_classes_lack_has_no_target_term(name):
    form = FORMS[name]
    others = TEACHER.scatter(1, LABELS[:, None], -torch.inf)
    sparse = kept(others.topk(4, 1).indices, 2.0, "renormalised")
    value, gradient = found(form, sparse)
    rest = {"dkd": {"alpha": 0.0}, "nkd": {"alpha": 0.0}}[name]
    torch.testing.assert_close((value, gradient), found(form, sparse, **rest))
    p, q = (z.gather(1, sparse.indices).div(2).log_softmax(1) for z in (TEACHER, STUDENT))
    by_hand = (p.exp() * (p - q)).sum(1) * 3 if name == "dkd" else -(p.exp() * q).sum(1) * 1.3
    torch.testing.assert_close(value, 4 * by_hand.mean())
    one = SparseTeacher(LABELS[:, None], torch.zeros(N, 1, dtype=torch.float64), "renormalised")
    nothing, gradient = found(form, one)
    assert nothing == 0 and not gradient.any()


@pytest.mark.parametrize("name", ("kd", "several", "ttm"))
def test_draws_are_weights(name):
    """Σ w (log w − log q), which is Σ w times KL at weights that do not sum to 1."""
    form = FORMS[name]
    draws = torch.multinomial(TEACHER.softmax(1), 6, replacement=True, generator=torch.Generator().manual_seed(0))
    sparse = keep_draws(draws, torch.rand(N, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    assert (sparse.indices < 0).any()
    leaf = STUDENT.clone().requires_grad_()
    log_q, expected = (leaf / form.of_student).log_softmax(1), 0.0
    for i in range(N):
        for k, log_w in zip(sparse.indices[i].tolist(), sparse.log_probabilities[i], strict=True):
            expected = expected + (log_w.exp() * (log_w - log_q[i, k]) if k >= 0 else 0)
    expected = expected * (3.0 if name == "ttm" else 0.7 * 4) / N
    value, gradient = found(form, sparse)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0])


@each
@pytest.mark.parametrize("tail", TAILS[:2])
def test_padding_adds_nothing(name, tail):
    form = FORMS[name]
    sparse = kept(with_label(4), form.temperature, tail)
    first = torch.full((N, 1), -1)
    padded = sparse._replace(
        indices=torch.cat([first, sparse.indices, first], 1),
        log_probabilities=torch.nn.functional.pad(sparse.log_probabilities, (1, 1), value=7.0),
    )
    torch.testing.assert_close(found(form, padded), found(form, sparse))


def changed(teacher: SparseTeacher, change) -> SparseTeacher:
    """The teacher with its tensors in another shape."""
    return SparseTeacher(*(x if isinstance(x, str) else change(x) for x in teacher))


@each
def test_tokens_pixels_weights_and_reductions(name):
    form = FORMS[name]
    weights = torch.tensor([0.5, 0.0, 2.0, 1.0, 1.5], dtype=torch.float64)
    for tail in TAILS[:2]:
        sparse = kept(with_label(4), form.temperature, tail)
        alone = [
            found(form, changed(sparse, lambda x, i=i: x[i : i + 1]), STUDENT[i : i + 1], LABELS[i : i + 1])[0]
            for i in range(N)
        ]
        alone = torch.stack(alone)
        torch.testing.assert_close(found(form, sparse, weights=weights, reduction="none")[0], weights * alone)
        torch.testing.assert_close(found(form, sparse, weights=weights)[0], (weights * alone).sum() / weights.sum())
        tokens = changed(sparse, lambda x: x.unflatten(0, (1, N)))
        value, gradient = found(form, tokens, STUDENT[None], LABELS[None])
        torch.testing.assert_close((value, gradient[0]), found(form, sparse))
        pixels = changed(sparse, lambda x: x.unflatten(0, (1, 1, N)))
        value, gradient = found(form, pixels, STUDENT.T[None, :, None], LABELS[None, None])
        torch.testing.assert_close((value, gradient[0, :, 0].T), found(form, sparse))


@each
@pytest.mark.parametrize("tail", TAILS[:2])
@pytest.mark.parametrize("scale", (1e-3, 1e4))
def test_extreme_logits_are_finite_in_float32(name, tail, scale):
    form = FORMS[name]
    student, teacher = (scale * z.float() for z in (STUDENT, TEACHER))
    sparse = keep_top(teacher, 3, temperature=form.temperature, tail=tail)
    value, gradient = found(form, sparse, student)
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.slow
@each
def test_they_trace_whole(name):
    form = FORMS[name]
    torch._dynamo.reset()

    def loss(student, indices, log_probabilities, tail):
        teacher = SparseTeacher(indices, log_probabilities, tail)
        return form.function(student, teacher, LABELS, ce_weight=0.0, **form.numbers).total

    given = STUDENT, *kept(with_label(4), form.temperature, "lumped")
    torch.testing.assert_close(torch.compile(loss, backend="eager", fullgraph=True)(*given), loss(*given))


def test_what_a_weighted_transform_lacks_is_small():
    """U from the greatest classes at temperature 10 is that of all of them, where these hold most at temperature 1."""
    form = Form(ttm_loss, {"exponent": 0.1, "kl_weight": 1.0, "weighted": True}, None)
    plain = form._replace(numbers=form.numbers | {"weighted": False})
    sparse = keep_top(TEACHER, 5, temperature=10.0)
    own = found(form, sparse, reduction="none")[0] / found(plain, sparse, reduction="none")[0]
    torch.testing.assert_close(own, TEACHER.softmax(1).pow(0.1).sum(1), rtol=5e-3, atol=0)


def test_an_exponent_of_zero_is_the_uniform_teacher():
    uniform = SparseTeacher(torch.arange(K).expand(N, K), torch.full((N, K), 1 / K, dtype=torch.float64).log())
    for weighted in (False, True):
        form = Form(ttm_loss, {"exponent": 0.0, "kl_weight": 1.0, "weighted": weighted}, None)
        torch.testing.assert_close(found(form, uniform), found(form, TEACHER))


SPARSE = keep_top(TEACHER, 3)
REFUSALS = {
    "rld": (lambda: rld_loss(STUDENT, SPARSE, LABELS), "compares the classes that the teacher gives less than the"),
    "standardised": (lambda: dkd_loss(STUDENT, SPARSE, LABELS, standardise=True), "mean and deviation of a whole row"),
    "dist": (lambda: DISTLoss()(STUDENT, SPARSE), "DIST correlates each class over the rows"),
    "sftn": (lambda: sftn_loss(SPARSE, [STUDENT], LABELS), "the teacher learns, too: it is logits"),
    "draws": (
        lambda: nkd_loss(STUDENT, SPARSE._replace(tail="sampled"), LABELS),
        "not linear in the teacher's probabilities",
    ),
    "weighted draws": (
        lambda: ttm_loss(STUDENT, SPARSE._replace(tail="sampled"), LABELS, weighted=True),
        "not linear in the teacher's probabilities",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_takes_none_says_why_in_a_line(name):
    call, words = REFUSALS[name]
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


CALLS = {
    "kd_loss": lambda teacher: kd_loss(STUDENT, teacher, LABELS),
    "kd_loss, reverse": lambda teacher: kd_loss(STUDENT, teacher, LABELS, divergence="reverse"),
    "jsd_loss": lambda teacher: jsd_loss(STUDENT, teacher, LABELS),
    "linear_kd_loss": lambda teacher: linear_kd_loss(STUDENT, torch.eye(K).double(), teacher, LABELS),
    "linear_jsd_loss": lambda teacher: linear_jsd_loss(STUDENT, torch.eye(K).double(), teacher, LABELS),
    "multi_teacher_loss": lambda teacher: multi_teacher_loss(STUDENT, [teacher], LABELS),
    "dkd_loss": lambda teacher: dkd_loss(STUDENT, teacher, LABELS),
    "nkd_loss": lambda teacher: nkd_loss(STUDENT, teacher, LABELS),
    "ttm_loss": lambda teacher: ttm_loss(STUDENT, teacher, LABELS),
    "ttm_loss, weighted": lambda teacher: ttm_loss(STUDENT, teacher, LABELS, weighted=True),
    "ab_divergence_loss": lambda teacher: ab_divergence_loss(STUDENT, teacher, LABELS),
    "rld_loss": lambda teacher: rld_loss(STUDENT, teacher, LABELS),
    "sftn_loss": lambda teacher: sftn_loss(teacher, [STUDENT], LABELS),
    "DISTLoss": lambda teacher: DISTLoss()(STUDENT, teacher),
}
WITHOUT_TEACHER = {"ce_loss", "label_smoothing_loss", "virtual_teacher_loss"}


def documented() -> dict[str, list[bool]]:
    """{a loss: which tails it takes}, of the table in docs/DROP_IN.md."""
    text = (ROOT / "docs" / "DROP_IN.md").read_text().partition("| loss | lumped | renormalised | sampled |")[2]
    rows = [line.strip("|").split("|") for line in text.partition("\n\n")[0].splitlines()[2:]]
    return {name.strip().replace("`", ""): [cell.strip() == "yes" for cell in cells] for name, *cells in rows}


def test_the_table_of_the_docs_is_what_is_taken():
    public = {name for name in losses.__all__ if name.endswith("_loss")} | {"DISTLoss"}
    assert {name.partition(",")[0] for name in CALLS} == public - WITHOUT_TEACHER
    table = documented()
    assert table.keys() == CALLS.keys()
    for name, call in CALLS.items():
        for tail, taken in zip(TAILS, table[name], strict=True):
            teacher = SPARSE if tail == "lumped" else SPARSE._replace(tail=tail)
            if taken:
                assert call(teacher).total.isfinite()
            else:
                with pytest.raises(ValueError):
                    call(teacher)

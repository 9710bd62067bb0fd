"""Teachers that are some classes of a row: kept ones with a tail, and draws."""

import pytest
import torch

from fastkd.losses import KDLoss, SparseTeacher, jsd_loss, kd_loss, keep_draws, keep_top

STUDENT, TEACHER = torch.randn(2, 4, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
LABELS = torch.tensor([0, 3, 7, 19])


def with_gradient(loss, teacher, **numbers):
    leaf = STUDENT.clone().requires_grad_()
    terms = loss(leaf, teacher, LABELS, **numbers)
    terms.total.backward()
    return *(part.detach() for part in terms), leaf.grad


@pytest.mark.parametrize("loss", (kd_loss, jsd_loss))
@pytest.mark.parametrize("tail", ("lumped", "renormalised"))
def test_all_classes_kept_are_the_whole_teacher(loss, tail):
    """Exactly, in float64."""
    kept = keep_top(TEACHER, 20, temperature=2.0, tail=tail)
    found, expected = (with_gradient(loss, teacher, temperature=2.0) for teacher in (kept, TEACHER))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", (1.0, 3.0))
def test_a_lumped_tail_is_one_more_class(temperature):
    """What `keep_top` gives is the whole teacher after its last classes were put together, and so is the student."""
    kept = keep_top(TEACHER, 5, temperature=temperature)
    p, q = ((z / temperature).softmax(1) for z in (TEACHER, STUDENT))
    top = p.topk(5, 1).indices

    def lumped(x):
        inside = x.gather(1, top)
        return torch.cat([inside, 1 - inside.sum(1, keepdim=True)], 1)

    expected = (lumped(p) * (lumped(p) / lumped(q)).log()).sum(1).mean() * temperature**2
    torch.testing.assert_close(kd_loss(STUDENT, kept, temperature=temperature).kl, expected)
    unknown = kept._replace(tail="lumped")
    torch.testing.assert_close(kd_loss(STUDENT, unknown, temperature=temperature).kl, expected)


def test_more_kept_classes_come_closer_from_below():
    """Putting classes together can only hide a divergence."""
    whole = kd_loss(STUDENT, TEACHER, temperature=1.0).kl
    found = [kd_loss(STUDENT, keep_top(TEACHER, k), temperature=1.0).kl for k in (1, 4, 10, 19, 20)]
    assert all(a <= b + 1e-12 for a, b in zip(found, [*found[1:], whole], strict=True))
    torch.testing.assert_close(found[-1], whole)


def test_draws_give_the_whole_teachers_gradient_on_average():
    """Random sampling KD: where keeping the top is biased, drawing is not."""
    p = TEACHER.softmax(1)
    draws = torch.multinomial(p, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    numbers = {"temperature": 1.0, "ce_weight": 0.0}
    drawn = with_gradient(kd_loss, keep_draws(draws), **numbers)[-1]
    whole = with_gradient(kd_loss, TEACHER, **numbers)[-1]
    kept = with_gradient(kd_loss, keep_top(TEACHER, 5, tail="renormalised"), **numbers)[-1]
    assert (drawn - whole).norm() < 0.02 * whole.norm() < 0.5 * (kept - whole).norm()


def test_what_was_drawn_twice_is_one_class_with_both_weights():
    teacher = keep_draws(torch.tensor([[3, 1, 3, 0], [2, 2, 2, 2]]))
    assert teacher.indices.tolist() == [[0, 1, 3, -1], [2, -1, -1, -1]]
    torch.testing.assert_close(teacher.log_probabilities[0, :3].exp(), torch.tensor([0.25, 0.25, 0.5]))
    assert teacher.log_probabilities[1, 0] == 0 and teacher.tail == "sampled"
    weighted = keep_draws(torch.tensor([[3, 1, 3]]), torch.tensor([[0.5, 0.2, 0.1]]))
    torch.testing.assert_close(weighted.log_probabilities[0, :2].exp(), torch.tensor([0.2, 0.6]))


@pytest.mark.parametrize("shape, axis", (((2, 2, 20), 2), ((2, 20, 1, 2), 1)))
def test_rows_are_those_of_the_labels_shape(shape, axis):
    rows = [shape[0], *(size for i, size in enumerate(shape) if i not in (0, axis))]
    student = STUDENT.view(*rows, 20).movedim(-1, axis)
    kept = keep_top(TEACHER.view(*rows, 20), 5)
    terms = kd_loss(student, kept, LABELS.view(rows), temperature=1.0)
    torch.testing.assert_close(terms, kd_loss(STUDENT, keep_top(TEACHER, 5), LABELS, temperature=1.0, reduction="mean"))


def test_a_module_takes_one_too():
    kept = keep_top(TEACHER.float(), 5, temperature=4.0)
    torch.testing.assert_close(KDLoss()(STUDENT.float(), kept, LABELS), kd_loss(STUDENT.float(), kept, LABELS))


def test_short_integers_and_half_precision_are_what_a_store_holds():
    kept = keep_top(TEACHER, 5)
    short = SparseTeacher(kept.indices.to(torch.int16), kept.log_probabilities.half(), kept.tail.half())
    torch.testing.assert_close(
        kd_loss(STUDENT, short, temperature=1.0).kl, kd_loss(STUDENT, kept, temperature=1.0).kl, rtol=1e-2, atol=1e-3
    )

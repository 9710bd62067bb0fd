"""KL, CKA and agreement against the golden vectors and by hand."""

import pytest
import torch
from helpers.golden import Case

from fastkd.networks.base import Output
from fastkd.training.similarity import LinearCKA, Similarity


@pytest.mark.parametrize("batch", (12, 5, 1))
@pytest.mark.parametrize("name", ("random", "invariant", "related"))
def test_cka_equals_the_golden_vectors_from_any_batches(name, batch):
    case, cka = Case("cka", name), LinearCKA()
    for x, y in zip(case["in/X"].split(batch), case["in/Y"].split(batch), strict=True):
        cka.add(x, y)
    torch.testing.assert_close(cka.value(), case["loss/cka"], rtol=1e-9, atol=0)


def output(logits, embedding):
    nothing = torch.empty(0)
    return Output(logits, nothing, (), nothing, embedding)


def test_kl_and_agreement():
    teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    student = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.4]]))
    measured = Similarity()
    measured.add(output(teacher[:1], torch.randn(1, 3)), output(student[:1], torch.randn(1, 4)))
    measured.add(output(teacher[1:], torch.randn(1, 3)), output(student[1:], torch.randn(1, 4)))
    p, q = teacher.softmax(1), student.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean().item()
    found = measured.read()
    assert found["kl"] == pytest.approx(expected)
    assert found["agreement"] == 0.5  # the first row's tie goes to class 0, the student says 1


def test_a_network_is_like_itself():
    logits, embedding = torch.randn(20, 5), torch.randn(20, 8)
    measured = Similarity()
    measured.add(output(logits, embedding), output(logits, embedding))
    assert measured.read() == pytest.approx({"kl": 0.0, "cka": 1.0, "agreement": 1.0}, abs=1e-9)

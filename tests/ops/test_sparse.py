"""What is kept of a teacher's logits."""

import pytest
import torch

from fastkd.ops.sparse import largest_logits, normalised, tail_of

B, K, TEMPERATURE = 6, 12, 4.0


def case():
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(B, K, generator=generator, dtype=torch.float64), torch.randint(K, (B,), generator=generator)


def kept(teacher, labels, k):
    indices = largest_logits(teacher, labels, k)
    return normalised(indices, teacher.gather(1, indices), tail_of(teacher, indices, TEMPERATURE), TEMPERATURE)


def test_the_label_is_always_among_it():
    teacher, labels = case()
    indices = largest_logits(teacher, labels, 3)
    assert (indices == labels[:, None]).any(1).all()
    for row, own, label in zip(teacher, indices, labels, strict=True):
        largest = set(row.topk(3).indices.tolist())
        assert set(own.tolist()) - {label.item()} <= largest and len(set(own.tolist())) == 3


@pytest.mark.parametrize("k", (1, 3, K))
def test_it_is_a_distribution(k):
    teacher, labels = case()
    found = kept(teacher, labels, k)
    total = found.log_probabilities.exp().sum(1) + found.tail.exp()
    torch.testing.assert_close(total, torch.ones_like(total))
    whole = (teacher / TEMPERATURE).log_softmax(1).gather(1, found.indices)
    torch.testing.assert_close(found.log_probabilities, whole)

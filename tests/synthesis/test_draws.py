"""What a synthesis draws."""

import torch

from fastkd.synthesis.draws import normal, seeded


def test_a_vector_is_a_function_of_seed_index_and_stream():
    index = torch.arange(6)
    found = normal(3, index, 10)
    assert torch.equal(normal(3, index[2:4], 10), found[2:4])
    for other in (normal(4, index, 10), normal(3, index, 10, stream=1), normal(3, index + 6, 10)):
        assert not torch.isin(other, found).any()


def test_they_are_normal():
    found = normal(0, torch.arange(20_000), 5).double()
    assert found.shape == (20_000, 5)
    assert abs(found.mean()) < 0.015 and abs(found.std() - 1) < 0.01
    assert abs((found < -1.6449).double().mean() - 0.05) < 0.003 and abs((found**4).mean() - 3) < 0.1
    correlated = torch.corrcoef(found.T) - torch.eye(5)
    assert correlated.abs().max() < 0.03


def test_places_are_told_apart():
    drawn = {seeded(*place).initial_seed() for place in [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1)]}
    assert len(drawn) == 4

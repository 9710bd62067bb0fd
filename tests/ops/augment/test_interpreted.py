"""The interpreted kernel against the reference: the same bytes, whatever is asked for."""

import pytest
import torch
from helpers.augment_cases import SETTINGS, make_inputs

from fastkd.ops.augment import augment, kernel, reference


@pytest.fixture(autouse=True)
def forced(monkeypatch):
    monkeypatch.setenv("FASTKD_OPS", "augment=triton")


def both(settings, **options):
    inputs = make_inputs(settings, **options)
    return augment(inputs), reference.augment(inputs)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_bytes(settings):
    ours, expected = both(settings)
    assert ours.shape == expected.shape and torch.equal(ours, expected)


@pytest.mark.parametrize("size, batch", (((32, 32), 2), ((5, 12), 3), ((1, 1), 4), ((40, 33), 1)))
def test_sizes_that_do_not_fill_a_block(size, batch):
    settings = {"padding": 4, "flip": True, "quarter_turns": False, "views": 2, "rotation": 15.0}
    assert torch.equal(*both(settings, size=size, batch=batch))


def test_blocks_do_not_matter(monkeypatch):
    settings = SETTINGS[-1]
    whole, _ = both(settings)
    monkeypatch.setattr(kernel, "BLOCK", 64)
    assert torch.equal(whole, both(settings)[0])


def test_words_above_31_bits():
    settings = {"padding": 3, "flip": True, "quarter_turns": False, "views": 1, "rotation": 0.0}
    for key in ((0xFFFFFFFF, 0), (0, 0xFFFFFFFF), (1, 1), (0, 0)):
        assert torch.equal(*both(settings, key=key))


def test_normalised():
    settings = {"padding": 2, "flip": True, "quarter_turns": False, "views": 1, "rotation": 0.0}
    scale, shift = torch.tensor([0.01, 0.02, 0.03]), torch.tensor([-2.0, -1.5, -1.0])
    inputs = make_inputs(settings)._replace(scale_C=scale, shift_C=shift)
    torch.testing.assert_close(augment(inputs), reference.augment(inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels_last", (False, True))
def test_layout(channels_last):
    inputs = make_inputs(SETTINGS[-1])
    found = augment(inputs, channels_last=channels_last)
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert all(view.is_contiguous(memory_format=order) for view in found)
    assert torch.equal(found, reference.augment(inputs))


def test_empty_batch():
    assert augment(make_inputs(SETTINGS[-1], batch=0)).shape == (4, 0, 3, 9, 9)

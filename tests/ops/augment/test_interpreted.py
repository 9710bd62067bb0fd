"""The interpreted kernel against the reference: the same bytes, whatever is asked for."""

import pytest
import torch
from helpers.augment_cases import SETTINGS, arguments

from fastkd.ops.augment import augment, kernel, reference


@pytest.fixture(autouse=True)
def forced(monkeypatch):
    monkeypatch.setenv("FASTKD_OPS", "augment=triton")


def both(settings, dtype=torch.float32, **options):
    tensors, how = arguments(settings, **options)
    return augment(*tensors, **how, dtype=dtype), reference.augment(*tensors, **how, dtype=dtype)


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
    tensors, how = arguments(settings)
    for key in ((0xFFFFFFFF, 0), (0, 0xFFFFFFFF), (1, 1), (0, 0)):
        how["key"] = key
        assert torch.equal(augment(*tensors, **how), reference.augment(*tensors, **how))


def test_normalised():
    settings = {"padding": 2, "flip": True, "quarter_turns": False, "views": 1, "rotation": 0.0}
    tensors, how = arguments(settings)
    tensors[5:] = [torch.tensor([0.01, 0.02, 0.03]), torch.tensor([-2.0, -1.5, -1.0])]
    torch.testing.assert_close(augment(*tensors, **how), reference.augment(*tensors, **how), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels_last", (False, True))
def test_layout(channels_last):
    tensors, how = arguments(SETTINGS[-1])
    found = augment(*tensors, **how, channels_last=channels_last)
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert all(view.is_contiguous(memory_format=order) for view in found)
    assert torch.equal(found, reference.augment(*tensors, **how))


def test_empty_batch():
    tensors, how = arguments(SETTINGS[-1], batch=0)
    assert augment(*tensors, **how).shape == (4, 0, 3, 9, 9)


def test_registered_as_an_operation():
    from fastkd.ops.augment.operation import augment as operation

    tensors, how = arguments(SETTINGS[3])
    torch.library.opcheck(
        operation, (*tensors, *how["key"], how["padding"], how["flip"], how["quarter_turns"], torch.float32)
    )

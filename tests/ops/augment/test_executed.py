"""The compiled augmentation kernel, executed: the bytes of the reference, and nothing to be found in it."""

import pytest
import torch
from helpers.augment_cases import SETTINGS, make_inputs
from helpers.executed import executing

from fastkd.ops.augment import augment, kernel, reference

pytestmark = pytest.mark.ptx


def check(settings, architecture: str, **options) -> None:
    inputs = make_inputs(settings, **options)
    with executing(architecture):
        found = augment(inputs)
    assert torch.equal(found, reference.augment(inputs))


@pytest.mark.parametrize(("place", "architecture"), [(-1, "sm_80"), (13, "sm_90"), (4, "sm_100")])
def test_the_same_bytes(place, architecture):
    check(SETTINGS[place], architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ("sm_80", "sm_90", "sm_100"))
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_bytes_whatever_is_asked_for(settings, architecture):
    for dtype in (torch.float32, torch.bfloat16):
        check(settings, architecture, dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("size, batch", (((32, 32), 2), ((5, 12), 3), ((1, 1), 4), ((40, 33), 1)))
def test_sizes_that_do_not_fill_a_block(size, batch):
    settings = {"padding": 4, "flip": True, "quarter_turns": False, "views": 2, "rotation": 15.0}
    check(settings, "sm_90", size=size, batch=batch)


def test_normalised_and_channels_last():
    inputs = make_inputs(SETTINGS[-1], dtype=torch.bfloat16)
    inputs = inputs._replace(scale_C=torch.tensor([0.01, 0.02, 0.03]), shift_C=torch.tensor([-2.0, -1.5, -1.0]))
    with executing("sm_90") as gpu:
        found = augment(inputs, channels_last=True)
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in found)
    torch.testing.assert_close(found, reference.augment(inputs), rtol=2**-7, atol=1e-6)
    (counts,) = (result.counts for result in gpu.launches)
    assert counts.written.unique_bytes == found.numel() * 2 == counts.written.bytes


def test_blocks_do_not_matter(monkeypatch):
    inputs, found = make_inputs(SETTINGS[-1]), []
    for block in (1024, 64):
        monkeypatch.setattr(kernel, "BLOCK", block)
        with executing("sm_90"):
            found.append(augment(inputs))
    assert torch.equal(*found)

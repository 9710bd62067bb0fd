"""Copies of trees of tensors: equal to a file's last byte, of one instant, in buffers that are kept."""

import io

import pytest
import torch
from torch import nn

from fastkd.support.host_copies import HostCopies
from fastkd.support.states import on_host


def saved(tree):
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    return buffer.getvalue()


def made():
    """Storages that are shared, seen in part, in another layout, empty, and of other types."""
    flat = torch.arange(24.0)
    tied = torch.randn(3, 4)
    image = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    return {
        "model": {"flat": flat, "view": flat[4:12].view(2, 4), "across": flat.view(4, 6).t(), "one": tied, "two": tied},
        "image": image,
        "none": [torch.empty(0), torch.empty(0, 3), None, {}],
        "types": [torch.ones(3).bfloat16(), torch.tensor(5), torch.zeros(2, dtype=torch.uint8), torch.tensor([True])],
        "plain": {"epoch": 3, "words": "as they are", "numbers": (1, 2.5)},
    }


def test_a_copy_is_written_as_the_tensors_are():
    tree = made()
    copy, arrived = HostCopies().of(tree)
    arrived()
    assert saved(copy) == saved(tree)


def test_what_happens_later_is_not_in_it():
    tree = made()
    copy, _ = HostCopies().of(tree)
    before = saved(copy)
    for tensor in (tree["model"]["flat"], tree["image"], tree["types"][0]):
        tensor.add_(1)
    tree["plain"]["epoch"] = 4
    assert saved(copy) == before != saved(tree)


def test_the_next_copy_gets_the_buffers_of_the_last_one():
    copies, layer = HostCopies(), nn.Linear(3, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    first, _ = copies.of(layer.state_dict())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    second, _ = copies.of(layer.state_dict())
    assert {value.data_ptr() for value in first.values()} == {value.data_ptr() for value in second.values()}
    both, _ = copies.of({"model": layer.state_dict(), "optimizer": optimizer.state_dict()["state"]})
    assert torch.equal(both["model"]["weight"], layer.weight)
    assert torch.equal(both["optimizer"][0]["momentum_buffer"], layer.weight.grad)


@pytest.mark.parametrize("rows", (slice(0, 3), slice(3, 8), slice(2, 2)))
def test_apart_it_holds_its_own_elements_alone(rows):
    bank = torch.randn(8, 2, 5)
    copy, _ = HostCopies().of({"bank": bank[rows], "step": torch.tensor(3)}, apart=True)
    assert torch.equal(copy["bank"], bank[rows]) and copy["step"] == 3
    assert copy["bank"].untyped_storage().nbytes() == bank[rows].nbytes


@pytest.mark.gpu
def test_of_a_gpu_they_are_what_cpu_gives_and_what_the_stream_does_next_is_not_in_them():
    layer = nn.Conv2d(3, 8, 3).cuda().to(memory_format=torch.channels_last)
    large = torch.randn(1 << 26, device="cuda")
    tree = {"model": layer.state_dict(), "rows": large[5 : 1 << 20], "large": large, "rng": torch.get_rng_state()}
    expected, copies = saved(on_host(tree)), HostCopies()
    for _ in range(2):
        copy, arrived = copies.of(tree)
        large.add_(1)
        arrived()
        assert saved(copy) == expected and copy["large"].is_pinned()
        large.sub_(1)
        expected = saved(on_host(tree))

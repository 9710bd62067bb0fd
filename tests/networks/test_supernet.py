"""GTN's supernet: its layers walked one by one, and what masks keep of a path."""

import copy

import pytest
import torch
from torch import nn

from fastkd.networks import build, build_supernet
from fastkd.networks.supernet import LAYERS, Candidates, ReconfigurableLayer, layers_of
from fastkd.support.errors import UserError

PRINTED = [(16, 64, 1), (64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
"""The six rows behind the identity of student m, in Table 2: channels in and out, stride."""


@pytest.fixture(scope="module")
def supernet():
    with torch.device("meta"):
        return build_supernet("gtn_supernet", Candidates(), num_classes=100)


def test_the_layers_are_the_six_rows_of_student_m_with_eight_candidates_each(supernet):
    layers = layers_of(supernet)
    assert [(layer.row.in_channels, layer.row.out_channels, layer.row.stride) for layer in layers] == PRINTED
    for layer in layers:
        assert layer.names == ("k3d1", "k3d2", "k3d3", "k5d1", "k5d2", "k5d3", "identity", "zero")
    paths = torch.tensor([len(layer.names) for layer in layers]).prod()
    assert paths == 262_144
    assert [len(layers_of(block)) for block in supernet.blocks] == [1, 1, 2, 2]


def test_every_candidate_has_the_printed_kernel_and_twice_its_depth_of_convolutions(supernet):
    for layer, (before, after, stride) in zip(layers_of(supernet), PRINTED, strict=True):
        for name, units in layer.stacks.items():
            kernel, depth = int(name[1]), int(name[3])
            main = [unit for stack in units for unit in (stack.conv1, stack.conv2)]
            assert len(main) == 2 * depth and {convolution.kernel_size for convolution in main} == {(kernel, kernel)}
            assert [main[0].in_channels, main[-1].out_channels] == [before, after]
            assert [convolution.stride[0] for convolution in main] == [stride, *[1] * (2 * depth - 1)]


def test_student_m_is_a_path_of_the_supernet():
    """k3 twice, k3 once, the identity, k5 twice, k3 once, k3 once: the same layers have the same number of weights."""
    with torch.device("meta"):
        supernet, student = build_supernet("gtn_supernet", Candidates(), num_classes=100), build("gtn_nas_m")
    path = ("k3d2", "k3d1", "identity", "k5d2", "k3d1", "k3d1")
    pairs = list(zip(layers_of(supernet), path, strict=True))
    chosen = [layer.identity if name == "identity" else layer.stacks[name] for layer, name in pairs]
    found = sum(p.numel() for part in (supernet.stem, *chosen, supernet.head) for p in part.parameters())
    assert found == sum(p.numel() for p in student.parameters())


@pytest.mark.parametrize("name", ["identity", "zero"])
def test_identity_and_zero_are_what_the_supplement_says(name):
    layer = ReconfigurableLayer(LAYERS[1], Candidates(), last=False)
    layer.drawn = layer.names.index(name)
    x = torch.randn(2, 64, 4, 4, requires_grad=True)
    result = layer(x)
    assert torch.equal(result, x if name == "identity" else torch.zeros_like(x))
    assert result.requires_grad == (name == "identity"), "no gradient goes through a zero"


def test_an_identity_that_changes_the_shape_is_projected_padded_or_absent():
    row, x = LAYERS[3], torch.randn(2, 64, 5, 5)
    projected = ReconfigurableLayer(row, Candidates(), last=False)
    assert isinstance(projected.identity[0], nn.Conv2d) and projected.identity[0].kernel_size == (1, 1)
    padded = ReconfigurableLayer(row, Candidates(identity="pad"), last=False)
    padded.drawn = padded.names.index("identity")
    result = padded(x)
    assert torch.equal(result[:, :64], x[:, :, ::2, ::2]) and not result[:, 64:].any()
    assert result.shape == (2, 128, 3, 3)
    absent = [ReconfigurableLayer(row, Candidates(identity="absent"), last=False) for row in LAYERS]
    assert [len(layer.names) for layer in absent] == [7, 8, 8, 7, 7, 7]


@pytest.mark.parametrize("zeros, counts", [("but_last", [8] * 5 + [7]), ("nowhere", [7] * 6)])
def test_zeros_may_be_left_out(zeros, counts):
    with torch.device("meta"):
        layers = layers_of(build_supernet("gtn_supernet", Candidates(zeros=zeros), num_classes=10))
    assert [len(layer.names) for layer in layers] == counts
    assert layers[-1].zero == -1


def test_shared_depths_are_the_first_blocks_of_the_deepest_stack():
    how = Candidates(shared_depths=True)
    layer = ReconfigurableLayer(LAYERS[1]._replace(in_channels=4, out_channels=4), how, last=False).eval()
    assert list(layer.stacks) == ["k3d3", "k5d3"]
    x = torch.randn(2, 4, 6, 6)
    for depth in (1, 2, 3):
        layer.drawn = layer.names.index(f"k5d{depth}")
        expected = x
        for unit in list(layer.stacks["k5d3"])[:depth]:
            expected = unit(expected)
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("drawn", range(8))
def test_masks_keep_the_drawn_candidate_byte_for_byte(drawn, shared):
    """The result, the gradients and the running statistics; those of what was not drawn stay as they were."""
    torch.manual_seed(drawn)
    row, how = LAYERS[3]._replace(in_channels=4, out_channels=8), Candidates(shared_depths=shared)
    one = ReconfigurableLayer(row, how, last=False)
    many = copy.deepcopy(one)
    one.drawn, many.drawn = drawn, torch.tensor(drawn)
    inputs = [torch.randn(3, 4, 6, 6).requires_grad_(), None]
    inputs[1] = inputs[0].detach().clone().requires_grad_()
    results = [layer(x) for layer, x in zip((one, many), inputs, strict=True)]
    assert torch.equal(*results)
    for result in results:
        if result.requires_grad:
            result.square().sum().backward()
    zero = one.names[drawn] == "zero"
    assert zero or torch.equal(inputs[0].grad, inputs[1].grad)
    for (name, own), other in zip(one.named_parameters(), many.parameters(), strict=True):
        expected = torch.zeros_like(other) if own.grad is None else own.grad
        assert torch.equal(other.grad, expected), name
    for (name, own), other in zip(one.named_buffers(), many.buffers(), strict=True):
        assert torch.equal(own, other), name


def test_pieces_are_all_weights_once():
    for shared in (False, True):
        layer = ReconfigurableLayer(LAYERS[3], Candidates(shared_depths=shared), last=False)
        owned = [parameter for piece in layer.pieces() for parameter in piece.module.parameters()]
        assert len(owned) == len({*owned}) == len(list(layer.parameters()))


def test_an_unknown_supernet_is_one_line():
    with pytest.raises(UserError, match=r"^no supernet 'gtn_supernett'; did you mean 'gtn_supernet'"):
        build_supernet("gtn_supernett", Candidates(), num_classes=10)

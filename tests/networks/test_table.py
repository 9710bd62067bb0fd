"""What every row of `NETWORKS` keeps, whatever its family: the contract of `networks/base.py`."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from fastkd.networks import NETWORKS, Network, Output, build, output_shapes
from fastkd.networks.layers import channel_shuffle
from fastkd.networks.resnet import cifar_resnet
from fastkd.networks.wrn import WRN

# The deeper and wider siblings of networks that run in the default set.
SLOW = {
    "resnet38",
    "resnet44",
    "resnet110",
    "resnet116",
    "resnet110x2",
    "resnet20x4",
    "resnet26x4",
    "resnet38x4",
    "resnet44x4",
    "resnet56x4",
    "resnet110x4",
    "resnet200",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "wrn_40_4",
    "vgg16",
    "vgg19",
    "tf_resnext29_8x64d",
    "torchvision_resnet34",
    "torchvision_resnet101",
    "torchvision_resnet152",
    "torchvision_resnext50_32x4d",
    "torchvision_resnext101_32x8d",
    "tf_resnext101_32x8d",
    "torchvision_wide_resnet50_2",
    "ResNet10x2",
    "ResNet18x2",
    "ResNet34x2",
    "gtn_nas_l",
    "gtn_nas_s_imagenet",
    "gtn_nas_m_imagenet",
    "gtn_nas_l_imagenet",
}
# Tracing these takes seconds.
SLOW_TO_TRACE = {
    "MobileNetV2",
    "MobileNetV1",
    "ShuffleV1",
    "ShuffleV2_0_2",
    "tf_mobilenet_v2",
    "tf_shufflenet_v2",
    "tf_googlenet",
    "tf_densenet121",
    "torchvision_mobilenet_v2",
    "torchvision_shufflenet_v2_x1_0",
    "torchvision_densenet121",
    "torchvision_efficientnet_b0",
}
# One of each family and variant.
FAMILIES = (
    "resnet8x4",
    "wrn_16_2",
    "vgg8",
    "MobileNetV1",
    "MobileNetV2",
    "ShuffleV1",
    "ShuffleV2_0_2",
    "tf_cnn",
    "tf_alexnet",
    "tf_mobilenet_v2",
    "tf_shufflenet_v2",
    "tf_googlenet",
    "tf_densenet121",
    "torchvision_resnet18",
    "torchvision_mobilenet_v2",
    "torchvision_shufflenet_v2_x1_0",
    "torchvision_densenet121",
    "torchvision_efficientnet_b0",
)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NETWORKS],
)
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    return build(request.param, num_classes=10)


def images(side: int = 32, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def in_training(network: Network, *, preacts: bool) -> tuple[Output, dict[str, Tensor]]:
    """One forward pass in train mode, and the buffers after it; dropout draws the same numbers each time."""
    network = copy.deepcopy(network).train()
    torch.manual_seed(2)
    output = network(images(), preacts=preacts)
    return output, dict(network.named_buffers())


def buffers_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in actual.items():
        assert torch.equal(tensor, expected[name]), name


def spread(tensor: Tensor) -> float:
    return tensor.detach().std().item()


def largest(tensor: Tensor) -> float:
    return tensor.detach().abs().max().item()


def test_output_and_preacts(network: Network):
    """Asking for preacts changes nothing else, and moves the running statistics just as far."""
    plain, buffers = in_training(network, preacts=False)
    asked, buffers_asked = in_training(network, preacts=True)
    assert plain.preacts is None
    assert len(plain.features) == len(asked.preacts) == len(network.blocks) == len(network.preact_norms)
    assert plain.logits.shape == (2, 10)
    assert torch.equal(plain.logits, asked.logits)
    assert_equal(buffers_asked, buffers)
    for before, after, feature, preact in zip(
        plain.features, asked.features, asked.features, asked.preacts, strict=True
    ):
        assert torch.equal(before, after)
        assert feature.shape == preact.shape


def test_parts_make_the_output(network: Network):
    """The head's neck, pool and classifier are the ones that made it; with `output_shapes` agreeing on every shape."""
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        output = network(images())
        assert torch.equal(output.stem, network.stem(images()))
        assert torch.equal(output.final_map, network.head.neck(output.features[-1]))
        assert torch.equal(output.embedding, network.head.pool(output.final_map))
        assert torch.equal(output.logits, network.head.classifier(output.embedding))
    shapes = output_shapes(network, 32)
    assert [x.shape for x in shapes.features] == [x.shape for x in output.features]
    assert shapes.final_map.shape == output.final_map.shape


def test_preact_norms_make_the_preacts(network: Network):
    """A norm that is named for a preact has the preact's channels, and is one of the network's modules."""
    shapes = output_shapes(network, 32, preacts=True)
    modules = set(network.modules())
    for norm, preact in zip(network.preact_norms, shapes.preacts, strict=True):
        if norm is not None:
            assert norm in modules
            assert norm.num_features == preact.shape[1]


def test_every_parameter_learns(network: Network):
    network = copy.deepcopy(network).train()
    network(images()).logits.sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_trunk_and_shared_tail_are_the_network(network: Network):
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        output = network(images())
        for index in range(len(network.blocks) + 1):
            maps = network.trunk(index)(images())
            assert len(maps) == index + 1
            tail = network.tail(index, "shared")
            assert torch.equal(tail(maps[-1]).logits, output.logits)
            assert all(p is q for p, q in zip(tail.head.parameters(), network.head.parameters(), strict=True))


def test_fresh_and_copied_tails(network: Network):
    """A fresh tail looks like the tail of a fresh network: same buffers, same spread of each weight, other numbers."""
    before = buffers_of(network.blocks[-1]) | buffers_of(network.head)
    shared = network.tail(1, "shared")
    copied = network.tail(1, "copied")
    assert_equal(dict(copied.state_dict()), dict(shared.state_dict()))
    assert {p.data_ptr() for p in copied.parameters()}.isdisjoint(p.data_ptr() for p in shared.parameters())

    fresh = network.tail(1, "fresh")
    assert_equal(dict(fresh.named_buffers()), dict(shared.named_buffers()))
    for (name, ours), theirs in zip(fresh.named_parameters(), shared.parameters(), strict=True):
        if torch.equal(theirs, torch.zeros_like(theirs)) or torch.equal(theirs, torch.ones_like(theirs)):
            assert torch.equal(ours, theirs), name
        else:
            assert not torch.equal(ours, theirs), name
            if ours.numel() > 5000:
                assert spread(ours) == pytest.approx(spread(theirs), rel=0.1), name
                assert largest(ours) == pytest.approx(largest(theirs), rel=0.4), name
    assert_equal(buffers_of(network.blocks[-1]) | buffers_of(network.head), before)


def test_fresh_tail_forgets_training():
    network = build("wrn_16_1", num_classes=10).train()
    network(images())
    fresh = network.tail(1)
    assert all(norm.running_mean.abs().sum() == 0 for norm in fresh.modules() if isinstance(norm, nn.BatchNorm2d))


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_returned_is_overwritten(name: str):
    """The maps handed out by one pass are untouched by what follows them, also in training."""
    torch.manual_seed(0)
    network = build(name).train()
    network.head.classifier.register_forward_pre_hook(lambda _, args: snapshot.append(args[0].clone()))
    snapshot: list[Tensor] = []
    for module in (network.stem, *network.blocks, network.head.neck):
        module.register_forward_hook(
            lambda _, __, result: snapshot.append((result[0] if isinstance(result, tuple) else result).clone())
        )
    output = network(images(), preacts=not name.startswith("wrn"))
    returned = [output.stem, *output.features, output.final_map, output.embedding]
    assert len(snapshot) == len(returned)
    assert all(torch.equal(seen, tensor) for seen, tensor in zip(snapshot, returned, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_preacts_become_features(name: str):
    """ReLU of the preact is the feature: in ReLU families; in linear ones the two are the same; WRN's are neither."""
    torch.manual_seed(0)
    network = build(name).eval()
    with torch.no_grad():
        output = network(images(), preacts=True)
    for index, (feature, preact) in enumerate(zip(output.features, output.preacts, strict=True)):
        if name.startswith("wrn"):
            norm = network.preact_norms[index]
            assert torch.equal(preact, norm(feature))
        elif "huffle" in name and name != "ShuffleV1":
            # The first half of the preact has been activated already.
            assert torch.equal(feature, channel_shuffle(preact.relu(), 2))
        elif any(word in name for word in ("mobilenet_v2", "MobileNetV2", "densenet", "efficientnet")):
            assert feature is preact
        else:
            assert torch.equal(feature, preact.relu())
            assert (preact < 0).any()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW_TO_TRACE else ()) for name in FAMILIES]
)
def test_compiles_in_one_graph(name: str):
    torch.compiler.reset()
    network = build(name).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        for preacts in (False, True):
            expected, actual = network(images(), preacts=preacts), compiled(images(), preacts=preacts)
            assert torch.equal(actual.logits, expected.logits)
    torch.compiler.reset()


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_changes_no_number(name: str):
    torch.manual_seed(0)
    network = build(name).eval()
    with torch.no_grad():
        expected = network(images()).logits
        actual = network.to(memory_format=torch.channels_last)(
            images().contiguous(memory_format=torch.channels_last)
        ).logits
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", [8, 12, 32, 48, 64])
@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "ShuffleV1", "ShuffleV2_0_2", "ResNet18", "tf_cnn"])
def test_image_sizes(name: str, side: int):
    assert build(name).eval()(images(side), preacts=True).logits.shape == (2, 100)


def test_vgg_pools_before_its_last_block_from_64_on():
    network = build("vgg8").eval()
    sides = {side: [x.shape[2] for x in output_shapes(network, side).features] for side in (32, 48, 64, 128)}
    assert sides == {32: [16, 8, 4, 4], 48: [24, 12, 6, 6], 64: [32, 16, 8, 4], 128: [64, 32, 16, 8]}


def test_vgg_branches_start_with_the_pool_of_their_block():
    """SFTN's Table 22: branches 1 and 2 pool first, branch 3 does not."""
    student = build("vgg8").eval()
    maps = {1: (128, 16), 2: (256, 8), 3: (512, 4)}
    first = {
        index: student.tail(index, "shared")(torch.randn(1, channels, side, side)).features[0].shape[2]
        for index, (channels, side) in maps.items()
    }
    assert first == {1: 8, 2: 4, 3: 4}


def test_initialisation_is_the_published_one():
    """Standard deviations of a convolution and of the classifier, and the classifier's bias."""
    torch.manual_seed(0)
    fan_out = (2 / (9 * 128)) ** 0.5
    uniform = (1 / 128 / 3) ** 0.5  # PyTorch's own Linear
    resnet, wrn, vgg = build("resnet38x2"), build("wrn_40_2"), build("vgg8")
    assert spread(resnet.blocks[2][1].conv1.weight) == pytest.approx(fan_out, rel=0.02)
    assert spread(wrn.blocks[2][1].conv1.weight) == pytest.approx(fan_out, rel=0.02)
    assert spread(vgg.blocks[0].layers[0].weight) == pytest.approx(fan_out, rel=0.02)
    assert spread(resnet.head.classifier.weight) == pytest.approx(uniform, rel=0.05)
    assert spread(wrn.head.classifier.weight) == pytest.approx(uniform, rel=0.05)
    assert spread(vgg.head.classifier.weight) == pytest.approx(0.01, rel=0.05)
    assert largest(resnet.head.classifier.bias) > 0
    assert largest(wrn.head.classifier.bias) == 0
    assert largest(vgg.head.classifier.bias) == 0
    assert largest(vgg.blocks[0].layers[0].bias) == 0
    mobilenet, shufflenet = build("MobileNetV2"), build("ShuffleV2")
    assert spread(mobilenet.head.classifier.weight) == pytest.approx(0.01, rel=0.05)
    # PyTorch's own Conv2d: uniform with bound 1 / sqrt(fan in).
    assert largest(shufflenet.head.neck[0].weight) == pytest.approx(464**-0.5, rel=0.01)


def test_unknown_names_and_class_counts_are_one_line():
    with pytest.raises(ValueError, match=r"^no network 'wrn_40_3'; did you mean .*'wrn_40_2'") as error:
        build("wrn_40_3")
    assert "\n" not in str(error.value)
    for classes in (0, 1, -3, 2.0, True, "10"):
        with pytest.raises(ValueError, match="classes"):
            build("resnet8", num_classes=classes)
    with pytest.raises(ValueError, match="6n \\+ 2"):
        cifar_resnet(9, num_classes=10)
    with pytest.raises(ValueError, match="6n \\+ 4"):
        WRN(17, 1, num_classes=10)


def test_import_is_light():
    """torchvision is imported when one of its networks is built, not before."""
    code = "import sys, fastkd.networks; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

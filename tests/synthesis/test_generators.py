"""Every generator, layer by layer, and what the BatchNorms of teachers are given, against golden/datafree."""

import json

import numpy as np
import pytest
import torch
from helpers.datafree import norms
from helpers.filled import fill, pseudo_random
from helpers.golden import GOLDEN
from torch import nn

from fastkd.losses.features import attention
from fastkd.networks import build
from fastkd.synthesis.generators import GENERATORS, Generator, begin_anew
from fastkd.synthesis.norms import instance_features, norm_inputs, statistics_distances

FACTS = json.loads((GOLDEN / "datafree" / "generators.json").read_text())
OURS = {
    "DataFree/Generator_nz256": "small",
    "DataFree/LargeGenerator_nz256": "large",
    "DataFree/LargeGenerator_nz512": "large",
    "ZSKT/Generator_z100": "zskt",
}
TEACHERS = {"DataFree/wrn_40_2": "wrn_40_2", "DataFree/wrn_16_1": "wrn_16_1", "ZSKT/WRN-16-1": "wrn_16_1"}


def parameters(network, *kinds):
    return sum(p.numel() for module in network.modules() if isinstance(module, kinds) for p in module.parameters())


def assert_near(found, expected, relative=1e-10):
    assert found == pytest.approx(expected, rel=relative, abs=1e-12)


def even(count, *shape):
    return ((2 * pseudo_random(count, 12345) - 1) * np.sqrt(3)).view(*shape)


@pytest.mark.parametrize(
    "entry", [pytest.param(name, marks=[pytest.mark.slow] * name.endswith("nz512")) for name in OURS]
)
def test_a_generator_is_the_published_one_layer_by_layer(entry):
    facts = FACTS[entry]
    network = Generator(facts["nz"], **GENERATORS[OURS[entry]]).double()
    fill(network)
    assert sum(p.numel() for p in network.parameters()) == facts["params"]
    assert parameters(network, nn.Conv2d) == facts["params_conv"]
    assert parameters(network, nn.BatchNorm2d) == facts["params_bn"]
    assert parameters(network, nn.Linear) == facts["params_linear"]
    assert [norm.num_features for norm in norms(network)] == facts["bn_channels"]
    stages = []

    def keep(module, _, output):
        stages.append([type(module).__name__, list(output.shape), output.norm().item(), output.mean().item()])

    for module in network.modules():
        if isinstance(module, nn.Linear | nn.BatchNorm2d | nn.Conv2d):
            module.register_forward_hook(keep)
    latents = even(4 * facts["nz"], 4, facts["nz"])
    for mode in ("eval", "train"):  # in this order: training moves the running statistics
        expected = facts["fingerprint"][mode]
        stages.clear()
        with torch.no_grad():
            images = network.train(mode == "train")(latents)
        for found, stage in zip(stages, expected["stages"], strict=True):
            assert found[:2] == stage[:2]
            assert_near(found[2:], stage[2:])
        assert_near(images[:2].flatten(1)[:, :8].flatten().tolist(), np.ravel(expected["img_first8"]))
        assert_near([images[tuple(place)].item() for place, _ in expected["probe"]], [v for _, v in expected["probe"]])
        assert_near(images.flatten(1).norm(dim=1).tolist(), expected["img_l2_each"])
        assert_near(images.mean((0, 2, 3)).tolist(), expected["channel_mean"])
        assert_near(images.std((0, 2, 3), correction=0).tolist(), expected["channel_std_biased"])
    of_training = facts["fingerprint"]["train"]
    assert_near([norm.running_mean.norm().item() for norm in norms(network)], of_training["bn_running_mean_l2"])
    assert_near([norm.running_var.norm().item() for norm in norms(network)], of_training["bn_running_var_l2"])


@pytest.mark.parametrize("entry", TEACHERS)
def test_what_a_teachers_norms_are_given_is_the_published_feature(entry):
    facts = FACTS[entry]
    network = build(TEACHERS[entry], num_classes=facts["num_classes"]).double().eval()
    fill(network)
    images = even(4 * 3 * 32 * 32, 4, 3, 32, 32)
    with torch.no_grad(), norm_inputs(network) as seen:
        output = network(images)
    expected = facts["fingerprint"]["eval"]
    assert [layer.norm.num_features for layer in seen] == facts["bn_channels"]
    features = instance_features(seen)
    assert list(features.shape) == expected["cmi_feature_shape"]
    assert_near(features.norm(dim=1).tolist(), expected["cmi_feature_l2_each"])
    assert_near(features[0, :8].tolist(), expected["cmi_feature_first8"])
    assert_near(statistics_distances(seen).tolist(), expected["bn_loss_per_layer"])
    assert_near(statistics_distances(seen).sum().item(), expected["bn_loss"])
    if "activations" in expected:
        for found, (shape, length) in zip(output.features, expected["activations"], strict=True):
            assert list(found.shape) == shape
            assert_near(found.norm().item(), length)
        for found, first in zip(output.features, expected["attention_first4"], strict=True):
            assert_near(attention(found, 2)[0, :4].tolist(), first)


def test_a_round_begins_with_drawn_weights_and_the_statistics_that_were():
    torch.manual_seed(0)
    network = Generator(64, channels=16)
    network(torch.randn(8, 64))
    before = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms(network)]
    begin_anew(network)
    for norm, (mean, variance) in zip(norms(network), before, strict=True):
        assert torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, variance)
        assert norm.weight.mean().item() == pytest.approx(1, abs=0.02) and not norm.bias.any()
    assert network.linear.weight.std().item() == pytest.approx(0.02, rel=0.05) and not network.linear.bias.any()


@pytest.mark.parametrize("wrong", ({"image_size": 30}, {"ends": "tanh"}))
def test_what_makes_no_generator_is_refused(wrong):
    with pytest.raises(ValueError, match="multiple of 4|sigmoid"):
        Generator(8, **wrong)

"""Which methods relate the images of a batch, so that they see those of one process at a time: as declared, and so."""

import pytest
import torch
from helpers.walk import EACH, PAIRS, VARIANTS, batch, build, context, distill, with_a_weight
from torch import nn

from fastkd.methods import METHODS
from fastkd.training.stages import Mutual

FROM_ELSEWHERE = {
    "semckd": "it takes batches of one size alone",
    "crd": "it has the whole batch of all processes: its draws go by the place there",
}


def stage_of(variant):
    """A stage in training, but for the statistics of its BatchNorms: these relate images whatever the method."""
    name = variant.split()[0]
    torch.manual_seed(0)
    if METHODS[name].among_peers:
        networks = [build(network) for network in reversed(PAIRS["same depth"])]
        method = METHODS[name](METHODS[name].Settings(**VARIANTS.get(variant, {})), context(*networks))
        stage = Mutual(dict(zip(("student", "teacher"), networks, strict=True)), method, (1.0, 1.0))
    elif name in ("aekd", "aekd_f"):  # with one teacher there is nothing to weigh
        stage = distill(name, "resnet8", "resnet8x2", "resnet8x2")
    else:
        stage = with_a_weight(variant)
    for module in stage.train().modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return stage


def sharpened(stage):
    """The stage, whose networks are as sure as trained ones: an untrained one says the same of all images."""
    networks = stage.networks if isinstance(stage, Mutual) else (stage.network, *stage.teachers)
    with torch.no_grad():
        for network in networks:
            network.classifier.weight.mul_(20)
    return stage.double()


def data_and_halves():
    first, second = batch(0), batch(1)
    pairs = zip(first[:3], second[:3], (1, 0, 0), strict=True)
    images, labels, index = (torch.cat(pair, dim) for *pair, dim in pairs)
    whole = first._replace(images=images, labels=labels, index=index)
    return tuple(data._replace(images=data.images.double()) for data in (whole, first, second))


def total(stage, data):
    loss = stage(data)
    return torch.stack([loss.total, *loss.gated.values()]).detach().double().sum().item()


@pytest.mark.parametrize("variant", [variant for variant in EACH if variant.split()[0] not in FROM_ELSEWHERE])
def test_the_loss_of_a_batch_is_the_mean_of_its_halves_unless_declared(variant):
    name = variant.split()[0]
    stage, (whole, *parts) = sharpened(stage_of(variant)), data_and_halves()
    loss, mean = total(stage, whole), sum(total(stage, half) for half in parts) / 2
    declared = METHODS[name].relates(METHODS[name].Settings(**VARIANTS.get(variant, {})))
    # Numbers of a loss that it keeps in float32 are the same for the whole and its halves.
    assert (loss != pytest.approx(mean, rel=1e-9)) is declared


def test_what_is_not_tried_is_declared():
    assert METHODS["semckd"].relates_samples and not METHODS["crd"].relates_samples

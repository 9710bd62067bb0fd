"""Linear classifiers on frozen features, against the same training written out."""

import copy
import zlib
from dataclasses import replace

import pytest
import torch
from helpers.tiny import CPU
from torch import nn

from fastkd.analysis.opened import Opened
from fastkd.analysis.probe import Probe, encoder
from fastkd.data.order import Order
from fastkd.recipes.findings import ProbeSettings
from fastkd.run import open_data, open_run

SHORT = ProbeSettings().changed({"epochs": 4, "batch_size": 32, "weight_decay": 1e-3, "milestones": (2,)})


@pytest.fixture
def probe(finished):
    opened = Opened.of(finished, CPU, names=("teacher",))
    data = open_data(open_run(finished), finished)
    return Probe(opened.networks["teacher"], opened.recipe, data, CPU, SHORT)


def test_it_is_sgd_on_features_that_are_computed_once(probe):
    before, passes = copy.deepcopy(probe.network.state_dict()), []
    probe.network.register_forward_hook(lambda *seen: passes.append(len(seen[1][0])))
    found = probe.run()
    assert sum(passes) == len(probe.data.train) + len(probe.data.test), "every image once"
    assert all(torch.equal(value, before[name]) for name, value in probe.network.state_dict().items())

    encode = encoder(probe.network)
    (x, y), (test_x, test_y) = (probe._embedded(encode, split) for split in ("train", "test"))
    torch.manual_seed(zlib.crc32(b"0/probe"))
    layer = nn.Linear(64, 10)
    weights = [layer.weight.detach().double(), layer.bias.detach().double()]
    momentum = [torch.zeros_like(one) for one in weights]
    order = Order(len(y), 32, 0, drop_last=False)
    for epoch in range(4):
        for index in order.epoch(epoch):
            rows, labels = x[index].double(), y[index]
            p = (rows @ weights[0].T + weights[1]).softmax(1) - nn.functional.one_hot(labels, 10)
            gradients = [p.T @ rows / len(rows), p.mean(0)]
            for weight, step, gradient in zip(weights, momentum, gradients, strict=True):
                step.mul_(0.9).add_(gradient + 1e-3 * weight)
                weight.sub_((0.1 if epoch < 2 else 0.01) * step)
    logits = test_x.double() @ weights[0].T + weights[1]
    assert found["nll"] == pytest.approx(nn.functional.cross_entropy(logits, test_y).item(), rel=1e-4)
    assert abs(found["top1"] - int((logits.argmax(1) == test_y).sum())) <= 2
    assert found["features"] == 64 and found["classes"] == 10 and found["best"] == max(found["curve"])


def test_augmented_features_differ_from_epoch_to_epoch(probe):
    crops = replace(probe, settings=replace(SHORT, augment="crop"))
    steps, epoch_of = crops._batches(encoder(probe.network))
    assert steps == 4
    first, second = (torch.cat([features for features, _ in epoch_of(epoch)]) for epoch in (0, 1))
    assert len(first) == 128 and not torch.equal(first.sort(0).values, second.sort(0).values)
    again = torch.cat([features for features, _ in epoch_of(0)])
    assert torch.equal(first, again), "a function of seed, epoch and image"

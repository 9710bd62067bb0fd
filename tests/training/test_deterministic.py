"""No operation of torch's list of nondeterministic ones is in a step, whatever it trains by whichever method."""

import pytest
import torch
import torch.nn.functional as F
from helpers.nondeterministic import LISTED, NothingNondeterministic, documented
from helpers.steps import make_step
from helpers.walk import batch, has_a_prestage, with_a_weight

from fastkd import networks
from fastkd.methods import METHODS
from fastkd.training.stages import Prestage

X = torch.randn(2, 3, 6, 6, requires_grad=True)
FOUND = {
    "torch.nn.AvgPool3d": lambda: F.avg_pool3d(X, 2),
    "torch.nn.AdaptiveAvgPool2d": lambda: F.adaptive_avg_pool2d(X, 2),
    "torch.nn.AdaptiveAvgPool3d": lambda: F.adaptive_avg_pool3d(X, 2),
    "torch.nn.MaxPool3d": lambda: F.max_pool3d(X, 2),
    "torch.nn.AdaptiveMaxPool2d": lambda: F.adaptive_max_pool2d(X, 2),
    "torch.nn.FractionalMaxPool2d": lambda: F.fractional_max_pool2d(X, 2, 3),
    "torch.nn.functional.interpolate": lambda: F.interpolate(X, 9, mode="bilinear"),
    "torch.nn.ReflectionPad2d": lambda: F.pad(X, (1, 1, 1, 1), mode="reflect"),
    "torch.nn.NLLLoss": lambda: F.cross_entropy(X, torch.zeros(2, 6, 6, dtype=torch.int64)),
    "torch.Tensor.put_": lambda: X.put(torch.tensor([0]), torch.tensor([1.0])),
    "torch.histc": lambda: X.detach().histc(3),
    "torch.median": lambda: X.median(dim=0).values,
    "torch.nn.functional.grid_sample": lambda: F.grid_sample(X, torch.zeros(2, 1, 1, 2), align_corners=False),
    "torch.cumsum": lambda: X.cumsum(0),
    "torch.Tensor.scatter_reduce": lambda: X.scatter_reduce(0, torch.zeros(2, 3, 6, 6, dtype=torch.int64), X, "prod"),
}


def test_the_list_is_torch_s():
    assert documented() == list(LISTED), "torch says something else: compare helpers/nondeterministic.py"


@pytest.mark.parametrize("name", FOUND)
def test_what_is_listed_is_seen(name):
    with pytest.raises(AssertionError, match="is not deterministic"), NothingNondeterministic():
        found = FOUND[name]()
        if found.requires_grad:
            found.sum().backward()


def test_crd_has_none_of_them_without_a_kernel(monkeypatch):
    """The other methods are walked over in tests/methods/test_walk.py."""
    monkeypatch.setenv("FASTKD_OPS", "crd=reference")
    stage = with_a_weight("crd")
    with NothingNondeterministic():
        stage(batch()).total.backward()


@pytest.mark.parametrize("name", [name for name in METHODS if has_a_prestage(name)])
def test_nor_has_what_a_method_trains_before(name):
    stage = with_a_weight(name)
    before = Prestage(stage.network, stage.teachers, dict(stage.methods.items()), "student", method=name).train()
    with NothingNondeterministic():
        before(batch()).total.backward()


@pytest.mark.parametrize(
    "name",
    (
        "tf_cnn",
        "vgg8",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("tf_alexnet", "ResNet18", "ShuffleV2")),
    ),
)
def test_nor_have_networks_that_pool(name):
    network = networks.build(name, num_classes=10)
    with NothingNondeterministic():
        network(torch.randn(2, 3, 48, 48)).logits.sum().backward()


@pytest.mark.parametrize("optimizer", ("sgd", "adam"))
def test_nor_has_the_rest_of_a_step(optimizer):
    step, raws = make_step(optimizer=optimizer, ema=0.9, clip_norm=1.0)
    with NothingNondeterministic():
        step(raws[0])

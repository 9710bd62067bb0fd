"""torchvision's families by their names: in a row the parts are the model."""

import pytest
import torch
from torchvision.models import get_model

from fastkd.networks import admit, build
from fastkd.networks.checkpoints import public_state_dict
from fastkd.networks.cut import CutNetwork
from fastkd.networks.uncut import Uncut
from fastkd.support.errors import UserError

SIZES = {  # name: (side of the images, the maps of its blocks)
    "alexnet": (64, None),
    "vgg11_bn": (64, None),
    "mnasnet0_5": (64, "16@16 24@8 48@4 160@2"),
    "mobilenet_v3_small": (64, "16@16 24@8 48@4 96@2"),
    "mobilenet_v3_large": (64, "24@16 40@8 112@4 160@2"),
    "regnet_y_400mf": (64, "48@16 104@8 208@4 440@2"),
    "efficientnet_b0": (64, "24@16 40@8 112@4 320@2"),
    "efficientnet_v2_s": (64, "48@16 64@8 160@4 256@2"),
    "convnext_tiny": (64, "96@16 192@8 384@4 768@2"),
    "vit_b_16": (32, "768@2 768@2 768@2 768@2"),
    "swin_t": (64, "96@16 192@8 384@4 768@2"),
    "swin_v2_t": (64, "96@16 192@8 384@4 768@2"),
    "maxvit_t": (224, "64@56 128@28 256@14 512@7"),
    "resnet18": (32, "64@8 128@4 256@2 512@1"),
    "shufflenet_v2_x0_5": (64, "48@8 96@4 192@2"),
}
QUICK = ("mobilenet_v3_small",)


def made(name, size):
    admit(f"torchvision:{name}")
    return build(f"torchvision:{name}", num_classes=7, image_size=size).eval()


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in SIZES])
@torch.no_grad()
def test_it_is_torchvisions_model(name):
    size, maps = SIZES[name]
    network, images = made(name, size), torch.randn(2, 3, size, size)
    options = {"image_size": size} if name.startswith("vit") else {}
    model = get_model(name, weights=None, num_classes=7, **options).eval()
    state = public_state_dict(network)
    assert state.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        tensor.copy_(state[key])
    output = network(images)
    assert isinstance(network, CutNetwork) and torch.equal(output.logits, model(images))
    assert torch.equal(network.head.classifier(output.embedding), output.logits)
    if maps:
        assert " ".join(f"{x.shape[1]}@{x.shape[2]}" for x in output.features) == maps
    assert network.tail(1)(output.features[0]).logits.shape == (2, 7)


@pytest.mark.slow
def test_what_is_no_chain_gives_what_is_named():
    network = made("googlenet?features=inception3b,avgpool", 64)
    output = network.train()(torch.randn(2, 3, 64, 64))
    assert isinstance(network, Uncut) and output.embedding.shape == (2, 1024) and len(output.features) == 1


def test_a_name_that_torchvision_does_not_have():
    with pytest.raises(UserError, match="torchvision has no model 'resnet19'; did you mean"):
        made("resnet19", 32)

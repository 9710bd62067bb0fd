"""BatchNorm folded into the convolution before it."""

import pytest
import torch

from fastkd import networks
from fastkd.networks.folding import foldable, frozen_copy

SMALL = ("resnet20", "resnet8x4", "wrn_16_1", "vgg8", "ShuffleV1", "ShuffleV2_0_2", "MobileNetV2", "tf_cnn")


class TestFolding:
    @pytest.mark.parametrize("name", SMALL)
    def test_a_folded_teacher_gives_the_same_outputs(self, name):
        torch.manual_seed(0)
        network = networks.build(name, num_classes=10).double()
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    for value in (module.weight, module.running_var):
                        value.uniform_(0.5, 1.5)
                    for value in (module.bias, module.running_mean):
                        value.normal_()
        network.eval()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        pairs = foldable(network, 32)
        twin = frozen_copy(network, 32, fold=True)
        images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
        expected, found = network(images), twin(images)
        for field in ("logits", "stem", "final_map", "embedding"):
            torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=1e-9, atol=1e-9)
        for mine, theirs in zip(found.features, expected.features, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
        assert pairs
        left = sum(isinstance(module, torch.nn.BatchNorm2d) for module in twin.modules())
        assert left == sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()) - len(pairs)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert not any(parameter.requires_grad for parameter in twin.parameters())

    def test_a_raw_sum_that_is_used_twice_is_left_alone(self):
        """WRN's stem is a feature and a shortcut besides the BatchNorm's input: folding it would change both."""
        network = networks.build("wrn_16_1")
        stem = [name for name, module in network.named_modules() if module is network.stem or name == "stem.0"]
        assert not {conv for conv, _ in foldable(network, 32)} & set(stem)

    def test_every_batchnorm_of_a_resnet_goes(self):
        twin = frozen_copy(networks.build("resnet20"), 32, fold=True)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in twin.modules())

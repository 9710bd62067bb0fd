"""Networks from elsewhere: what their names mean, what they give, and what is refused of them."""

import copy

import pytest
import torch
from helpers import own_networks
from torch import nn

from fastkd.networks import Network, Output, admit, build, is_known, naming, output_shapes, outside
from fastkd.networks.checkpoints import fill, public_state_dict
from fastkd.networks.folding import foldable
from fastkd.networks.uncut import Lacks, Uncut
from fastkd.support.errors import UserError

THREE = "helpers.own_networks:three_lines"


@pytest.fixture(autouse=True)
def nothing_admitted(monkeypatch):
    monkeypatch.setattr(outside, "_ADMITTED", {})


def made(name, num_classes=10, image_size=8) -> Network:
    admit(name)
    return build(name, num_classes=num_classes, image_size=image_size)


class TestNames:
    def test_options_stand_behind_a_question_mark(self):
        spec = naming.parsed(
            "timm:vit_tiny_patch16_224?blocks=6&features=a.1,b&patch_size=4&drop_rate=0.5&qk_norm=true"
        )
        assert (spec.source, spec.name, spec.blocks, spec.features) == ("timm", "vit_tiny_patch16_224", 6, ("a.1", "b"))
        assert spec.options == {"patch_size": 4, "drop_rate": 0.5, "qk_norm": True}

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("timm:", "expected timm:NAME"),
            ("timm:hf-hub:some/thing", "expected timm:NAME"),
            ("a/b:c", "expected timm:NAME"),
            ("a:b?x", "expected options KEY=VALUE"),
            ("a:b?x=1&x=2", "expected options KEY=VALUE"),
            ("a:b?path=/etc/passwd", "path is a number"),
            ("a:b?pretrained=true", "pretrained is not for you to give"),
            ("a:b?features=", "expected options KEY=VALUE"),
            ("a:b?blocks=0", "whole number of at least 1"),
        ],
    )
    def test_what_means_nothing_is_refused(self, name, words):
        with pytest.raises(UserError, match=words):
            naming.parsed(name)

    def test_named_features_become_part_of_the_name(self):
        assert naming.with_features(THREE, "2,4") == f"{THREE}?features=2,4"
        assert naming.with_features("a:b?x=1", "c") == "a:b?x=1&features=c"
        with pytest.raises(UserError, match="resnet8 gives the features of its blocks"):
            naming.with_features("resnet8", "c")

    def test_nothing_is_built_that_nobody_has_named(self):
        with pytest.raises(UserError, match="nothing that a file names is imported"):
            build(THREE)
        assert not is_known(THREE)
        admit(THREE)
        assert is_known(f"{THREE}?features=2")


class TestFactories:
    @pytest.mark.parametrize(
        "name", ["three_lines", "returns_tuple", "returns_object", "returns_dict", "at_width?width=6"]
    )
    def test_it_is_called_with_the_number_of_classes(self, name):
        network = made(f"helpers.own_networks:{name}", num_classes=7, image_size=16).eval()
        assert network(torch.randn(2, 3, 16, 16)).logits.shape == (2, 7)
        assert output_shapes(network, 16).logits.shape == (2, 7)

    def test_a_module_itself_is_copied(self):
        one, two = made("helpers.own_networks:instance"), made("helpers.own_networks:instance")
        assert torch.equal(one.model[0].weight, own_networks.instance[0].weight)
        assert one.model[0].weight is not two.model[0].weight

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("helpers.own_networks:missing", "cannot import the network 'helpers.own_networks:missing'"),
            ("no_such_package:x", "cannot import the network 'no_such_package:x'"),
            ("helpers.own_networks:not_a_module", "is a int, expected a module"),
            ("helpers.own_networks:Said", "cannot be made: TypeError"),
            ("helpers.own_networks:returns_nonsense", r"returns Tensor of shape \[2, 3, 4\]"),
            ("helpers.own_networks:three_lines?features=nope", "has no module 'nope'; it has 0, 1, 2"),
            ("helpers.own_networks:three_lines?width=3", "cannot be made: TypeError"),
            ("helpers.own_networks:ten_classes", "has 10 classes, the data have 7"),
            ("fastkd.networks.wrn:WRN?depth=16&width=1&features=stem", "gives the features of its blocks"),
        ],
    )
    def test_what_is_no_network_is_refused_in_one_line(self, name, words):
        with pytest.raises(UserError, match=words) as raised:
            made(name, num_classes=7)
        assert "\n" not in str(raised.value)

    def test_images_that_it_does_not_take(self):
        with pytest.raises(UserError, match=r"does not take images \[B,3,2,2\]"):
            made("helpers.own_networks:at_width", num_classes=7, image_size=2)

    def test_fresh_weights_come_from_calling_it_again(self):
        network = made("fastkd.networks.wrn:WRN?depth=16&width=1")
        torch.manual_seed(5)
        tail = network.tail(1)
        torch.manual_seed(5)
        again = made("fastkd.networks.wrn:WRN?depth=16&width=1")
        assert torch.equal(tail.head.classifier.weight, again.head.classifier.weight)
        assert network.is_cut and isinstance(network.remake(), Network)


class TestWhatItGives:
    def test_logits_alone(self):
        network = made(THREE).eval()
        output = network(torch.randn(2, 3, 8, 8))
        assert isinstance(output, Output)
        for field, words in (("features", "needs features of"), ("embedding", "the embedding"), ("stem", "the stem")):
            with pytest.raises(Lacks, match=f"{words}.*which gives logits alone"):
                getattr(output, field)
        for read in (lambda: network.blocks, lambda: network.head, lambda: network.tail(1)):
            with pytest.raises(Lacks, match="a stem, blocks and a head"):
                read()
        with pytest.raises(Lacks, match="in front of its last activations"):
            network(torch.randn(2, 3, 8, 8), preacts=True)

    def test_named_features(self):
        network = made(f"{THREE}?features=2,3,5").eval()
        images = torch.randn(2, 3, 8, 8)
        output = network(images)
        model = network.model
        wanted = [model[:3](images), model[:4](images)]
        assert all(torch.equal(*pair) for pair in zip(output.features, wanted, strict=True))
        assert torch.equal(output.embedding, model[:6](images))
        assert torch.equal(model[6](output.embedding), output.logits)

    def test_tokens_become_a_map(self):
        class Tokens(nn.Module):
            def __init__(self):
                super().__init__()
                self.tokens, self.out = nn.Identity(), nn.Linear(5, 10)

            def forward(self, images):
                patches = images.flatten(2).mT[..., :1].expand(-1, -1, 5)
                return self.out(self.tokens(torch.cat([patches[:, :1], patches], 1)).mean(1))

        images = torch.randn(2, 3, 4, 4)
        (feature,) = Uncut(Tokens(), "tokens", ("tokens",))(images).features
        assert torch.equal(feature, images[:, :1].expand(-1, 5, -1, -1))

    def test_a_copy_has_features_of_its_own(self):
        network = made(f"{THREE}?features=2")
        twin = copy.deepcopy(network)
        images = torch.randn(2, 3, 8, 8)
        assert torch.equal(twin(images).features[0], network(images).features[0]) and not network.kept

    def test_a_named_module_is_not_folded_away(self):
        """A BatchNorm whose output is a feature has to run."""
        plain, named = made(THREE), made(f"{THREE}?features=1,2")
        assert foldable(plain.eval(), 8) and not foldable(named.eval(), 8)

    def test_weights_have_the_models_own_names(self, tmp_path):
        network = made(THREE)
        state = public_state_dict(network)
        assert state.keys() == network.model.state_dict().keys()
        other = made(THREE)
        fill(other, state, tmp_path)
        assert torch.equal(other.model[0].weight, network.model[0].weight)

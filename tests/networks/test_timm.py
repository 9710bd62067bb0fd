"""timm's families, cut: in a row the parts are the model, and each part is what timm's own functions say."""

import pytest
import torch

timm = pytest.importorskip("timm", reason="timm is not installed")

from fastkd.data.base import Batch  # noqa: E402
from fastkd.methods import Context  # noqa: E402
from fastkd.methods.simkd import SimKD, SimKDSettings  # noqa: E402
from fastkd.networks import admit, build, give, output_shapes  # noqa: E402
from fastkd.networks.checkpoints import public_state_dict  # noqa: E402
from fastkd.networks.cut import CutNetwork  # noqa: E402
from fastkd.networks.grafts import graft  # noqa: E402
from fastkd.networks.timm_adapter import Intermediates  # noqa: E402
from fastkd.networks.uncut import Lacks  # noqa: E402
from fastkd.run.purpose import reorder  # noqa: E402
from fastkd.support.errors import UserError  # noqa: E402

SLOW = pytest.mark.slow
CUT = {
    "resnet10t": 64,
    "resnet50d": 64,
    "regnetx_002": 32,
    "regnety_002": 32,
    "efficientnet_b0": 64,
    "tf_efficientnetv2_b0": 64,
    "mobilenetv3_small_050": 32,
    "mobilenetv3_large_100": 64,
    "mobilenetv4_conv_small": 64,
    "mobilenetv4_hybrid_medium": 64,
    "convnext_atto": 32,
    "convnextv2_atto": 64,
    "vit_tiny_patch16_224": 32,
    "deit3_small_patch16_224": 64,
    "vit_small_patch14_dinov2": 56,
    "vit_base_patch16_clip_224": 64,
    "vit_little_patch16_reg4_gap_256": 32,
    "swin_tiny_patch4_window7_224": 224,
    "swinv2_tiny_window8_256": 64,
}
UNCUT = {
    "deit_tiny_distilled_patch16_224": 32,
    "eva02_tiny_patch14_224": 28,
    "vit_small_patch16_dinov3": 64,
    "vit_base_patch16_siglip_224": 64,
    "ghostnet_100": 64,
    "densenet121": 64,
}
QUICK = ("regnetx_002", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224", "eva02_tiny_patch14_224")


def some(names):
    return [pytest.param(name, size, marks=() if name in QUICK else SLOW) for name, size in names.items()]


def made(name, size, classes=7):
    admit(f"timm:{name}")
    return build(f"timm:{name}", num_classes=classes, image_size=size).eval()


def theirs(name, size, network, classes=7, **options):
    """timm's own model with the network's weights, by timm's names."""
    of_size = {"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    model = timm.create_model(name, num_classes=classes, **of_size, **options).eval()
    model.load_state_dict(public_state_dict(network))
    return model


@pytest.mark.parametrize(("name", "size"), some(CUT | UNCUT))
@torch.no_grad()
def test_it_is_timms_model(name, size):
    network, images = made(name, size), torch.randn(2, 3, size, size)
    model, output = theirs(name, size, network), network(images)
    assert torch.equal(output.logits, model(images))
    assert isinstance(network, CutNetwork if name in CUT else Intermediates)
    maps = model.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    assert len(output.features) >= 4
    for feature in output.features:
        assert any(feature.shape == one.shape and torch.equal(feature, one) for one in maps)
    shapes = output_shapes(network, size)
    assert [x.shape for x in shapes.features] == [x.shape for x in output.features]
    if name in CUT:
        assert torch.equal(network.head.classifier(output.embedding), output.logits)


@pytest.mark.parametrize(("name", "size"), some(CUT))
def test_a_tail_has_fresh_weights_by_timms_own_rule(name, size):
    network = made(name, size)
    maps = network(torch.randn(2, 3, size, size)).features
    torch.manual_seed(3)
    tail = network.tail(1)
    torch.manual_seed(3)
    again = network.remake()
    ours, wanted = dict(tail.named_parameters()), dict(again.named_parameters())
    assert all(torch.equal(ours[key], wanted[key]) for key in ours if key.startswith("head."))
    assert tail(maps[0].detach()).logits.shape == (2, 7)
    copied = network.tail(len(network.blocks) - 1, "copied").eval()
    if network.pooling == "mean" and "gap" not in name:
        whole = network(torch.ones(2, 3, size, size))
        assert torch.equal(copied(whole.features[-2]).logits, whole.logits)


def test_a_vision_transformer_is_cut_into_as_many_blocks_as_one_asks_for():
    network = made("vit_tiny_patch16_224?blocks=6&patch_size=4", 16)
    output = network(torch.randn(2, 3, 16, 16))
    assert [tuple(x.shape[1:]) for x in output.features] == [(192, 4, 4)] * 6
    with pytest.raises(UserError, match="blocks=13: the network has 12 of them"):
        made("vit_tiny_patch16_224?blocks=13", 32)


def test_what_it_classifies_by_is_told():
    images = torch.randn(2, 3, 32, 32)
    with pytest.raises(Lacks, match="a last map whose mean.*vit_tiny.*its class token"):
        str(made("vit_tiny_patch16_224", 32)(images).final_map)
    with pytest.raises(Lacks, match="in front of its last activations"):
        made("regnetx_002", 32)(images, preacts=True)
    features = made("convnext_atto", 32)(images, preacts=True)
    assert all(torch.equal(*pair) for pair in zip(features.features, features.preacts, strict=True))


def test_a_model_that_a_program_has_made_gives_as_much():
    model = timm.create_model("mobilenetv3_small_050", num_classes=7).eval()
    network, images = build(give(model), num_classes=7, image_size=32).eval(), torch.randn(2, 3, 32, 32)
    assert isinstance(network, CutNetwork) and torch.equal(network(images).logits, model(images))
    assert public_state_dict(network).keys() == model.state_dict().keys()


def test_features_may_be_named():
    network = made("resnet10t?features=layer1,layer2.0.conv1", 32)
    images = torch.randn(2, 3, 32, 32)
    assert [tuple(x.shape[1:]) for x in network(images).features] == [(64, 8, 8), (128, 4, 4)]


def test_branches_of_it_are_grafted():
    student = made("mobilenetv3_small_050", 32)
    teacher = made("regnetx_002", 32)
    branches = graft(teacher, student, 32)
    output = teacher(torch.randn(4, 3, 32, 32))
    assert list(branches) == ["1", "2", "3"]
    assert branches["2"](output.features[1]).logits.shape == (4, 7)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet_18", "timm has no model 'resnet_18'; did you mean"),
        ("resnet10t?patch_size=3", "cannot be made for 32 pixels"),
        ("vit_tiny_patch16_224?patch_size=64", r"does not take images \[B,3,32,32\]"),
        ("swin_tiny_patch4_window7_224?features=nope", "has no module 'nope'"),
    ],
)
def test_mistakes_are_one_line(name, words):
    with pytest.raises(UserError, match=words) as raised:
        made(name, 32)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "size"), [("eva02_tiny_patch14_224", 28), ("vit_tiny_patch16_224", 32)])
def test_its_classifier_reads_its_embedding(name, size):
    """What SimKD reuses in its vector form."""
    network = made(name, size)
    output = network(torch.randn(2, 3, size, size))
    assert torch.equal(network.classifier(output.embedding), output.logits)


def test_a_distilled_transformer_has_two_classifiers():
    network = made("deit_tiny_distilled_patch16_224?depth=2", 32)
    with pytest.raises(Lacks, match="has several classifiers"):
        str(network.classifier)
    images, order = torch.randn(2, 3, 32, 32), [3, 0, 6]
    before = network(images).logits
    reorder(network, order, "it")
    torch.testing.assert_close(network(images).logits, before[:, order])


def test_simkd_reuses_the_classifier_of_a_class_token_in_its_vector_form():
    teacher, student = made("vit_tiny_patch16_224?depth=2", 32), build("resnet8", num_classes=7)
    shapes = output_shapes(student, 32), (output_shapes(teacher, 32),)
    counts = {"classes": 7, "samples": 7, "labels": torch.arange(7), "batch_size": 4, "steps_per_epoch": 1, "seed": 0}
    method = SimKD(SimKDSettings(), Context(student, (teacher,), *shapes, **counts))
    assert method.vector and "vector form" in method.notes[0]
    images = torch.randn(4, 3, 32, 32)
    batch = Batch(images[None], torch.arange(4), torch.arange(4), torch.zeros(()), torch.zeros(()))
    loss = method(student.eval()(images), (teacher(images),), batch)
    (matrix,) = method.projections.projectors
    projected = student(images).embedding @ matrix.weight.T
    torch.testing.assert_close(loss.total, (projected - teacher(images).embedding).square().mean())
    torch.testing.assert_close(method.deploy(student)(images).logits, teacher.head.classifier(projected))

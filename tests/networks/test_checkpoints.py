"""Reading the checkpoints of other people's code, and refusing what is not one."""

import argparse
import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from fastkd.networks import NETWORKS, Network, build, load_weights, public_state_dict

# Modules that own tensors, by the names of the repositories the networks come from.
REFERENCE_MODULES = {
    "resnet8": "conv1 bn1 fc "
    "layer1.0.conv1 layer1.0.bn1 layer1.0.conv2 layer1.0.bn2 "
    "layer2.0.conv1 layer2.0.bn1 layer2.0.conv2 layer2.0.bn2 layer2.0.downsample.0 layer2.0.downsample.1 "
    "layer3.0.conv1 layer3.0.bn1 layer3.0.conv2 layer3.0.bn2 layer3.0.downsample.0 layer3.0.downsample.1",
    "ResNet18": "conv1 bn1 linear "
    "layer1.0.conv1 layer1.0.bn1 layer1.0.conv2 layer1.0.bn2 layer1.1.conv1 layer1.1.bn1 layer1.1.conv2 layer1.1.bn2 "
    "layer2.0.conv1 layer2.0.bn1 layer2.0.conv2 layer2.0.bn2 layer2.0.shortcut.0 layer2.0.shortcut.1 "
    "layer2.1.conv1 layer2.1.bn1 layer2.1.conv2 layer2.1.bn2 "
    "layer3.0.conv1 layer3.0.bn1 layer3.0.conv2 layer3.0.bn2 layer3.0.shortcut.0 layer3.0.shortcut.1 "
    "layer3.1.conv1 layer3.1.bn1 layer3.1.conv2 layer3.1.bn2 "
    "layer4.0.conv1 layer4.0.bn1 layer4.0.conv2 layer4.0.bn2 layer4.0.shortcut.0 layer4.0.shortcut.1 "
    "layer4.1.conv1 layer4.1.bn1 layer4.1.conv2 layer4.1.bn2",
    "wrn_16_2": "conv1 bn1 fc "
    + " ".join(f"block{b}.layer.{u}.{m}" for b in (1, 2, 3) for u in (0, 1) for m in ("bn1", "conv1", "bn2", "conv2"))
    + " block1.layer.0.convShortcut block2.layer.0.convShortcut block3.layer.0.convShortcut",
    "vgg8": "block0.0 block0.1 block1.0 block1.1 block2.0 block2.1 block3.0 block3.1 block4.0 block4.1 classifier",
    "vgg13": " ".join(f"block{b}.{i}" for b in range(5) for i in (0, 1, 3, 4)) + " classifier",
    "MobileNetV2": "conv1.0 conv1.1 conv2.0 conv2.1 classifier.0 "
    + " ".join(
        f"blocks.{g}.{u}.conv.{i}"
        for g, units in enumerate((1, 2, 3, 4, 3, 3, 1))
        for u in range(units)
        for i in (0, 1, 3, 4, 6, 7)
    ),
    "ShuffleV1": "conv1 bn1 linear "
    + " ".join(
        f"layer{b}.{u}.{m}"
        for b, units in ((1, 4), (2, 8), (3, 4))
        for u in range(units)
        for m in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")
    ),
    "ShuffleV2": "conv1 bn1 conv2 bn2 linear "
    + " ".join(
        f"layer{b}.{u}.{m}{i}"
        for b, units in ((1, 4), (2, 8), (3, 4))
        for u in range(units)
        for m in ("conv", "bn")
        for i in range(1, 6 if u == 0 else 4)
    ),
    "tf_cnn": "conv1 bn1 conv2 bn2 conv3 bn3 fc1 fcbn1 fc2",
    "tf_alexnet": "features.0 features.3 features.6 features.8 features.10 classifier",
    "tf_mobilenet_v2": "pre.0 pre.1 conv1.0 conv1.1 conv2 "
    + " ".join(f"stage{s}.residual.{i}" for s in (1, 7) for i in (0, 1, 3, 4, 6, 7))
    + " "
    + " ".join(
        f"stage{s}.{u}.residual.{i}"
        for s, units in ((2, 2), (3, 3), (4, 4), (5, 3), (6, 3))
        for u in range(units)
        for i in (0, 1, 3, 4, 6, 7)
    ),
    "tf_shufflenet_v2": "pre.0 pre.1 conv5.0 conv5.1 fc "
    + " ".join(
        f"stage{s}.{u}.residual.{i}"
        for s, units in ((2, 4), (3, 8), (4, 4))
        for u in range(units)
        for i in (0, 1, 3, 4, 5, 6)
    )
    + " "
    + " ".join(f"stage{s}.0.shortcut.{i}" for s in (2, 3, 4) for i in (0, 1, 2, 3)),
    "tf_googlenet": "prelayer.0 prelayer.1 linear "
    + " ".join(
        f"{inception}.{path}.{i}"
        for inception in ("a3", "b3", "a4", "b4", "c4", "d4", "e4", "a5", "b5")
        for path, places in (("b1", (0, 1)), ("b2", (0, 1, 3, 4)), ("b3", (0, 1, 3, 4, 6, 7)), ("b4", (1, 2)))
        for i in places
    ),
    "tf_densenet121": "conv1 linear features.bn "
    + " ".join(
        f"features.{block}.bottle_neck_layer_{u}.bottle_neck.{i}"
        for block, units in (
            ("dense_block_layer_0", 6),
            ("dense_block_layer_1", 12),
            ("dense_block_layer_2", 24),
            ("dense_block3", 16),
        )
        for u in range(units)
        for i in (0, 2, 3, 5)
    )
    + " "
    + " ".join(f"features.transition_layer_{t}.down_sample.{i}" for t in range(3) for i in (0, 1)),
    "tf_resnext29_8x64d": "conv_1_3x3 bn_1 classifier "
    + " ".join(
        f"stage_{s}.stage_{s}_bottleneck_{u}.{m}"
        for s in (1, 2, 3)
        for u in range(3)
        for m in ("conv_reduce", "bn_reduce", "conv_conv", "bn", "conv_expand", "bn_expand")
    )
    + " "
    + " ".join(f"stage_{s}.stage_{s}_bottleneck_0.shortcut.shortcut_{m}" for s in (1, 2, 3) for m in ("conv", "bn")),
    "MobileNetV1": "model.0.0 model.0.1 fc " + " ".join(f"model.{u}.{i}" for u in range(1, 14) for i in (0, 1, 3, 4)),
}
TORCHVISION = [name for name in NETWORKS if name.startswith("torchvision_")]


def on_meta(name: str, **options: object) -> Network:
    with torch.device("meta"):
        return build(name, **options)


def shaken(network: Network) -> Network:
    """Weights and buffers unlike any fresh network's."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.1 * torch.rand(tensor.shape, generator=generator))
                tensor.add_(0.01 * torch.rand(tensor.shape, generator=generator) - 0.005)
    return network.eval()


def logits(network: Network) -> Tensor:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return network.eval()(images).logits


@pytest.fixture
def source() -> Network:
    return shaken(build("wrn_16_1", num_classes=10))


@pytest.fixture
def target() -> Network:
    return build("wrn_16_1", num_classes=10)


@pytest.mark.parametrize("name", REFERENCE_MODULES)
def test_names_are_the_references(name: str):
    modules = {key.rsplit(".", 1)[0] for key in public_state_dict(on_meta(name))}
    assert modules == set(REFERENCE_MODULES[name].split())


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_and_shapes_are_torchvisions(name: str):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name.removeprefix("torchvision_"))(num_classes=10).state_dict()
    ours = public_state_dict(on_meta(name, num_classes=10))
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_public_names_are_unique(name: str):
    network = on_meta(name)
    assert len(public_state_dict(network)) == len(network.state_dict())


@pytest.mark.parametrize(
    "name",
    [
        "torchvision_resnet18",
        pytest.param("torchvision_resnext50_32x4d", marks=pytest.mark.slow),
        "torchvision_mobilenet_v2",
        "torchvision_shufflenet_v2_x1_0",
        "torchvision_densenet121",
        "torchvision_efficientnet_b0",
    ],
)
def test_torchvision_weights_give_torchvisions_logits(name: str, tmp_path: Path):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name.removeprefix("torchvision_"))(num_classes=10).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = build(name, num_classes=10).eval()
    report = load_weights(ours, tmp_path / "weights.pth")
    assert not report.missing
    assert not report.unexpected
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).logits, theirs(images), rtol=1e-5, atol=1e-5)


def test_old_densenet_names(tmp_path: Path):
    """torchvision's published DenseNet file writes `norm.1` for `norm1` and has no step counters."""
    source = shaken(build("torchvision_densenet121", num_classes=10))
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value
        for key, value in public_state_dict(source).items()
        if "num_batches_tracked" not in key
    }
    assert any(".norm.1." in key for key in old)
    torch.save(old, tmp_path / "densenet.pth")
    target = build("torchvision_densenet121", num_classes=10)
    load_weights(target, tmp_path / "densenet.pth")
    assert torch.equal(logits(target), logits(source))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_wrapped_and_prefixed(wrapper: str | None, prefix: str, source: Network, target: Network, tmp_path: Path):
    weights = {prefix + key: value for key, value in public_state_dict(source).items()}
    torch.save(weights if wrapper is None else {"epoch": 240, wrapper: weights}, tmp_path / "weights.pth")
    report = load_weights(target, tmp_path / "weights.pth")
    assert torch.equal(logits(target), logits(source))
    assert not (report.missing or report.unexpected or report.wrong_shape)
    assert len(report.mapped) == len(source.state_dict())


@pytest.mark.parametrize("name", ["resnet8", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2_0_2", "tf_cnn"])
@pytest.mark.parametrize("ours", [False, True])
def test_round_trip(name: str, ours: bool, tmp_path: Path):
    source, target = shaken(build(name)), build(name)
    weights = source.state_dict() if ours else public_state_dict(source)
    torch.save({"model": weights}, tmp_path / "weights.pth")
    load_weights(target, tmp_path / "weights.pth")
    assert torch.equal(logits(target), logits(source))


@pytest.mark.parametrize("public", [False, True])
def test_safetensors(public: bool, source: Network, target: Network, tmp_path: Path):
    save_file(public_state_dict(source) if public else source.state_dict(), tmp_path / "student.safetensors")
    load_weights(target, tmp_path / "student.safetensors")
    assert torch.equal(logits(target), logits(source))


@pytest.mark.parametrize("zipped", [True, False])
def test_what_the_repositories_save_beside_the_weights(zipped: bool, source: Network, target: Network, tmp_path: Path):
    """Parsed options (RepDistiller's last file), NumPy scalars, accuracies as tensors; PyTorch's format before 1.6."""
    state = {
        "opt": argparse.Namespace(lr=0.05, lr_decay_epochs=[150, 180, 210], model_t="resnet32x4"),
        "model": public_state_dict(source),
        "epoch": 240,
        "best_acc": np.float64(79.4),
        "accuracy": torch.tensor(79.4),
        "correct": np.int64(7942),
        "single": np.float32(0.5),
    }
    torch.save(state, tmp_path / "last.pth", _use_new_zipfile_serialization=zipped)
    load_weights(target, tmp_path / "last.pth")
    assert torch.equal(logits(target), logits(source))


def test_missing_counters_and_unexpected_tensors_are_reported(source: Network, target: Network, tmp_path: Path):
    weights = {k: v for k, v in public_state_dict(source).items() if not k.endswith("num_batches_tracked")}
    torch.save({**weights, "projector.weight": torch.zeros(3)}, tmp_path / "weights.pth")
    report = load_weights(target, tmp_path / "weights.pth")
    assert report.unexpected == ("projector.weight",)
    assert report.missing
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    assert torch.equal(logits(target), logits(source))


def refused(network: Network, path: Path) -> str:
    """The one line of the error; the network must be as before."""
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError) as error:
        load_weights(network, path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_other_number_of_classes(source: Network, tmp_path: Path):
    torch.save({"model": public_state_dict(source)}, tmp_path / "ten.pth")
    message = refused(build("wrn_16_1", num_classes=100), tmp_path / "ten.pth")
    assert "fc.weight should be [100, 64] and is [10, 64]" in message


def test_missing_tensors_are_named(source: Network, target: Network, tmp_path: Path):
    weights = {k: v for k, v in public_state_dict(source).items() if not k.startswith("block3")}
    torch.save(weights, tmp_path / "short.pth")
    message = refused(target, tmp_path / "short.pth")
    assert "block3.layer.0.bn1.weight is missing" in message
    assert "more" in message


def test_another_network(target: Network, tmp_path: Path):
    torch.save(public_state_dict(build("vgg8")), tmp_path / "vgg.pth")
    assert "conv1.weight is missing" in refused(target, tmp_path / "vgg.pth")


def test_truncated_file(source: Network, target: Network, tmp_path: Path):
    torch.save(public_state_dict(source), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    refused(target, tmp_path / "half.pth")
    save_file(source.state_dict(), tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(content[: len(content) // 2])
    refused(target, tmp_path / "half.safetensors")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".txt"])
def test_text_and_empty_files(suffix: str, target: Network, tmp_path: Path):
    (tmp_path / f"text{suffix}").write_text("epoch 240\naccuracy 79.4\n")
    (tmp_path / f"empty{suffix}").write_bytes(b"")
    refused(target, tmp_path / f"text{suffix}")
    refused(target, tmp_path / f"empty{suffix}")


def test_files_without_weights(target: Network, tmp_path: Path):
    for index, content in enumerate([{"epoch": 3}, [1, 2], torch.zeros(3), {"model": {}}]):
        torch.save(content, tmp_path / f"{index}.pth")
        refused(target, tmp_path / f"{index}.pth")
    refused(target, tmp_path / "nowhere.pth")
    refused(target, tmp_path)


class Bomb:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_pickle_is_not_run(target: Network, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"model": Bomb()}, tmp_path / "bomb.pth")
    refused(target, tmp_path / "bomb.pth")
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps({"model": Bomb()}))
    refused(target, tmp_path / "bomb.pkl")
    assert "executed" not in capsys.readouterr().out


class Unknown:
    """Stands for the classes that checkpoints of other code bases are full of."""


def lines_of(content: object, target: Network, tmp_path: Path) -> str:
    torch.save(content, tmp_path / "foreign.pth")
    return refused(target, tmp_path / "foreign.pth")


WRAPPERS = {
    "an ema's": lambda weights: {"model_ema": weights, "epoch": 3},
    "nested": lambda weights: {"checkpoint": {"teacher": {"net": weights}}, "args": {"lr": 0.1}},
    "a list": lambda weights: [3, {"weights": weights}],
    "Lightning's": lambda weights: {"state_dict": {f"model.{name}": value for name, value in weights.items()}},
    "an encoder's": lambda weights: {f"backbone.encoder.{name}": value for name, value in weights.items()},
    "beside an optimiser": lambda weights: {
        "net": weights,
        "optimizer": {"state": {place: {"momentum_buffer": value} for place, value in enumerate(weights.values())}},
    },
    "beside a mean": lambda weights: {"net": weights, "mean": torch.zeros(3), "best": torch.tensor(79.0)},
    "compiled inside": lambda weights: {
        name.replace("layer.", "layer._orig_mod."): value for name, value in weights.items()
    },
    "arrays of numpy": lambda weights: {"params": {name: value.numpy() for name, value in weights.items()}},
    "with a path": lambda weights: {"net": weights, "file": Path("/somewhere/x.pth")},
    "twice the same": lambda weights: {"state_dict": weights, "copy": weights},
    "usual beside another": lambda weights: {
        "model": weights, "model_ema": {name: value + 1 for name, value in weights.items()}
    },
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_one_state_dict_is_found_however_it_is_wrapped(wrapper: str, source: Network, target: Network, tmp_path: Path):
    torch.save(WRAPPERS[wrapper](public_state_dict(source)), tmp_path / "foreign.pth")
    report = load_weights(target, tmp_path / "foreign.pth")
    assert torch.equal(logits(target), logits(source)) and not report.missing


def test_of_several_that_fit_somebody_says_which(source: Network, target: Network, tmp_path: Path):
    other = {name: value + 1 for name, value in public_state_dict(source).items()}
    file = tmp_path / "both.pth"
    torch.save({"student": other, "nets": {"teacher": public_state_dict(source)}}, file)
    line = refused(target, file)
    assert (
        "holds several networks that fit: say which, --teacher-prefix nets.teacher or --teacher-prefix student" in line
    )
    for prefix in ("nets.teacher", "nets.teacher.", "teacher"):
        load_weights(target, file, prefix)
        assert torch.equal(logits(target), logits(source))
    with pytest.raises(ValueError, match="has no names with the prefix 'head'; the file holds .*student"):
        load_weights(target, file, "head")


def test_a_line_shows_the_names_of_the_file_and_what_nearly_fits(source: Network, target: Network, tmp_path: Path):
    weights = {
        f"encoder.{name}": value for name, value in public_state_dict(source).items() if not name.startswith("fc")
    }
    line = lines_of({"state_dict": weights}, target, tmp_path)
    count = len(source.state_dict())
    assert "fc.weight is missing; fc.bias is missing" in line
    assert f"under the prefix state_dict.encoder {count - 2} of the {count} tensors fit" in line
    assert "state_dict.encoder.conv1.weight" in line
    assert "the file holds 1 tensor: projector" in lines_of({"projector": torch.zeros(2)}, target, tmp_path)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda value: value.to(torch.complex64), "should be a floating type and is complex64"),
        (lambda value: value.to(torch.int64), "should be a floating type and is int64"),
        (lambda value: value.bool(), "should be a floating type and is bool"),
        (lambda value: value.to_sparse(), "is no plain tensor"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "is no plain tensor"),
        (lambda value: value.to("meta"), "is no plain tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_tensors_that_are_no_plain_numbers_are_not_cast(
    change, words, source: Network, target: Network, tmp_path: Path
):
    weights = public_state_dict(source)
    line = lines_of(weights | {"fc.weight": change(weights["fc.weight"])}, target, tmp_path)
    assert f"fc.weight {words}" in line


def test_half_and_double_precision_are_taken(source: Network, target: Network, tmp_path: Path):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({name: value.to(dtype) for name, value in source.state_dict().items()}, tmp_path / "other.pth")
        load_weights(target, tmp_path / "other.pth")
        assert torch.allclose(logits(target), logits(source), rtol=0.3, atol=0.3)


def test_what_holds_itself_is_walked_through_once(source: Network, target: Network, tmp_path: Path):
    circle: dict[str, object] = {"epoch": 3}
    circle["model"] = circle
    circle["state_dict"] = [circle, {"model": circle}]
    assert "there are no tensors in it" in lines_of(circle, target, tmp_path)
    circle["net"] = public_state_dict(source)
    torch.save(circle, tmp_path / "foreign.pth")
    load_weights(target, tmp_path / "foreign.pth")
    assert torch.equal(logits(target), logits(source))
    deep: object = public_state_dict(source)
    for _ in range(200):
        deep = {"model": deep}
    assert "there are no tensors in it" in lines_of(deep, target, tmp_path)


def test_nothing_unsafe_is_advised(target: Network, tmp_path: Path):
    for content in ({"model": Bomb()}, Unknown(), {"state_dict": {}, "cfg": Unknown()}, build("vgg8", num_classes=10)):
        line = lines_of(content, target, tmp_path)
        assert "can be read safely" in line and "save the model's state_dict() instead" in line
        assert not re.search("weights_only|pickle|trust|safe_globals|\x1b", line), line
    named = lines_of(Unknown(), target, tmp_path)
    assert "it holds an object of " in named and "Unknown" in named


@pytest.mark.parametrize(
    "content, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html>\n<html><body>404", "a web page: the download went wrong"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
        (b"", "it is empty"),
        (b"PK\x03\x04 half a zip", "it is damaged, or of another program"),
        (b"\x1b[31mred", "it is damaged, or of another program"),
    ],
)
@pytest.mark.parametrize("suffix", (".pth", ".safetensors", ".bin", ""))
def test_what_lies_in_a_checkpoints_place_is_named(
    content: bytes, words: str, suffix: str, target: Network, tmp_path: Path
):
    (tmp_path / f"file{suffix}").write_bytes(content)
    assert words in refused(target, tmp_path / f"file{suffix}")


def test_safetensors_are_known_by_their_content(source: Network, target: Network, tmp_path: Path):
    save_file(source.state_dict(), tmp_path / "weights.bin")
    load_weights(target, tmp_path / "weights.bin")
    assert torch.equal(logits(target), logits(source))

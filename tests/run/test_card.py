"""A student as a folder: what its card says, and who can load it. tests/test_evaluate.py exports a run's."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_recipe
from PIL import Image

import fastkd
from fastkd import networks
from fastkd.api import predict
from fastkd.networks.checkpoints import public_state_dict
from fastkd.run.card import write_card
from fastkd.run.description import Description
from fastkd.run.weights import save_network

NO_TIMM = importlib.util.find_spec("timm") is None
needs_timm = pytest.mark.skipif(NO_TIMM, reason="timm is not installed")
SLOW = pytest.mark.slow
CLASSES = tuple("abcdefg")
ABOUT = {"classes": CLASSES, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
OF_TIMM = {
    "mobilenetv3_small_050": 32,
    "vit_tiny_patch16_224?blocks=3&patch_size=4&depth=6": 16,
    "resnet10t.c3_in1k?features=layer1,layer2": 64,
    "eva02_tiny_patch14_224": 28,
    "regnety_002": 32,
    "efficientnet_b0": 64,
    "convnext_atto": 32,
    "swin_tiny_patch4_window7_224": 224,
    "swinv2_tiny_window8_256": 64,
    "vit_small_patch14_dinov2": 56,
    "vit_base_patch16_clip_224?depth=2": 64,
    "deit3_small_patch16_224": 64,
    "vit_small_patch16_dinov3": 64,
    "mobilenetv4_hybrid_medium": 64,
    "densenet121": 64,
}
QUICK = list(OF_TIMM)[:2]


def written(folder, name, size, **about):
    """A network of that name with weights of its own, exported."""
    if networks.is_outside(name) and not networks.is_given(name):
        networks.admit(name)
    torch.manual_seed(0)
    network = networks.build(name, num_classes=len(CLASSES), image_size=size).eval()
    network.load_state_dict({key: value + 0.01 for key, value in network.state_dict().items()})
    description = Description(name, len(CLASSES), size, **(ABOUT | about))
    write_card(folder, network, description, tiny_recipe(), {"stages": {"student": {"test": {}}}})
    return network, description


@needs_timm
@pytest.mark.parametrize(
    "name, size", [pytest.param(*row, marks=() if row[0] in QUICK else SLOW) for row in OF_TIMM.items()]
)
@torch.no_grad()
def test_timm_loads_its_own_network(name, size, tmp_path):
    import timm
    from safetensors import safe_open

    network, _ = written(tmp_path / "it", f"timm:{name}", size, crop="resized")
    model = timm.create_model(f"local-dir:{tmp_path / 'it'}", pretrained=True).eval()
    images = torch.randn(2, 3, size, size)
    assert torch.equal(model(images), network(images).logits)
    with safe_open(str(tmp_path / "it" / "model.safetensors"), "pt") as file:
        assert set(file.keys()) == set(model.state_dict())
    told = model.pretrained_cfg
    assert tuple(told["input_size"]) == (3, size, size) and tuple(told["label_names"]) == CLASSES
    assert tuple(told["mean"]) == ABOUT["mean"] and tuple(told["std"]) == ABOUT["std"]
    card = (tmp_path / "it" / "README.md").read_text()
    assert 'timm.create_model("local-dir:it", pretrained=True)' in card and "library_name: timm" in card
    again = fastkd.load_student(str(tmp_path / "it"), trust=True)
    assert torch.equal(again(images).logits, network(images).logits), "fastkd loads the folder, too"


@needs_timm
@pytest.mark.parametrize("crop, side", [("resized", 32), ("pad", 32), ("squeezed", 20)])
@torch.no_grad()
def test_timm_prepares_images_as_they_were_in_the_tests(crop, side, tmp_path):
    import timm

    network, description = written(tmp_path / "it", "timm:mobilenetv3_small_050", side, crop=crop)
    save_network(tmp_path / "it.safetensors", network, description)
    model = timm.create_model(f"local-dir:{tmp_path / 'it'}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    pixels = np.random.default_rng(0).integers(0, 256, (50, 81, 3), dtype=np.uint8)
    theirs = model(prepare(Image.fromarray(pixels))[None]).softmax(1)[0].sort(descending=True)
    (ours,) = predict(tmp_path / "it.safetensors", [pixels], top=len(CLASSES))
    assert ours.classes == tuple(CLASSES[place] for place in theirs.indices.tolist())
    assert ours.probabilities == pytest.approx(theirs.values.tolist(), rel=1e-4)


def test_a_network_of_fastkds_is_loaded_by_fastkd(tmp_path):
    network, _ = written(tmp_path / "it", "resnet8", 8, crop="pad")
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(fastkd.load_student(str(tmp_path / "it"))(images).logits, network(images).logits)
    config = json.loads((tmp_path / "it" / "config.json").read_text())
    assert config["architecture"] == "resnet8" and config["library"] == "fastkd"
    assert config["pretrained_cfg"]["crop_pct"] == 1.0 and config["label_names"] == list(CLASSES)
    assert 'fastkd.load_student("it")' in (tmp_path / "it" / "README.md").read_text()


class Layer(torch.nn.Module):
    """A network of a program."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, len(CLASSES))

    def forward(self, images_BCHW):
        return self.layer(images_BCHW.mean((2, 3)))


def test_a_module_of_a_program_gets_its_own_names(tmp_path):
    """What a program gave as an object is found by no other: the card shows how that module takes the weights."""
    network, _ = written(tmp_path / "it", networks.give(Layer()), 8, mean=None, std=None)
    lines = (tmp_path / "it" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    program = lines.replace('"it/', f'"{tmp_path}/it/').replace("…", "Layer()")
    names = {"Layer": Layer}
    exec(program, names)
    assert names["student"].state_dict().keys() == public_state_dict(network).keys() == {"layer.weight", "layer.bias"}
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(names["student"](images), network(images).logits)
    assert "mean" not in json.loads((tmp_path / "it" / "config.json").read_text())["pretrained_cfg"]

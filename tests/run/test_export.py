"""The student as a program: what it takes, what it gives, beside torch."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from helpers.image_folders import write_folder

from fastkd import evaluate, networks, train
from fastkd.api import predict
from fastkd.run.description import Description
from fastkd.run.export import FromPixels, check_export, export_network
from fastkd.support.errors import UserError

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript and onnxruntime are not all installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore:The given buffer is not writable"),  # torch.export.load
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of onnxscript
]
ABOUT = Description("resnet8x4", 4, 16, classes=("a", "b", "c", "d"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def a_network():
    torch.manual_seed(0)
    return networks.build("resnet8x4", num_classes=4).eval()


def run_onnx(file, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})[0]


@pytest.mark.parametrize("crop", ["pad", "resized", "squeezed"])
@pytest.mark.parametrize("shape", [(1, 3, 40, 30), (3, 3, 16, 16), (2, 3, 31, 77)])
def test_pixels_are_prepared_as_in_a_test(shape, crop, tmp_path):
    from fastkd.data.boxes import centres, evaluation_size
    from fastkd.data.folder import centre_crop

    network = a_network()
    program = FromPixels(network, ABOUT._replace(crop=crop)).eval()
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    size = np.array([[shape[3], shape[2]]])
    resized, corners = centres(size, evaluation_size(crop, 16), 16, squeeze=crop == "squeezed")
    rows = [centre_crop(image.permute(1, 2, 0), resized[0], corners[0], 16) for image in images]
    pixels = torch.stack(rows).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (ABOUT.mean, ABOUT.std))
    with torch.no_grad():
        expected, found = network((pixels - mean) / std).logits, program(images)
    # Bytes are resized by integers there, by floating point here: a pixel may differ by one.
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("preprocess", [False, True])
def test_pt2(preprocess, tmp_path):
    network = a_network()
    export_network(tmp_path / "it.pt2", network, ABOUT, preprocess=preprocess)
    program = torch.export.load(str(tmp_path / "it.pt2")).module()
    images = torch.randint(0, 256, (3, 3, 20, 30), dtype=torch.uint8) if preprocess else torch.randn(3, 3, 16, 16)
    expected = FromPixels(network, ABOUT)(images) if preprocess else network(images).logits
    torch.testing.assert_close(program(images), expected)


@needs_onnx
@pytest.mark.parametrize("preprocess", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_onnx_equals_torch(preprocess, tmp_path):
    import onnx

    network = a_network()
    export_network(tmp_path / "it.onnx", network, ABOUT, preprocess=preprocess)
    for count in (1, 4, 7):
        shape = (count, 3, 20 + count, 33) if preprocess else (count, 3, 16, 16)
        images = torch.randint(0, 256, shape, dtype=torch.uint8) if preprocess else torch.randn(shape)
        with torch.no_grad():
            expected = FromPixels(network, ABOUT)(images) if preprocess else network(images).logits
        np.testing.assert_allclose(run_onnx(tmp_path / "it.onnx", images), expected, rtol=1e-4, atol=1e-4)
    about = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "it.onnx")).metadata_props}
    assert json.loads(about["classes"]) == ["a", "b", "c", "d"]


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", ["wrn_16_2", "ShuffleV1", "ShuffleV2", "vgg8", "MobileNetV2", "torchvision_resnet18"])
def test_every_family_in_onnx(name, tmp_path):
    torch.manual_seed(0)
    network = networks.build(name, num_classes=4).eval()
    export_network(tmp_path / "it.onnx", network, ABOUT._replace(network=name, image_size=32))  # compared in there


@needs_onnx
def test_int8_says_what_it_costs(tmp_path, capsys):
    write_folder(tmp_path / "birds", per_class=20, tests=10)
    short = ["--epochs", "1", "--warmup-epochs", "0", "--seeds", "1", "--control", "off", "--batch-size", "8"]
    how = ["--teacher-net", "resnet8", "--teacher-training", "standard", "--image-size", "8"]
    data = ["--data", f"imagefolder:{tmp_path / 'birds'}"]
    assert train.main(["digits", *data, *how, *short, "--run", str(tmp_path / "run")]) == 0
    file = tmp_path / "it.onnx"
    assert evaluate.main([str(tmp_path / "run"), "--export", str(file), "--int8"]) == 0
    told = capsys.readouterr().err
    assert "int8: 10 of 10 layers" in told and "of 20 test images" in told
    named = predict(tmp_path / "run", sorted((tmp_path / "birds" / "val").rglob("*.png")), top=2)
    assert len(named) == 20 and run_onnx(file, torch.randn(2, 3, 8, 8)).shape == (2, 2)


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("fastkd.run.export.importlib.import_module", missing)
    with pytest.raises(UserError, match=r"needs the package onnx: pip install 'fastkd\[onnx\]'"):
        check_export(tmp_path / "it.onnx")


def test_a_file_that_does_not_say_its_normalisation_cannot_be_given_pixels():
    with pytest.raises(UserError, match="does not say mean and deviation"):
        FromPixels(a_network(), Description("resnet8x4", 4, 16))

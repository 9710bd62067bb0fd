"""What stands under examples/ runs as it stands there."""

import importlib.util
import json
import runpy

import pytest
from helpers.places import ROOT

EXAMPLES = ROOT / "examples"


def cells(name):
    notebook = json.loads((EXAMPLES / name).read_text())
    assert all(not cell.get("outputs") for cell in notebook["cells"]), "outputs are of whoever runs it"
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in cells("first_student.ipynb"):
        exec(code.replace("quick = False", "quick = True"), names)
    shown = capsys.readouterr().out
    assert "torch.Size([1, 10])" in shown and "images[2]" in shown and shown.count("student [") == 1


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="lightning is not installed")
@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_the_losses_in_lightning():
    assert runpy.run_path(str(EXAMPLES / "losses_in_lightning.py"))["main"]() < 1.0


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize(
    "methods", [("kd",), pytest.param(("kd", "kd+fitnet", "kd+crd", "simkd"), marks=pytest.mark.slow)]
)
def test_a_vision_transformer_of_timms_teaches_a_network_of_timms(methods, tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLES / "timm_vit_teaches_cnn.py"))["main"]
    short = {"epochs": 1, "limit_train": 64, "batch_size": 32, "warmup_epochs": 0, "silent": True}
    main(folder=str(tmp_path / "runs"), methods=methods, **short)
    told = capsys.readouterr().out
    assert all(f"\n{method} " in f"\n{told}" for method in methods) and "is mobilenetv3_small_050" in told

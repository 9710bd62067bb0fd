"""What README promises: its programs run as they stand there, and its tree of files is the tree."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers.image_folders import write_folder

from fastkd import train
from fastkd.data import DATASETS, open_dataset
from fastkd.data.digits import digits
from fastkd.losses import kd_loss

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LOSSES = "Use the losses in your project"


def section(heading: str) -> str:
    found = re.search(rf"^#+ {heading}$(.*?)(?=^#+ |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no heading {heading!r}"
    return found[1]


def programs(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_method_that_readme_shows(tmp_path, monkeypatch):
    (code,) = (program for program in programs(README) if "class LogitMatch" in program)
    (tmp_path / "readme_method.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    run = tmp_path / "run"
    short = ["--seeds", "1", "--limit-train", "128", "--epochs", "1", "--threads", "1", "--teacher-net", "resnet8"]
    method = ["--method", "kd+readme_method:LogitMatch", "--logitmatch.weight", "0.5", "--kd.kl-weight", "0.25"]
    assert train.main([*short, *method, "--run", str(run)]) == 0
    sys.modules.pop("readme_method", None)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    terms = next(record["train"] for record in records if record["stage"] == "student")
    expected = 0.1 * terms["kd.ce"] + 0.25 * terms["kd.kl"] + 0.5 * terms["logitmatch.mse"]
    assert abs(terms["loss"] - expected) < 1e-4 * terms["loss"]
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["stages"][1]["settings"]["readme_method:LogitMatch"] == {"weight": 0.5}


def test_the_data_set_that_readme_shows_is_a_function_and_a_row(tmp_path, monkeypatch, capsys):
    (code,) = (program for program in programs(section("Extend it")) if "DATASETS[" in program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS, "halves", digits)  # the program puts its own there, and this is taken back
    exec(code, {})
    (recipe,) = tmp_path.glob("runs/*/recipe.json")
    assert json.loads(recipe.read_text())["data"] == f"halves:{tmp_path / 'PATH'}"
    results = json.loads((recipe.parent / "results.json").read_text())
    assert results["stages"]["student"]["test"]["student"]["samples"] == 64


@pytest.mark.parametrize("function, spec", [(digits, "mine"), (lambda path: digits(), "mine:PATH")], ids=["", "folder"])
def test_one_row_is_all_a_data_set_needs(function, spec, monkeypatch):
    """Whatever a command does with a data set: train, look, inspect."""
    monkeypatch.setitem(DATASETS, "mine", function)
    assert train.main(["digits", "--data", spec, "--image-size", "8", "--threads", "1", "--dry-run"]) == 0
    opened = open_dataset(spec, image_size=8, resident=True, limit_train=10, threads=1)
    assert len(opened.train) == 10 and len(opened.classes) == 10


def test_the_program_of_a_notebook(tmp_path, monkeypatch, capsys):
    (code,) = programs(section("From Python"))
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photographs")
    exec(code, {})
    assert "Prediction(image='photographs" in capsys.readouterr().out


def test_the_training_loop_with_our_losses_is_ten_lines_and_trains():
    program = programs(section(LOSSES))[0]
    assert len([line for line in program.splitlines() if line.strip()]) <= 10
    torch.manual_seed(0)
    namespace = {}
    exec(program, namespace)
    student, teacher, loss = namespace["student"], namespace["teacher"], namespace["loss"]
    images, labels = namespace["images"], namespace["labels"]
    terms = loss(student(images), teacher(images), labels)
    untrained = loss(type(student)(student.in_features, student.out_features)(images), teacher(images), labels)
    assert terms.kl < 0.5 * untrained.kl
    assert all(parameter.grad is None for parameter in teacher.parameters())


class LanguageModel(torch.nn.Module):
    """The next of 40 words out of the last one."""

    def __init__(self, dim: int):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Embedding(40, dim), torch.nn.Linear(dim, dim), torch.nn.Tanh())
        self.head = torch.nn.Linear(dim, 40, bias=False)


def test_the_training_loop_of_a_language_models_head_is_ten_lines_and_trains():
    program = programs(section(LOSSES))[1]
    assert len([line for line in program.splitlines() if line.strip()]) <= 10
    torch.manual_seed(0)
    teacher, student = LanguageModel(12).requires_grad_(False), LanguageModel(6)
    teacher.head.weight.mul_(8)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.03)
    words = [torch.randint(40, (600, 1))]
    for _ in range(16):  # what the teacher says
        words.append(teacher.head(teacher.body(words[-1][:, 0])).softmax(1).multinomial(1))
    batches = torch.cat(words, 1).split(4)
    namespace = {"teacher": teacher, "student": student, "optimizer": optimizer, "batches": batches}
    exec(program, namespace)

    def divergence(model: LanguageModel) -> torch.Tensor:
        words = torch.arange(40)
        logits = [net.head(net.body(words)) for net in (model, teacher)]
        return kd_loss(*logits, temperature=1.0).kl

    assert divergence(student) < 0.3 * divergence(LanguageModel(6))
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_file_tree_names_every_module():
    tree = README.split("## The house")[1].split("## Extend it")[0]
    root = ROOT / "fastkd"
    missing = [path.name for path in root.glob("*.py") if path.name not in tree and path.name != "__init__.py"]
    missing += [path.name for path in root.iterdir() if path.is_dir() and f"{path.name}/" not in tree]
    assert not [name for name in missing if name != "__pycache__"]

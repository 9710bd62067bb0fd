"""What README promises: the method in its last section works as it stands there."""

import importlib
import json
import re
import sys
from pathlib import Path

from fastkd import train

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_method_that_readme_shows(tmp_path, monkeypatch):
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "class LogitMatch" in block)
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
    expected = 0.1 * terms["kd.ce"] + 0.25 * terms["kd.kl"] + 0.5 * terms["readme_method:LogitMatch.mse"]
    assert abs(terms["loss"] - expected) < 1e-4 * terms["loss"]
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["stages"][1]["settings"]["readme_method:LogitMatch"] == {"weight": 0.5}


def test_the_file_tree_names_every_module():
    tree = README.split("## The house")[1].split("## Extend it")[0]
    root = Path(__file__).parents[1] / "fastkd"
    missing = [path.name for path in root.glob("*.py") if path.name not in tree and path.name != "__init__.py"]
    missing += [path.name for path in root.iterdir() if path.is_dir() and f"{path.name}/" not in tree]
    assert not [name for name in missing if name != "__pycache__"]

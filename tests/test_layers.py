"""Imports point downwards only, and nothing happens at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top of the house to its cellar; what stands in one line may not import each other.
LAYERS = (
    ("train", "evaluate", "compare", "env"),
    ("options", "report"),
    ("run",),
    ("recipes",),
    ("training",),
    ("methods",),
    ("losses", "data"),
    ("ops", "networks"),
    ("support",),
)
LEVEL = {name: level for level, names in enumerate(reversed(LAYERS)) for name in names}
SOURCES = sorted((ROOT / "fastkd").rglob("*.py"))


def part(module: str) -> str | None:
    """The part of the house that `fastkd.part.…` belongs to; None for the package itself."""
    names = module.split(".")
    return names[1] if names[0] == "fastkd" and len(names) > 1 else None


def imported(source: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: imports are absolute"
            found |= {
                f"{node.module}.{alias.name}" if node.module == "fastkd" else str(node.module) for alias in node.names
            }
    return {name for module in found if (name := part(module)) is not None and name in LEVEL}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(source):
    own = source.relative_to(ROOT / "fastkd").parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the package names its public functions lazily
    assert own in LEVEL, f"{own} has no place in the house: add it to LAYERS"
    for other in imported(source) - {own}:
        assert LEVEL[other] < LEVEL[own], f"{own} may not import {other}, which stands above or beside it"


def test_files_stay_small():
    long = {
        str(path.relative_to(ROOT)): lines for path in SOURCES if (lines := len(path.read_text().splitlines())) > 450
    }
    assert not long


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_losses_need_torch_and_numpy_alone():
    # What torch itself imports is not ours to forbid: only what comes on top of it counts.
    code = """
import sys, torch, numpy
before = set(sys.modules)
import fastkd.losses
extra = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(extra - set(sys.stdlib_module_names) - {"torch", "numpy", "fastkd"}))
"""
    assert run_python(code).strip() == "[]"


def test_importing_the_package_is_quick():
    code = "import sys, fastkd; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert run_python(code).strip() == "False False"


def test_nothing_touches_a_device_at_import():
    code = """
import torch
def refuse(*arguments, **options):
    raise AssertionError("a device was touched at import")
torch.cuda._lazy_init = torch.cuda.is_available = torch.cuda.device_count = refuse
import fastkd.train, fastkd.evaluate, fastkd.report, fastkd.env
"""
    run_python(code)

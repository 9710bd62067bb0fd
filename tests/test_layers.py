"""Imports point downwards only, and nothing happens at import."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top of the house to its cellar; what stands in one line may not import each other.
LAYERS = (
    ("__main__",),
    ("sweep",),
    ("train", "evaluate", "probe", "predict", "reproduce", "store", "status", "env"),
    ("api",),
    ("options", "report"),
    ("plan",),
    ("analysis",),
    ("run",),
    ("recipes",),
    ("training",),
    ("methods", "synthesis"),
    ("losses", "data", "stored"),
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


def test_modules_import_no_circle():
    """Also inside a wing."""
    names = {".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for source in SOURCES}
    arrows: dict[str, set[str]] = {}
    for source in SOURCES:
        own = ".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        arrows[own] = modules_imported(source, names) - {own}
    finished: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle of imports: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in finished:
            for other in sorted(arrows[name]):
                walk(other, (*path, name))
            finished.add(name)

    for name in sorted(names - {"fastkd"}):
        walk(name, ())


def modules_imported(source: Path, known: set[str]) -> set[str]:
    """The modules that a file names, at its top level and in its functions."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    deepest = {name for name in found & known if not any(other.startswith(f"{name}.") for other in found & known)}
    return deepest - {"fastkd"}


PUBLIC = {
    "fastkd": ("load_student",),
    "fastkd.losses": (
        *("CETerms", "CRDLoss", "CRDTerms", "DKDLoss", "DKDTerms", "KDLoss", "KDTerms", "LabelSmoothingLoss"),
        *("MultiTeacherLoss", "SFTNLoss", "SFTNTerms", "VirtualTeacherLoss", "ce_loss", "dkd_loss", "kd_loss"),
        *("label_smoothing_loss", "multi_teacher_loss", "sftn_loss", "virtual_teacher_loss"),
        *("JSDLoss", "JSDTerms", "LinearJSDLoss", "LinearKDLoss", "LinearTeacher", "SparseTeacher"),
        *("TeacherProbabilities", "jsd_loss", "keep_draws", "keep_top", "linear_jsd_loss", "linear_kd_loss"),
    ),
    "fastkd.methods": ("METHODS", "Context", "Method", "MethodLoss"),
    "fastkd.networks": ("NETWORKS", "Network", "Output", "build", "load_weights", "output_shapes"),
    "fastkd.data": (
        *("DATASETS", "Augmentation", "Batch", "DataSet", "Loader", "RawBatch", "Source", "Split", "Views"),
        *("evaluation_source", "open_dataset", "training_source"),
    ),
    "fastkd.recipes": (
        *("RECIPES", "digits", "cifar100_sftn", "imagenet_sftn", "cifar100_simkd", "imagenet_simkd"),
        *("cifar100_tfkd", "cifar100_dekd", "cifar10_tfkd", "tiny_tfkd", "tiny_dekd", "imagenet_tfkd"),
    ),
    "fastkd.run": ("open_run", "load_network"),
    **{f"fastkd.{name}": ("main",) for name in ("train", "evaluate", "reproduce", "report", "status", "env")},
    "fastkd.data.__main__": ("main",),
    "fastkd.__main__": ("run",),
}
"""What other projects and people may rely on."""


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_there(module):
    found = importlib.import_module(module)
    assert not [name for name in PUBLIC[module] if not hasattr(found, name)]


def test_public_operations_are_there():
    import torch

    import fastkd.losses  # noqa: F401 - registers those of CRD and of rows
    from fastkd.ops.distill_loss import operation  # noqa: F401 - those of the distillation loss

    rows = ("row_loss", "linear_loss", "scale_rows_", "scale_all_")
    assert all(hasattr(torch.ops.fastkd, name) for name in rows)
    names = ("crd_loss", "crd_normaliser", "crd_update_", "crd_draw", "distill_loss", "scale_gradients_")
    assert all(hasattr(torch.ops.fastkd, name) for name in names)


TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("source", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_test_modules_import_nothing_from_each_other(source):
    own = {path.stem for path in TESTS if path.name.startswith("test_") or path.name == "conftest.py"}
    for node in ast.walk(ast.parse(source.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            root = name.partition(".")[0]
            assert root not in own, f"{name} is another test module: move what is shared to helpers/"

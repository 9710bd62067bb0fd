"""Every kernel that fastkd launches is executed and mutated: one that is added has to be added to the launches too."""

import ast
import re
from collections.abc import Iterator

import pytest
from helpers.gather_executed import ENTRIES
from helpers.mutation_cases import LAUNCHES
from helpers.places import ROOT, TESTS

pytestmark = pytest.mark.ptx


def compiled_by_triton() -> Iterator[tuple[str, ast.FunctionDef]]:
    """(module, function) of every function that Triton compiles."""
    for path in sorted((ROOT / "fastkd").rglob("*.py")):
        text = path.read_text()
        if "triton.jit" not in text:
            continue
        tree = ast.parse(text)
        made = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and _is_compiled(node)]
        asked = [
            node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node) == "triton.jit"
        ]
        assert len(made) == len(asked), f"{path} makes a kernel otherwise than by a decorator"
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield from ((module, function) for function in made)


def _is_compiled(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).startswith("triton.jit") for decorator in function.decorator_list)


def _uses(function: ast.FunctionDef) -> set[str]:
    """Names that it calls, or hands to a reduction."""
    return {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}


def test_every_triton_kernel_is_among_the_launches():
    """What no other one uses is a kernel."""
    functions = list(compiled_by_triton())
    used = set().union(*(_uses(function) for _, function in functions))
    kernels = {(module, function.name) for module, function in functions if function.name not in used}
    assert kernels == {(kernel.fn.__module__, kernel.__name__) for kernel in LAUNCHES.values()}


def test_every_operation_with_kernels_is_held_against_float64_in_the_executor():
    for module in {module for module, _ in compiled_by_triton()}:
        folder = TESTS.joinpath(*module.split(".")[1:-1])
        assert (folder / "test_executed.py").exists(), module


def test_every_cuda_kernel_is_among_the_entries():
    """Which templates there are of each is asked where nvcc is (test_gather_executed.py)."""
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "csrc").iterdir()))
    declared = set(re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(", sources))
    assert len(declared) == sources.count("__global__") and declared == set(ENTRIES)

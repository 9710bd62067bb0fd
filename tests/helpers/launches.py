"""Every launch of a kernel of ours, in Triton and in CUDA, and whether the device of its tensors is the current one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from helpers.places import ROOT

GUARDS = {"device_of", "device"}
"""Functions whose context makes a device the current one."""


class Launch(NamedTuple):
    file: str
    line: int
    function: str
    guarded: bool


def launches() -> list[Launch]:
    triton = (path for path in sorted((ROOT / "fastkd").rglob("*.py")) if "\nimport triton\n" in path.read_text())
    cuda = (path for path in sorted((ROOT / "csrc").iterdir()) if path.suffix in (".cu", ".cuh"))
    found = [one for path in triton for one in in_python(path.read_text(), name(path))]
    return [*found, *(one for path in cuda for one in in_cuda(path.read_text(), name(path)))]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def in_python(source: str, file: str) -> Iterator[Launch]:
    """`kernel[grid](…)` calls. One is guarded within a `with device_of(…)`, or where every call of its function is."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    calls = [(function, *call) for function in functions for call in _calls(function.body, guarded=False)]

    def is_guarded(function: str, seen: frozenset[str]) -> bool:
        callers = [
            within or (caller.name not in seen and is_guarded(caller.name, seen | {caller.name}))
            for caller, call, within in calls
            if isinstance(call.func, ast.Name) and call.func.id == function
        ]
        return bool(callers) and all(callers)

    for function, call, within in calls:
        if isinstance(call.func, ast.Subscript) and not _is_a_type(call.func):
            guarded = within or is_guarded(function.name, frozenset({function.name}))
            yield Launch(file, call.lineno, function.name, guarded)


def _calls(nodes: list[ast.stmt] | list[ast.AST], *, guarded: bool) -> Iterator[tuple[ast.Call, bool]]:
    for node in nodes:
        within = guarded
        if isinstance(node, ast.With):
            within = guarded or any(_guards(item.context_expr) for item in node.items)
        if isinstance(node, ast.Call):
            yield node, guarded
        if not isinstance(node, ast.FunctionDef):
            yield from _calls([*ast.iter_child_nodes(node)], guarded=within)


def _guards(context: ast.expr) -> bool:
    called = context.func if isinstance(context, ast.Call) else None
    return getattr(called, "attr", getattr(called, "id", "")) in GUARDS


def _is_a_type(subscript: ast.Subscript) -> bool:
    """`dict[str, int](…)`, or a table of functions called by name: `FORMS[form](…)`."""
    target = subscript.value
    return isinstance(target, ast.Name) and (target.id.isupper() or target.id in ("dict", "list", "tuple"))


def in_cuda(source: str, file: str) -> Iterator[Launch]:
    """`kernel<<<…>>>` launches. One is guarded behind a `DeviceGuard guard` of its function, or where every call is."""
    bodies = [*_functions(source)]

    def is_guarded(function: str, seen: frozenset[str]) -> bool:
        callers = [
            "DeviceGuard guard" in body[: found.start()] or is_guarded(other, seen | {other})
            for other, body in bodies
            if other not in seen  # an overload
            for found in re.finditer(rf"\b{function}\s*(?:<[^<>;]*>)?\s*\(", body)
        ]
        return bool(callers) and all(callers)

    for function, body in bodies:
        for found in re.finditer("<<<", body):
            guarded = "DeviceGuard guard" in body[: found.start()] or is_guarded(function, frozenset({function}))
            line = source[: source.index(body) + found.start()].count("\n") + 1
            yield Launch(file, line, function, guarded)


def _functions(source: str) -> Iterator[tuple[str, str]]:
    """(name, body) of the functions that begin at a line's start; the body ends with a brace there."""
    for found in re.finditer(
        r"^(?!namespace|struct|#)[\w:<>*& ,]*?\b(\w+)\((?:[^;{}]|\n)*\)\s*(?:const)?\s*\{\n", source, re.M
    ):
        end = source.find("\n}", found.end())
        yield found[1], source[found.end() : end]

"""The engine in C++: built from the table and the files beside this one by the machine's compiler, once, and kept.

The rows of the table become functions over all threads of a block (`lanes.h`); `engine.cpp` does the rest, as
`interpreter/` does it in numpy.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..forms import Lane
from ..places import cache_folder, one_process
from ..table import LANES

HERE = Path(__file__).parent
FLAGS = ("-std=c++20", "-O2", "-march=native", "-fPIC", "-fwrapv", "-fno-strict-aliasing")
FLAGS += ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wno-unknown-pragmas")
PARTS = 4
"""Files that the lane functions are spread over, so that several processes compile them."""


@functools.cache
def compiler() -> str | None:
    named = os.environ.get("CXX", "c++").split()
    return next((found for name in (*named[:1], "g++", "clang++") if (found := shutil.which(name))), None)


def lanes_source(forms: Iterable[Lane], first: int) -> str:
    """The lane functions of some rows of the table, and a table of them."""
    lines = ['#include "lanes.h"', "#include <utility>", "using namespace words;", "namespace {"]
    names = []
    for number, form in enumerate(forms, first):
        names.append(f"lane_{number}")
        lines += _function(names[-1], form)
    lines += ["}", f"extern const LaneFunction lanes_from_{first}[] = {{{', '.join(names)}}};"]
    return "\n".join(lines)


def _function(name: str, form: Lane) -> list[str]:
    arguments = ", ".join(f"[[maybe_unused]] auto {operand}" for operand in "abcd"[: len(form.takes)])
    kinds = [_type(kind, form.flush) for kind in (form.gives, *form.takes)]
    means = form.means
    if form.error:
        means = f"[&] {{ const auto r = {means}; return mode ? off(r, {form.error}, a, mode) : r; }}()"
    if form.saturate:
        means = f"saturated({means})"
    target, *sources = kinds
    template = ", ".join((target, "2" if form.halves else "1", *sources))
    return [
        f"// {form.opcode}",
        f"void {name}(const Call& call) {{",
        "  [[maybe_unused]] const int mode = call.approximation;",
        f"  each<{template}>(call, [=]({arguments}) {{ return {means}; }});",
        "}",
    ]


def _type(kind: str, flush: bool) -> str:
    if kind == "f32" and flush:
        return "types::f32_ftz"
    return f"types::{kind}" if kind in ("pred", "b16", "b32", "b64") else f"types::{kind}_"


def sources() -> dict[str, str]:
    """File names and texts of what is compiled."""
    forms = list(LANES.values())
    size = -(-len(forms) // PARTS)
    texts = {f"lanes_{i}.cpp": lanes_source(forms[i * size : (i + 1) * size], i * size) for i in range(PARTS)}
    tables = [f"extern const LaneFunction lanes_from_{i * size}[];" for i in range(PARTS)]
    chosen = " ".join(f"number < {(i + 1) * size} ? lanes_from_{i * size}[number - {i * size}] :" for i in range(PARTS))
    texts["lanes.inc"] = "\n".join(
        (*tables, f"inline LaneFunction lane_function(int number) {{ return {chosen} nullptr; }}")
    )
    for path in sorted(HERE.glob("*.h")) + sorted(HERE.glob("*.cpp")):
        texts[path.name] = path.read_text()
    return texts


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled engine. Raises RuntimeError where there is no compiler."""
    chosen = compiler()
    if chosen is None:
        raise RuntimeError("there is no C++ compiler")
    texts = sources()
    key = hashlib.sha256(repr((sorted(texts.items()), FLAGS, chosen, _processor())).encode()).hexdigest()[:20]
    built = cache_folder() / "engine" / f"{key}.so"
    with one_process(built):
        if not built.exists():
            _build(texts, chosen, built)
    return ctypes.CDLL(str(built))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("flags"))
    except (OSError, StopIteration):
        return platform.processor()


def _build(texts: dict[str, str], chosen: str, built: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in texts.items():
            (folder / file).write_text(text)
        units = [folder / file for file in texts if file.endswith(".cpp")]
        waiting, running = list(units), []
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                unit = waiting.pop()
                command = [chosen, *FLAGS, "-c", str(unit), "-o", str(unit.with_suffix(".o"))]
                running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
            done = running.pop(0)
            _, errors = done.communicate()
            if done.returncode:
                sys.stderr.write(errors[:4000])
                raise RuntimeError(f"{chosen} did not compile the engine")
        partial = built.with_suffix(f".{os.getpid()}.tmp")
        objects = [str(unit.with_suffix(".o")) for unit in units]
        subprocess.run([chosen, "-shared", *objects, "-o", str(partial)], check=True)
        partial.replace(built)

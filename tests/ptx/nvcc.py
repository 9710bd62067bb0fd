"""CUDA sources as PTX, where there is an nvcc; kept by the hash of all that was compiled."""

import functools
import hashlib
import importlib.util
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .native import compiler
from .places import cache_folder, one_process

ROOT = Path(__file__).parents[2]


@functools.cache
def home() -> tuple[Path | None, str]:
    """The CUDA toolkit that setup.py builds with, or why there is none."""
    spec = importlib.util.spec_from_file_location("fastkd_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.cuda_home()


def obstacle() -> str:
    """Why nothing can be compiled; empty where it can."""
    if home()[0] is None:
        return home()[1]
    return "" if compiler() else "nvcc needs a C++ compiler, and there is none"


def compiled(source: Path | str, architecture: str, flags: Sequence[str] = ()) -> str:
    """The PTX of a file, or of a text; beside a file, all headers of its folder count for the hash."""
    folder = home()[0]
    assert folder is not None, obstacle()
    command = [str(folder / "bin" / "nvcc"), "-O3", "-std=c++17", f"-arch={architecture}", "-ptx", *flags]
    if isinstance(source, Path):
        texts = [path.read_bytes() for path in sorted(source.parent.glob("*"))]
    else:
        texts = [source.encode()]
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256(repr((texts, command, version)).encode()).hexdigest()[:20]
    kept = cache_folder() / "nvcc" / f"{key}.ptx"
    with one_process(kept):
        if not kept.exists():
            _compile(command, source, kept)
    return kept.read_text()


def _compile(command: list[str], source: Path | str, kept: Path) -> None:
    partial = kept.with_suffix(".tmp")
    file = source if isinstance(source, Path) else kept.with_suffix(".cu")
    if isinstance(source, str):
        file.write_text(source)
    done = subprocess.run([*command, str(file), "-o", str(partial)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvcc: {done.stderr[-3000:]}")
    partial.replace(kept)

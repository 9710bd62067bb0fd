"""Compiles csrc/ against LibTorch's stable ABI; the metadata stands in pyproject.toml.

FASTKD_BUILD=auto (default) builds what there are compilers for: the CPU library, and with nvcc the CUDA one. =cuda and
=cpu insist on it, and the version says so (0.1.0+cu130, 0.1.0+cpu); =none builds nothing. TORCH_CUDA_ARCH_LIST and
MAX_JOBS are as in torch.utils.cpp_extension.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from setuptools import setup

BUILD = os.environ.get("FASTKD_BUILD", "auto")
ARCHITECTURES = "8.0;9.0;10.0;12.0+PTX"
OLDEST_TORCH = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # 2.11: the ABI that the libraries ask for
WITHOUT = "fastkd: {}; {} work all the same"


def main() -> None:
    if BUILD not in ("auto", "cuda", "cpu", "none"):
        sys.exit(f"FASTKD_BUILD is auto, cuda, cpu or none, got {BUILD!r}")
    setup(**(extensions() if BUILD != "none" else {}))


def extensions() -> dict:
    if (compiler := missing_for_cpu()) is not None:
        return without(f"{compiler}, so nothing is compiled", "the PyTorch and Triton paths") or {}
    home, obstacle = cuda_home()
    if obstacle and BUILD != "cpu":
        without(f"{obstacle}, so the CUDA library is not built", "the CPU library and Triton")
    if home is not None:
        os.environ["CUDA_HOME"] = str(home)  # read when the module below is imported
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
    os.environ.setdefault("MAX_JOBS", str(jobs()))
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    headers = [str(path) for pattern in ("*.h", "*.cuh") for path in sorted(Path("csrc").glob(pattern))]
    common = {"py_limited_api": True, "depends": headers}
    cxx = ["-O3", "-fno-trapping-math", "-Wno-psabi", OLDEST_TORCH]  # else a choice of two numbers is no vector
    sources = [f"csrc/{name}.cpp" for name in ("crd_cpu", "distill_cpu", "row_loss_cpu", "instructions")]
    modules = [CppExtension("fastkd._fastkd_cpu", sources, extra_compile_args=cxx, **common)]
    if home is not None:
        arguments = {"cxx": cxx, "nvcc": ["-O3", "-DUSE_CUDA", "-Xptxas=-v,-warn-spills", OLDEST_TORCH]}
        module = CUDAExtension(
            "fastkd._fastkd_cuda", ["csrc/crd_cuda.cu"], extra_compile_args=arguments, dlink=False, **common
        )
        module.library_dirs += stub_of_cudart(home)
        modules.append(module)

    class Build(BuildExtension):
        """In `auto`, a library that does not compile is left out, and one line says so."""

        def build_extensions(self) -> None:
            wanted, built = self.extensions, []
            for module in wanted:
                self.extensions = [module]
                try:
                    super().build_extensions()
                    built.append(module)
                except Exception as error:
                    if BUILD != "auto":
                        raise
                    without(f"{module.name} did not compile ({error})", "the other paths")
            self.extensions = built

    return {
        "ext_modules": modules,
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp311"}, "egg_info": {"tag_build": label(home)}},
    }


def label(home: Path | None) -> str:
    """The end of the version, by which wheels of several kinds stand on one index; "" where nothing was insisted on."""
    if BUILD == "cpu":
        return "+cpu"
    return f"+cu{toolkit_version(home).replace('.', '')}" if BUILD == "cuda" and home is not None else ""


def without(reason: str, what_works: str) -> None:
    if BUILD != "auto":
        sys.exit(f"fastkd: FASTKD_BUILD={BUILD}, but {reason}")
    print(WITHOUT.format(reason, what_works), file=sys.stderr)


def missing_for_cpu() -> str | None:
    """What keeps the CPU library from being built."""
    if find_spec("torch") is None:
        return "torch is not importable here"
    named = os.environ.get("CXX", "c++").split()[0]
    return None if shutil.which(named) or shutil.which("g++") else f"there is no C++ compiler ({named})"


def cuda_home() -> tuple[Path | None, str]:
    """Where the CUDA toolkit is, or why there is none that can be used. No GPU is asked for."""
    import torch

    if BUILD == "cpu":
        return None, ""
    if torch.version.cuda is None:
        return None, "this torch is a CPU build"
    found = next(filter(is_toolkit, candidates()), None)
    if found is None:
        return None, "there is no nvcc (CUDA_HOME, PATH, /usr/local/cuda, the wheels nvidia-cuda-nvcc and -cccl)"
    version = toolkit_version(found)
    if version.partition(".")[0] != torch.version.cuda.partition(".")[0]:
        return None, f"nvcc is of CUDA {version or 'unknown'} and torch of {torch.version.cuda}"
    return found, ""


def toolkit_version(home: Path) -> str:
    """As nvcc tells it: `13.0`; "" where it does not."""
    printed = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True).stdout
    return printed.partition("release ")[2].partition(",")[0]


def candidates():
    """Folders that may hold bin/nvcc. What is called nvcc on PATH may be a script that calls the real one: only a
    toolkit, which has its headers beside it, counts."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable])
    if nvcc := shutil.which("nvcc"):
        yield Path(nvcc).resolve().parents[1]
        yield Path(nvcc).resolve().parents[1] / "cuda"
    yield Path("/usr/local/cuda")
    yield from sorted(Path("/usr/local").glob("cuda-*"), reverse=True)
    spec = find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        yield from sorted(Path(folder).glob("cu[0-9]*"), reverse=True)


def is_toolkit(folder: Path) -> bool:
    headers = ("cuda_runtime.h", "nv/target")  # of the wheels, the second is in nvidia-cuda-cccl
    found = all((folder / "include" / header).exists() for header in headers)
    return found and os.access(folder / "bin" / "nvcc", os.X_OK)


def stub_of_cudart(home: Path) -> list[str]:
    """The wheels ship libcudart.so.13 alone; the linker wants libcudart.so."""
    libraries = [path for folder in ("lib64", "lib") for path in sorted((home / folder).glob("libcudart.so*"))]
    if not libraries or any(path.name == "libcudart.so" for path in libraries):
        return []
    folder = Path(tempfile.mkdtemp(prefix="fastkd-cudart-"))
    (folder / "libcudart.so").symlink_to(libraries[0])
    return [str(folder)]


def jobs() -> int:
    """As many compilers as there are cores, and 4 GB of memory for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 4 << 30
    return max(1, min(cores, memory >> 32))


if __name__ == "__main__":
    main()

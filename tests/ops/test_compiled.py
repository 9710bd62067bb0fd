"""The compiled libraries: found beside the package, loaded once, and not missed where there are none."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers.crd_cases import needs_library
from helpers.subprocesses import with_paths

from fastkd.ops import compiled
from fastkd.support.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """In place of the package's; nothing of it is remembered."""
    monkeypatch.setattr(compiled, "_PACKAGE", tmp_path)
    compiled._file.cache_clear()
    yield tmp_path
    compiled._file.cache_clear()


@pytest.fixture
def loaded(monkeypatch):
    """The files that were loaded."""
    files = []
    monkeypatch.setattr(torch.ops, "load_library", files.append)
    compiled.load.cache_clear()
    yield files
    compiled.load.cache_clear()


@pytest.mark.parametrize("device", ("cpu", "cuda"))
def test_without_a_library_one_line_says_so(folder, device):
    assert compiled.obstacle(device) == f"the compiled {device} library was not built"


@pytest.mark.parametrize("name", ("_fastkd_cpu.abi3.so", "_fastkd_cpu.so", "_fastkd_cpu.cpython-311-darwin.so"))
def test_a_library_is_found_by_its_device(folder, loaded, name):
    (folder / name).touch()
    assert compiled.obstacle("cuda")
    compiled.load("cpu")
    assert loaded == [folder / name]


@pytest.mark.parametrize("name", ("_fastkd_cpu.cpp", "_fastkd_cpu_old.so", "fastkd_cpu.so", "_fastkd_cuda.abi3.so"))
def test_another_file_is_none(folder, name):
    (folder / name).touch()
    assert compiled.obstacle("cpu")


def test_a_library_is_loaded_once_in_a_process(folder, loaded):
    for device in ("cpu", "cuda"):
        (folder / f"_fastkd_{device}.abi3.so").touch()
    for _ in range(2):
        compiled.load("cpu")
        compiled.load("cuda")
    assert [file.name for file in loaded] == ["_fastkd_cpu.abi3.so", "_fastkd_cuda.abi3.so"]


@pytest.mark.parametrize("device", ("cpu", "cuda"))
def test_a_library_of_older_sources_is_not_used(device, folder, loaded, monkeypatch):
    """It would implement other operations than Python declares, as after a checkout without a build."""
    (folder / f"_fastkd_{device}.abi3.so").touch()
    monkeypatch.setattr(compiled, "_is_current", lambda device: False)
    assert compiled.obstacle(device) == f"the compiled {device} library is of older sources, build it again"


@needs_library
class TestInstructions:
    @pytest.fixture(autouse=True)
    def restored(self):
        compiled.load("cpu")
        yield
        compiled.use_instructions("")

    def test_the_best_ones_are_used_up_to_the_limit(self):
        best = compiled.use_instructions("")
        for name in compiled.INSTRUCTIONS[: compiled.INSTRUCTIONS.index(best) + 1]:
            assert compiled.use_instructions(name) == name

    def test_a_name_that_does_not_exist_is_refused(self):
        with pytest.raises(UserError, match="FASTKD_CPU: no instruction set 'avx'.*avx2"):
            compiled.use_instructions("avx")

    def test_what_this_cpu_does_not_have_is_refused(self, monkeypatch):
        library = SimpleNamespace(_instructions=lambda most: "baseline")
        monkeypatch.setattr(torch.ops, "fastkd", library)
        with pytest.raises(UserError, match="FASTKD_CPU=avx512: this CPU has baseline at most"):
            compiled.use_instructions("avx512")

    def test_the_environment_limits_them(self):
        program = "from fastkd.ops import select; select.choose('crd', 'cpu')"
        environment = with_paths(FASTKD_CPU="nothing")
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert "FASTKD_CPU: no instruction set 'nothing'" in done.stderr


def test_a_library_that_does_not_load_is_said_to_be_one(folder):
    """CUDA's beside a torch without CUDA: a wheel with both libraries works there, too."""
    (folder / "_fastkd_cuda.abi3.so").touch()
    compiled.load.cache_clear()
    assert compiled.obstacle("cuda").startswith("the compiled cuda library does not load: ")


def test_loading_what_is_not_there_is_a_mistake_of_ours(folder, loaded):
    with pytest.raises(AssertionError, match=r"load\('cpu'\) comes after obstacle\('cpu'\)"):
        compiled.load("cpu")
    assert loaded == []


@needs_library
def test_the_library_implements_what_python_declares():
    """Schemas stand in Python; a library that has another one would not load."""
    import fastkd.ops.crd
    import fastkd.ops.distill_loss  # noqa: F401 - they declare them

    compiled.load("cpu")
    for name in (
        "_crd_loss",
        "_crd_loss_by_tiles",
        "_crd_normaliser",
        "_crd_update",
        "_crd_draw",
        "_distill_loss",
        "_distill_scale",
        compiled.INTERFACE,
    ):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastkd::{name}", "CPU"), name

"""The compiled libraries: found beside the package, loaded once, and not missed where there are none."""

import pytest
import torch
from helpers.crd_cases import needs_library

from fastkd.ops import compiled


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
    assert compiled.obstacle("cpu") == "" and compiled.obstacle("cuda")
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


def test_loading_what_is_not_there_is_a_mistake_of_ours(folder, loaded):
    with pytest.raises(AssertionError, match=r"load\('cpu'\) comes after obstacle\('cpu'\)"):
        compiled.load("cpu")
    assert loaded == []


@needs_library
def test_the_library_implements_what_python_declares():
    """Schemas stand in Python; a library that has another one would not load."""
    import fastkd.ops.crd  # noqa: F401 - declares them

    compiled.load("cpu")
    for name in ("_crd_loss", "_crd_normaliser", "_crd_update", "_crd_draw"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastkd::{name}", "CPU"), name

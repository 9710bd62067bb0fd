"""Which path computes, and why."""

import pytest
import torch
from helpers.crd_cases import needs_library, problem

from fastkd.ops import compiled, crd, select
from fastkd.support.errors import UserError


@pytest.fixture(autouse=True)
def nothing_found_before():
    select._chosen.cache_clear()
    yield
    select._chosen.cache_clear()


@needs_library
def test_the_choice(monkeypatch):
    monkeypatch.delenv("FASTKD_OPS", raising=False)
    bank = problem().bank
    assert crd.implementation(bank, 5, 70)[0] == "cpu"
    assert crd.implementation(bank.double(), 5, 70)[0] == "reference"
    monkeypatch.setenv("FASTKD_OPS", "crd=reference")
    assert crd.implementation(bank, 5, 70) == ("reference", select.FORCED)
    monkeypatch.setenv("FASTKD_OPS", "crd=gather")
    with pytest.raises(UserError, match="the compiled cuda code does not run on cpu"):
        crd.implementation(bank, 5, 70)
    monkeypatch.setenv("FASTKD_OPS", "crd=cpu")
    with pytest.raises(UserError, match="float32 and bfloat16"):
        crd.implementation(bank.double(), 5, 70)


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(compiled, "_file", lambda device: None)
    path, reason = crd.implementation(problem().bank, 5, 70)
    assert path == "reference" and "the compiled cpu library was not built" in reason


@pytest.mark.parametrize(
    ("rows", "samples", "negatives", "dense"),
    [(50_000, 64, 16_384, True), (1_281_167, 256, 16_384, False), (50_000, 2, 16_384, False)],
)
def test_large_banks_are_gathered(monkeypatch, rows, samples, negatives, dense):
    monkeypatch.setattr(select, "OPERATIONS", {"crd": dict.fromkeys(("dense", "gather"), lambda *_: "")})
    bank = torch.empty(rows, 2, 128, device="meta")
    assert crd.implementation(bank, samples, negatives)[0] == ("dense" if dense else "gather")


@pytest.mark.parametrize(
    ("rows", "samples", "negatives", "dtype", "path"),
    [
        (50_000, 64, 16_384, torch.float32, "cpu_tiles"),
        (50_000, 64, 16_384, torch.bfloat16, "cpu_tiles"),
        (50_000, 64, 4_096, torch.bfloat16, "cpu"),
        (50_000, 64, 4_096, torch.float32, "cpu_tiles"),
        (50_000, 8, 16_384, torch.float32, "cpu"),
        (1_281_167, 256, 16_384, torch.float32, "cpu"),
    ],
)
def test_a_cpu_takes_tiles_of_a_bank_whose_rows_are_drawn_often(monkeypatch, rows, samples, negatives, dtype, path):
    monkeypatch.setattr(select, "OPERATIONS", {"crd": dict.fromkeys(("cpu_tiles", "cpu"), lambda *_: "")})
    bank = torch.empty(rows, 2, 128, device="meta", dtype=dtype)
    assert crd.implementation(bank, samples, negatives)[0] == path


@pytest.mark.parametrize(
    ("dim", "negatives", "dtype", "path", "reason"),
    [
        (128, 16_384, torch.float32, "dense", "preferred on meta"),
        (128, 65_536, torch.float32, "gather", "the dense path takes 65535 negatives and 128 dimensions at most"),
        (129, 16_384, torch.bfloat16, "gather", "the dense path takes 65535 negatives and 128 dimensions at most"),
        (257, 16_384, torch.float32, "reference", "the compiled gather takes 256 dimensions at most"),
        (128, 16_384, torch.float64, "reference", "kernels take banks of float32 and bfloat16"),
    ],
)
def test_what_a_kernel_cannot_hold_is_left_to_another(monkeypatch, dim, negatives, dtype, path, reason):
    runs = {"dense": lambda *_: "", "gather": lambda *_: "", "reference": lambda *_: ""}
    monkeypatch.delenv("FASTKD_OPS", raising=False)
    monkeypatch.setattr(select, "OPERATIONS", {"crd": runs})
    bank = torch.empty(50_000, 2, dim, device="meta", dtype=dtype)
    found, why = crd.implementation(bank, 64, negatives)
    assert found == path and reason in why

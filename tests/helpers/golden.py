"""Reads the golden vectors: numbers that the reference implementations gave (see golden/README.md)."""

import functools

import numpy as np
import torch

from helpers.places import TESTS

GOLDEN = TESTS / "golden"


@functools.cache
def _arrays(file: str) -> dict[str, np.ndarray]:
    """What a file holds; it is read once, and closed."""
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        return dict(arrays)


class Case:
    """One case of one file: `case["in/zs"]`, as float64 tensors (integers stay integers)."""

    def __init__(self, file: str, name: str):
        self.arrays, self.file, self.name = _arrays(file), file, name

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[f"{self.name}/{key}"].copy())

    def input(self, key: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """A fresh leaf that collects a gradient."""
        return self[f"in/{key}"].to(dtype, copy=True).requires_grad_()


def close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype = torch.float64) -> None:
    """The tolerances that golden/README.md suggests: relative to the largest entry, which for a scalar is itself."""
    relative = 1e-9 if dtype == torch.float64 else 1e-3 if actual.ndim else 1e-4
    largest = expected.abs().max().item()
    torch.testing.assert_close(actual.detach().to(torch.float64), expected, rtol=0, atol=max(relative * largest, 1e-12))

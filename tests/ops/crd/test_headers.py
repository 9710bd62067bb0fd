"""The row-level maths that CPU and GPU share, through a module that is built here."""

import importlib.util
import math
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkd.ops.crd.draws import permute

ROOT = Path(__file__).parents[3]
COMPILER = shutil.which("c++") or shutil.which("g++")
WORD = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="session")
def headers(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("there is no C++ compiler")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("Python's own headers are not installed")
    library = tmp_path_factory.mktemp("headers") / "crd_headers.so"
    folders = (ROOT / "csrc", Path(torch.__file__).parent / "include", sysconfig.get_path("include"))
    includes = [f"-I{folder}" for folder in folders]
    source = Path(__file__).with_name("headers.cpp")
    flags = ("-O1", "-shared", "-fPIC", "-std=c++17", "-Wall", "-Werror", "-fvisibility=hidden")
    subprocess.run([COMPILER, *flags, *includes, str(source), "-o", str(library)], check=True)
    spec = importlib.util.spec_from_file_location("crd_headers", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_philox_known_answers(headers):
    # Published with Random123.
    assert headers.philox(0, 0, 0, 0, 0, 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert headers.philox(*[0xFFFFFFFF] * 6) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    counter = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    words = (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)
    assert headers.philox(0xA4093822, 0x299F31D0, *counter) == words


@given(n=st.integers(1, 2**31 - 1), keys=st.tuples(*[WORD] * 4), data=st.data())
@settings(max_examples=200, deadline=None)
def test_the_permutation_is_that_of_the_reference(headers, n, keys, data):
    place = data.draw(st.integers(0, n - 1))
    expected = permute(torch.tensor([place]), torch.tensor([n]), tuple(torch.tensor([key]) for key in keys))
    assert headers.permute(place, n, *keys) == expected.item()


@given(root=st.integers(1, 46_340), offset=st.integers(-1, 1))
def test_the_pairs_cover_the_range_closely(headers, root, offset):
    n = max(root * root + offset, 1)
    a, b = headers.pairs(n)
    assert n <= a * b < n + a and a == math.isqrt(n - 1) + 1


@given(x=st.floats(-125, 125, width=32))
def test_powers_of_two(headers, x):
    assert headers.two_to(x) == pytest.approx(2.0**x, rel=2e-7)


@given(exponent=st.floats(-30, 30))
def test_logarithms(headers, exponent):
    t = torch.tensor(10.0**exponent, dtype=torch.float32).item()
    assert headers.log_one_plus(t) == pytest.approx(math.log1p(t), rel=3e-7, abs=1e-38)


@given(
    score=st.floats(-1, 1, width=32),
    positive=st.booleans(),
    temperature=st.sampled_from([0.07, 0.5, 1.0]),
    z=st.sampled_from([90.0, 1.1e5, 3e6]),
    negatives=st.integers(1, 20_000),
    rows=st.integers(2, 1_300_000),
)
@settings(max_examples=300, deadline=None)
def test_terms_and_derivatives(headers, score, positive, temperature, z, negatives, rows):
    """Against the formula in float64, where the two logarithms do not cancel, and its derivative by autograd."""
    exact = torch.tensor(score, dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor(temperature, dtype=torch.float32).item()
    share = (exact / temperature).exp() / z
    c = negatives / rows
    expected = -(share / (share + c + 1e-7)).log() if positive else ((share + 1e-7) / c).log1p()
    (expected / 8).backward()
    term, derivative = headers.nce(score, positive, temperature, z, negatives, rows, 8)
    # Of a score of ±1 at temperature 0.07 float32 keeps 14 · 2⁻²⁴: what the exponential then has of relative error.
    assert term == pytest.approx(expected.item(), rel=4e-6, abs=4e-6 if positive else 0)
    assert derivative == pytest.approx(exact.grad.item(), rel=4e-6)

"""Both engines, where there is a compiler."""

from pathlib import Path

import pytest
from ptx.native import compiler

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


@pytest.fixture(params=["interpreter", pytest.param("native", marks=needs_compiler)])
def engine(request) -> str:
    return request.param


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ptx)

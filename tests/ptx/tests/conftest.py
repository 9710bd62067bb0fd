"""Both engines, where there is a compiler."""

import pytest
from ptx.native import compiler

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


@pytest.fixture(params=["interpreter", pytest.param("native", marks=needs_compiler)])
def engine(request) -> str:
    return request.param

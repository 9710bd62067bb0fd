"""The instruction sets that the compiled kernels of a CPU are made for, as far as this machine has them."""

import pytest

from fastkd.ops import compiled
from fastkd.support.errors import UserError


def _use(name: str) -> None:
    try:
        compiled.use_instructions(name)
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="class", params=compiled.INSTRUCTIONS)
def instructions(request):
    """The name of the one that is used; skips where the machine lacks it."""
    compiled.load("cpu")
    _use(request.param)
    yield request.param
    compiled.use_instructions("")


every_instruction_set = pytest.mark.usefixtures("instructions")

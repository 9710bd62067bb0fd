"""What several test modules are given."""

import pytest
from helpers.commands import TINY

from fastkd import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "run"
    assert train.main([*TINY, "--run", str(folder)]) == 0
    return folder

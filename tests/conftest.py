"""What several test modules are given."""

import pytest


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    # The gpu tests of the operations are collected where what the commands are made of is not installed.
    from helpers.commands import TINY

    from fastkd import train

    folder = tmp_path_factory.mktemp("commands") / "run"
    assert train.main([*TINY, "--run", str(folder)]) == 0
    return folder

"""What several test modules are given."""

import signal

import pytest
from helpers.commands import TINY

from fastkd import train
from fastkd.training.stages import Distill

# A shell that starts this in the background has it ignored, and every process that the tests start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "run"
    assert train.main([*TINY, "--run", str(folder)]) == 0
    return folder


@pytest.fixture
def silent_teacher(monkeypatch):
    """After a call of it, whoever runs a teacher fails."""

    def refuse():
        def forward(self, images):
            raise AssertionError("the teacher was run")

        monkeypatch.setattr(Distill, "_teachers", forward)

    return refuse

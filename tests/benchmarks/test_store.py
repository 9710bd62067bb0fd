"""The benchmark of stores measures what it says, on a network that takes no time; without a GPU a replay runs again."""

from functools import partial

import pytest
import torch
from helpers.recorders import RunAgain

from benchmarks import store
from benchmarks.training_step import random_images
from fastkd import recipes
from fastkd.training.execution import EVERYTHING_OFF

CASE = store.Case("tiny", recipes.digits, partial(random_images, size=8, classes=10), "resnet8", "resnet8", 16)


class Recorder(RunAgain):
    def __init__(self, device=None):
        super().__init__()


@pytest.mark.slow
@pytest.mark.parametrize("captured", (False, True))
def test_every_contender_is_checked_and_measured(captured, monkeypatch, capsys):
    monkeypatch.setattr(store, "CudaRecorder", Recorder)
    execution = EVERYTHING_OFF._replace(capture=captured)
    monkeypatch.setattr("fastkd.run.job.resolve", lambda *_: (execution, ""))
    records = store.measure(CASE, torch.device("cpu"), quick=True)
    several = (store.SEVERAL,) if captured else ()
    reading = ("read epoch", "read batch", "gather batch")
    assert [record.contender for record in records] == ["live", "store", "alone", *several, *reading]
    assert all(record.checked and record.median_s > 0 for record in records)
    assert ("5 seeds take" in capsys.readouterr().out) == captured

"""The benchmark of checkpoints measures what it says, with a bank of few rows."""

import pytest

from benchmarks import checkpoints

CASE = checkpoints.Case("resnet8", 800)
WHAT = ("stopped", "lost", "longest step")


@pytest.mark.slow
@pytest.mark.parametrize("processes", (1, 2))
def test_every_contender_is_checked_and_measured(processes, capfd):
    records = checkpoints.measured(CASE, 12, 2, processes)
    ways = ("once", "aside") if processes == 1 else ("once whole", "aside whole", "once shared", "aside shared")
    assert [record.contender for record in records] == [f"{way} {what}" for way in ("none", *ways) for what in WHAT]
    assert all(record.checked for record in records)
    assert f"{processes} processes; files of" in capfd.readouterr().out

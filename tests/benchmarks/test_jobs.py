"""Jobs have their time; what one leaves is there, however it ends, and the next one is carried out."""

import json
import sys
import time

from helpers.places import ROOT

from benchmarks import jobs
from benchmarks.jobs import Job, carry_out, seconds_of, waves


def job(name, program, seconds=60, wave=""):
    return Job("tests", name, (sys.executable, "-c", program), seconds, wave)


def carried_out(found, tmp_path, **options):
    said = []
    done = carry_out(found, tmp_path / "out", root=ROOT, say=said.append, **options)
    lines = [json.loads(line) for line in (tmp_path / "out" / "gpu.jsonl").read_text().splitlines()]
    assert lines == [json.loads(json.dumps(one._asdict())) for one in done]
    return done, said


def test_one_that_fails_dies_or_takes_too_long_leaves_what_it_wrote_and_the_next_one_begins(tmp_path):
    found = [
        job("fails", "print('before', flush=True); raise SystemExit(3)"),
        job("dies", "import os, signal; print('alive', flush=True); os.kill(os.getpid(), signal.SIGKILL)"),
        job("sleeps", "import time\nprint('begun', flush=True)\ntry: time.sleep(60)\nfinally: print('written')", 0),
        job("works", "print('done')"),
    ]
    (tmp_path / "out").mkdir()
    ticks = iter([0, 0, 0, 119, 0])  # the third job has a second of what those before it left
    done, said = carried_out(found, tmp_path, clock=lambda: next(ticks))
    assert [one.code for one in done] == [3, -9, None, 0]
    logs = [(tmp_path / "out" / f"{one.name}.log").read_text().split() for one in done]
    assert logs[0] == ["before"] and logs[1] == ["alive"] and logs[2][0] == "begun" and logs[3] == ["done"]
    assert "written" in logs[2], "it was interrupted before it was killed"
    assert any("== sleeps: stopped after" in line for line in said)


def test_those_of_one_wave_run_at_once(tmp_path):
    """Each waits for a file of the other."""
    program = """
import pathlib, time
mine, other = (pathlib.Path({folder!r}) / name for name in ({mine!r}, {other!r}))
mine.touch()
while not other.exists():
    time.sleep(0.01)
"""
    pairs = (("a", "b"), ("b", "a"))
    found = [job(m, program.format(folder=str(tmp_path), mine=m, other=o), wave="both") for m, o in pairs]
    done, _ = carried_out(found, tmp_path)
    assert [one.code for one in done] == [0, 0]


def test_waves_are_neighbours_and_a_job_without_one_is_alone():
    found = [job("1", ""), job("2", ""), job("3", "", 5, "x"), job("4", "", 9, "x"), job("5", "")]
    assert [[one.name for one in wave] for wave in waves(found)] == [["1"], ["2"], ["3", "4"], ["5"]]
    assert seconds_of(waves(found)[2]) == 9


def test_what_it_starts_is_ended_with_it(tmp_path, monkeypatch):
    """A worker that ignores the interrupt is killed."""
    monkeypatch.setattr(jobs, "_TO_END", 0.5)
    file = tmp_path / "beats"
    worker = f"""
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
while True:
    open({str(file)!r}, 'a').write('.')
    time.sleep(0.05)
"""
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    carried_out([job("parent", program, 2)], tmp_path)
    size = file.stat().st_size
    time.sleep(0.5)
    assert file.stat().st_size == size > 0

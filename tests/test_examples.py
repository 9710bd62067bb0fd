"""What stands under examples/ runs as it stands there."""

import importlib.util
import json
import os
import re
import runpy
import shlex
import signal
import stat
import subprocess
import sys
import time

import pytest
from helpers.places import ROOT
from helpers.processes import ENVIRONMENT, TINY, parameters, wait_for

from fastkd import options

EXAMPLES = ROOT / "examples"


def cells(name):
    notebook = json.loads((EXAMPLES / name).read_text())
    assert all(not cell.get("outputs") for cell in notebook["cells"]), "outputs are of whoever runs it"
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in cells("first_student.ipynb"):
        exec(code.replace("quick = False", "quick = True"), names)
    shown = capsys.readouterr().out
    assert "torch.Size([1, 10])" in shown and "images[2]" in shown and shown.count("student [") == 1


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="lightning is not installed")
@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_the_losses_in_lightning():
    assert runpy.run_path(str(EXAMPLES / "losses_in_lightning.py"))["main"]() < 1.0


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize(
    "methods", [("kd",), pytest.param(("kd", "kd+fitnet", "kd+crd", "simkd"), marks=pytest.mark.slow)]
)
def test_a_vision_transformer_of_timms_teaches_a_network_of_timms(methods, tmp_path, capsys):
    main = runpy.run_path(str(EXAMPLES / "timm_vit_teaches_cnn.py"))["main"]
    short = {"epochs": 1, "limit_train": 64, "batch_size": 32, "warmup_epochs": 0, "silent": True}
    main(folder=str(tmp_path / "runs"), methods=methods, **short)
    told = capsys.readouterr().out
    assert all(f"\n{method} " in f"\n{told}" for method in methods) and "is mobilenetv3_small_050" in told


SCRIPT = EXAMPLES / "slurm" / "train.sbatch"


def words_of_fastkd(text):
    """The words of each command line of `fastkd.train` in a script, where they are written out."""
    lines = re.findall(r"-m -- fastkd\.train ([\w:/. -]+)", text.replace("\\\n", " "))
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("place", (SCRIPT, EXAMPLES / "ray" / "train.py", EXAMPLES / "sky" / "train.yaml"))
def test_command_lines_of_clusters_are_understood(place):
    text = place.read_text()
    found = [
        *words_of_fastkd(text),
        *(shlex.split(line) for line in re.findall(r"train\.(?:sbatch|py)(?: 2)? (.+)", text)),
    ]
    assert found and all(options.recipe_of(options.parse(words)).name == words[0] for words in found)


def agents_flags(text):
    """The options of torchrun in a script."""
    return set(re.findall(r"(--[\w-]+)", text.replace("\\\n", " ").partition("torchrun ")[2].partition(" -m --")[0]))


@pytest.mark.parametrize("place", (SCRIPT, EXAMPLES / "sky" / "train.yaml"))
def test_options_of_torchrun_are_ones(place):
    from torch.distributed.run import get_args_parser

    found, known = agents_flags(place.read_text()), get_args_parser()._option_string_actions
    assert {"--nnodes", "--max-restarts", "--rdzv-endpoint", "--local-addr"} <= found <= known.keys()


def test_the_script_for_slurm_is_one_of_bash():
    done = subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    given = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", SCRIPT.read_text(), re.M))
    assert given["signal"] == "B:USR1@120" and "requeue" in given


def test_the_task_for_skypilot_is_yaml_and_its_script_one_of_bash():
    yaml = pytest.importorskip("yaml")
    task = yaml.safe_load((EXAMPLES / "sky" / "train.yaml").read_text())
    assert {"resources", "num_nodes", "setup", "run", "file_mounts"} <= task.keys()
    for script in (task["setup"], task["run"]):
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


SRUN = """#!/bin/bash
# One node of one task; a signal to it is a signal to the task.
while [ "${1#--}" != "$1" ]; do shift; done
SLURM_NODEID=0 "$@" &
trap 'kill -USR1 $!' USR1
wait $!
code=$?
[ "$code" -lt 128 ] || { wait $!; code=$?; }
exit "$code"
"""


def stand_in(folder, name, script):
    (folder / name).write_text(script)
    (folder / name).chmod(stat.S_IRWXU)


@pytest.fixture
def slurm(tmp_path):
    """Stand-ins for SLURM's commands, and what a job's environment holds."""
    programs = tmp_path / "bin"
    programs.mkdir()
    stand_in(programs, "srun", SRUN)
    stand_in(programs, "scontrol", f'#!/bin/bash\necho "$@" >> "{tmp_path}/scontrol"\n')
    stand_in(programs, "hostname", "#!/bin/bash\necho localhost\n")
    stand_in(programs, "torchrun", f'#!/bin/bash\nexec "{sys.executable}" -m torch.distributed.run "$@"\n')
    of_job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "1", "PROCESSES_PER_NODE": "2"}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return ENVIRONMENT | of_job | {"PATH": path, "RENDEZVOUS_HOST": "localhost"}


@pytest.mark.slow
def test_the_script_for_slurm_stops_in_time_is_queued_again_and_goes_on(slurm, tmp_path):
    words = [*TINY, "--limit-train", "320", "--teacher-epochs", "60", "--teacher-training", "standard"]
    words += ["--control", "off"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def job():
        return subprocess.Popen(["bash", SCRIPT, "digits", *words], cwd=tmp_path, env=slurm, **pipes)

    first, until = job(), time.monotonic() + 120
    while not (runs := list(tmp_path.glob("runs/digits-job-4711-*"))):
        assert time.monotonic() < until and first.poll() is None, first.communicate()
        time.sleep(0.05)
    wait_for(first, runs[0] / "checkpoints" / "teacher.pt")
    first.send_signal(signal.SIGUSR1)
    _, err = first.communicate(timeout=120)
    assert "stopped by SIGUSR1 in teacher" in err and first.returncode != 0
    assert (tmp_path / "scontrol").read_text() == "requeue 4711\n"
    _, err = (again := job()).communicate(timeout=240)
    assert again.returncode == 0 and "resumed after epoch" in err, err
    assert list(tmp_path.glob("runs/*")) == runs and parameters(runs[0], "student")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_starts_the_processes_and_changes_nothing(tmp_path):
    from helpers.processes import finish, start
    from helpers.tiny import assert_same, outcome

    finish(start(*TINY, "--run", tmp_path / "torchrun"))
    words = ["2", "digits", *TINY, "--run", str(tmp_path / "ray"), "--resume", "auto"]
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    line = [sys.executable, str(EXAMPLES / "ray" / "train.py"), *words]
    done = subprocess.run(line, env=ENVIRONMENT | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert_same(outcome(tmp_path / "ray"), outcome(tmp_path / "torchrun"))

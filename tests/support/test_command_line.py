"""What every command does with a mistake in its options."""

import errno
import re
import subprocess
import sys

import pytest
from helpers.processes import ENVIRONMENT, ROOT

from fastkd import evaluate, report, reproduce, train
from fastkd.support.command_line import command
from fastkd.support.errors import UserError


@pytest.mark.parametrize("main", (evaluate.main, report.main, reproduce.main))
def test_every_command_names_the_nearest_option(main):
    with pytest.raises(UserError, match="no option --outt|no option --jsonn"):
        main(["somewhere", "--outt" if main is not evaluate.main else "--jsonn", "x"])


@pytest.mark.parametrize(
    "main, arguments, words",
    [
        (train.main, ["--epochs", "abc"], "^Error parsing --epochs: expected INT, got 'abc'$"),
        (train.main, ["--epochs"], "^Missing value for argument '--epochs'"),
        (train.main, ["--kd.temperature", "x"], "^Error parsing --kd.temperature: expected FLOAT"),
        (train.main, ["digits", "cifar"], "^Unrecognized options: cifar$"),
        (train.main, ["--teacher-training", "nope"], "invalid choice 'nope'.*'standard', 'sftn'"),
        (evaluate.main, [], "^Missing from python -m fastkd.evaluate: RUN"),
        (report.main, [], "^name the folder of a run"),
    ],
)
def test_a_bad_value_is_one_line(main, arguments, words, capsys):
    with pytest.raises(UserError, match=words) as error:
        main(arguments)
    assert "\n" not in str(error.value) and "│" not in str(error.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error, words",
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("can't start new thread"), "out of threads"),
        (OSError(errno.EMFILE, "Too many open files"), "out of open files"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
    ],
    ids=repr,
)
def test_what_runs_out_is_one_line(error, words, capsys):
    def fails(_arguments):
        raise error

    assert command(fails, []) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith(f"fastkd: {words}: ") and shown.err.count("\n") == 1


@pytest.mark.parametrize("error", (RuntimeError("a mistake of ours"), OSError(errno.EIO, "broken")), ids=repr)
def test_what_is_our_mistake_is_not_hidden(error):
    def fails(_arguments):
        raise error

    with pytest.raises(type(error)):
        command(fails, [])


def test_output_to_a_full_disk_is_one_line(tmp_path):
    code = (
        "from fastkd.support.command_line import command; raise SystemExit(command(lambda _: print('x' * 99) or 0, []))"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == "fastkd: cannot write what there is to say: No space left on device\n"


def test_a_reader_that_has_gone_is_no_mistake(capsys):
    def fails(_arguments):
        raise BrokenPipeError

    assert command(fails, []) == 1 and capsys.readouterr() == ("", "")


LIMITED = """
import resource, sys
from fastkd import train
from fastkd.support.command_line import command
kind, value = getattr(resource, sys.argv[1]), int(sys.argv[2])
if kind == resource.RLIMIT_AS:  # so much more than the libraries have mapped
    value += int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(kind, (value, value))
sys.exit(command(train.main, sys.argv[3:]))
"""
HOW = ["--seeds", "1", "--teacher-training", "standard", "--limit-train", "64", "--epochs", "1", "--threads", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit, value, teacher, words",
    [
        ("RLIMIT_FSIZE", 40_000, "resnet8", "fastkd: cannot write .*teacher.pt: File too large"),
        ("RLIMIT_AS", 100_000_000, "vgg13", "fastkd: out of memory"),
    ],
)
def test_a_limit_of_the_system_is_one_line_and_leaves_nothing_half_written(limit, value, teacher, words, tmp_path):
    """The limits themselves, where the tests above make errors up."""
    options = [*HOW, "--teacher-net", teacher, "--run", str(tmp_path / "run")]
    line = [sys.executable, "-c", LIMITED, limit, str(value), *options]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert re.match(words, done.stderr.splitlines()[-1]), done.stderr
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]

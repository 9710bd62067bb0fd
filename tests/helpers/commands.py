"""The commands as a person types them."""

import subprocess
import sys

import pytest

from fastkd import train
from fastkd.options import parse, recipe_of
from fastkd.support.errors import UserError
from helpers.places import ROOT

TINY = ["--seeds", "1", "--limit-train", "128", "--epochs", "2", "--threads", "1", "--teacher-net", "resnet8"]


def command(*arguments, **settings):
    """`python -m fastkd.…` in a process of its own."""
    line = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, **settings)


def mistake(*arguments):
    """The one line that a user's mistake gets."""
    with pytest.raises(UserError) as raised:
        train.main([str(argument) for argument in arguments])
    line = str(raised.value)
    assert "\n" not in line
    return line


def resolved(*arguments):
    return recipe_of(parse(list(arguments)))

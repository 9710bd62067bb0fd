"""`python -m fastkd.env`."""

import json

import torch
from helpers.commands import command


def test_env():
    done = command("fastkd.env")
    assert done.returncode == 0
    assert json.loads(done.stdout)["packages"]["torch"] == torch.__version__.partition("+")[0]

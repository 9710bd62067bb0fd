"""Trainings one after the other, in processes that torchrun starts once. The file that is named has their options."""

import contextlib
import json
import sys
from pathlib import Path

import torch

from fastkd import train
from fastkd.support import distributed

if __name__ == "__main__":
    with distributed.processes(torch.device("cpu")):
        distributed.processes = contextlib.nullcontext  # gloo finds no second group under the addresses of the first
        for arguments in json.loads(Path(sys.argv[1]).read_text()):
            if (code := train.main(arguments)) != 0:
                sys.exit(code)

"""Trainings one after the other, in processes that torchrun starts once. The file that is named has their options."""

import json
import sys
from pathlib import Path

import torch

from fastkd import train
from fastkd.support.joining import processes

if __name__ == "__main__":
    with processes(torch.device("cpu")):  # each training takes this group as it is
        for arguments in json.loads(Path(sys.argv[1]).read_text()):
            if (code := train.main(arguments)) != 0:
                sys.exit(code)

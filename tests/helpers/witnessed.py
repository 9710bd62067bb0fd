"""`python -m fastkd.train` with a witness: every step writes down what it was made of. Run by test_nodes.py.

The first argument is the folder of what is written: a line for each step of each process, with the stage, the step, and
of each image its number and a digest of its crop. There is the network `plain8`, too, whose gradients do not depend on
who forwards which image.
"""

import json
import os
import sys
import time
import zlib
from pathlib import Path

import without_batchnorm  # noqa: F401  # pyright: ignore - it stands beside this file, and adds the network

from fastkd import train
from fastkd.support.command_line import command
from fastkd.training.step import Step

SECONDS = 0.05
"""A step takes so much longer, so that there is time for a fault, and for who comes back, before the run has ended."""


def witness(train_step, folder):
    """The step, which writes down what it has trained on."""
    path = Path(folder) / f"{os.getpid()}.jsonl"

    def witnessed(step, raw):
        batch = step.prepare(raw, step.done, step.epoch)
        crops = [zlib.crc32(image.contiguous().numpy().tobytes()) for image in batch.images[0]]
        seen = sorted(zip(batch.index.tolist(), crops, strict=True))
        record = {"stage": type(step.stage).__name__, "step": int(step.done), "images": seen}
        train_step(step, raw)
        time.sleep(SECONDS)
        with path.open("a") as file:  # behind the step: one that a fault broke off was never made
            file.write(json.dumps(record) + "\n")

    return witnessed


if __name__ == "__main__":
    Step._train = witness(Step._train, sys.argv.pop(1))
    sys.exit(command(train.main))

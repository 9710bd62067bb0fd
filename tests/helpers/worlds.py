"""`python -m fastkd.train`, and what each process saw of it: run by test_worlds.py, one process or many.

In float32 one of a million activations lies so near its kink that rounding decides, and moves weights by 1e-4 of theirs
in some steps: where sums are added in another order, float64 tells rounding from a mistake.

worlds.py FOLDER float32|float64 OPTION…   writes FOLDER/seen-RANK.pt
"""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import torch

from fastkd import train
from fastkd.losses import crd
from fastkd.networks.base import Network
from fastkd.ops.crd.draws import draw
from fastkd.run.builder import Builder
from fastkd.support.command_line import command
from fastkd.training.meter import Meter
from fastkd.training.step import Step
from fastkd.training.trainer import Trainer
from helpers.places import ROOT, TESTS
from helpers.processes import ENVIRONMENT


def carried_out(folder: Path, size: int, dtype: str, *options) -> list[dict]:
    """Trains in so many processes on two nodes, which are two torchruns here; what each process saw."""
    program = [str(TESTS / "helpers" / "worlds.py"), str(folder), dtype, *map(str, options)]
    program += ["--run", str(folder / "run")]
    # Nodes are told apart by their hosts; two of one host meet on its own network.
    environment = ENVIRONMENT | {"PYTHONPATH": f"{ROOT}:{TESTS}", "GLOO_SOCKET_IFNAME": "lo"}
    lines = [[sys.executable, *program]]
    if size > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", folder.name]
        nodes = ["--nnodes", "2", "--nproc-per-node", str(size // 2), *meeting]
        lines = [[sys.executable, "-m", "torch.distributed.run", *nodes, "--", *program]] * 2
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    folder.mkdir(exist_ok=True)
    processes = [subprocess.Popen(line, cwd=ROOT, env=environment, **pipes) for line in lines]
    said = [process.communicate(timeout=600)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(said)
    # Our own files of a moment ago; what is in them is more than tensors.
    return [torch.load(folder / f"seen-{rank}.pt", weights_only=False) for rank in range(size)]


class Seen:
    """What this process sees of a training, a list each with an entry for every step of every stage, in their order."""

    def __init__(self):
        self.lists = {name: [] for name in ("index", "images", "draws", "hits")}
        self.states = {}
        """What each stage holds at its end, and how many steps it has taken."""

    def batch(self, step, batch, weight):
        self.lists["index"].append(batch.index.clone())
        self.lists["images"].append(batch.images.clone())

    def contrast(self, inputs, *_unused, **_options):
        self.lists["draws"].append(draw(inputs.contrast.rows_B, inputs.contrast.plan))

    def added(self, meter, numbers, hits):
        self.lists["hits"].append(hits.clone())

    def finished(self, trainer):
        steps = {"steps": trainer.step.done.clone()}
        self.states[trainer.name] = {name: value.clone() for name, value in trainer.stage.state_dict().items()} | steps


def in_float64():
    """Patches of the program: its stages and images are float64, whose losses plain PyTorch computes."""
    stage, forward = Builder.stage, Network.forward
    yield mock.patch.dict(os.environ, {"FASTKD_OPS": "distill_loss=reference,crd=reference"})
    yield mock.patch.object(Builder, "stage", lambda *arguments: stage(*arguments).double())
    yield mock.patch.object(Network, "forward", lambda network, images, **how: forward(network, images.double(), **how))


def watched(look, plain):
    """The function, whose arguments are looked at before."""

    def call(*arguments, **options):
        look(*arguments, **options)
        return plain(*arguments, **options)

    return call


def main(folder: str, dtype: str, *options: str) -> int:
    seen = Seen()
    with contextlib.ExitStack() as patched:
        for patch in in_float64() if dtype == "float64" else ():
            patched.enter_context(patch)
        for owner, name, look in (
            (Step, "_accumulate", seen.batch),
            (Meter, "add", seen.added),
            (crd.crd, "loss", seen.contrast),
            (Trainer, "finish", seen.finished),
        ):
            patched.enter_context(mock.patch.object(owner, name, watched(look, getattr(owner, name))))
        code = train.main([*options])
    torch.save(seen.lists | {"states": seen.states}, Path(folder) / f"seen-{os.environ.get('RANK', '0')}.pt")
    return code


if __name__ == "__main__":
    sys.exit(command(lambda arguments: main(*arguments)))

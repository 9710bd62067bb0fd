"""How the gradients of small networks travel between processes: python -m benchmarks.reduction

Two processes on a CPU (gloo), or one a GPU (NCCL), take forward and backward passes of one network, in turn, whose
gradients are cut into messages in several ways: `ddp` is what DistributedDataParallel does by itself (1 MiB, then 25),
`whole` one message at the end of backward, `1/N` messages of so much of the whole, `fastkd` the rule of
`fastkd.training.averaging`, `view` the same with gradients that lie in the messages, `alone` sends nothing. `synced` is
`fastkd` with `--sync-batchnorm`. Stand-ins for the functions of torch.distributed count what a step sends. A time is
that of the slowest process, `cpu` what all took together. Gradients are compared first.
"""

import argparse
import contextlib
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.timing import Record, commit, cpu_seconds, device_name, record_file, versions, write_json
from fastkd import networks
from fastkd.training.averaging import message_bytes
from fastkd.training.synchronised import synchronise

MIB = 2.0**20
NETWORKS = ("resnet8", "resnet20", "wrn_16_2", "resnet8x4", "ShuffleV2", "wrn_40_2", "vgg8")
"""Students of CIFAR-100, from 0.3 to 15 MiB of gradients."""
SYNCED = "synced"
QUICK = ("wrn_16_2", "resnet8x4")


class Logits(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


class Contender:
    """A network whose gradients travel in a way of its own."""

    def __init__(self, network: nn.Module, device: torch.device, *, sends: bool = True, **how: Any):
        """how: further arguments of DDP."""
        self.network, self.device, self.sends, self.how = Logits(network).to(device), device, sends, how
        self.messages: list[int] = []
        """The bytes of each message of a step, in the order in which they are sent."""
        self.module = self.reducer() if sends else self.network

    def reducer(self) -> DistributedDataParallel:
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            self.network, device_ids=ids, broadcast_buffers=False, static_graph=True, **self.how
        )

    def step(self, images: Tensor, labels: Tensor) -> None:
        self.module.zero_grad(set_to_none=True)
        F.cross_entropy(self.module(images), labels).backward()

    def count(self, images: Tensor, labels: Tensor) -> None:
        """Counts the messages of a step of a twin, whose DDP sends from Python what it sends by itself here."""
        twin = Contender(copy.deepcopy(self.network.network), self.device, sends=self.sends, **self.how)
        if isinstance(twin.module, DistributedDataParallel):
            twin.module.register_comm_hook(None, allreduce_hook)  # pyright: ignore[reportArgumentType]
        for _ in range(2):  # DDP cuts into messages what it saw in these
            twin.step(images, labels)
        with contextlib.ExitStack() as patched:
            for name, place in (("all_reduce", 0), ("all_gather", 1), ("all_gather_into_tensor", 1)):
                patched.enter_context(mock.patch.object(dist, name, self._counting(getattr(dist, name), place)))
            twin.step(images, labels)

    def _counting(self, send: Callable[..., Any], place: int) -> Callable[..., Any]:
        def sent(*arguments: Any, **options: Any) -> Any:
            self.messages.append(arguments[place].nbytes)
            return send(*arguments, **options)

        return sent


def contenders(name: str, device: torch.device) -> dict[str, Contender]:
    torch.manual_seed(0)
    network = networks.build(name, num_classes=100, image_size=32)
    parameters = [*network.parameters()]
    total = sum(parameter.nbytes for parameter in parameters)

    def of(*, synced: bool = False, **how: Any) -> Contender:
        own = copy.deepcopy(network)
        if synced:
            synchronise(own, device)
        return Contender(own, device, **how)

    ours: dict[str, Any] = {"bucket_cap_mb": message_bytes(parameters) / MIB}
    return {
        "alone": of(sends=False),
        "ddp": of(),
        "whole": of(bucket_cap_mb=2 * total / MIB),
        **{f"1/{parts}": of(bucket_cap_mb=total / parts / MIB) for parts in (2, 4, 8)},
        "fastkd": of(**ours),
        "view": of(**ours, gradient_as_bucket_view=True),
        SYNCED: of(**ours, synced=True),
    }


def check(found: dict[str, Contender], images: Tensor, labels: Tensor) -> None:
    """Three steps of each; then the gradients of all are the same mean. Those of synchronised BatchNorms are others."""
    expected: list[Tensor] = []
    for name, one in found.items():
        one.count(images, labels)
        for _ in range(3):
            one.step(images, labels)
        if name == SYNCED:
            continue
        gradients = [parameter.grad.clone() for parameter in one.module.parameters() if parameter.grad is not None]
        if not one.sends:
            for gradient in gradients:
                dist.all_reduce(gradient)
                gradient /= dist.get_world_size()
        expected = expected or gradients
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)


def timed(
    found: dict[str, Contender], turn: Callable[[Contender], None], rounds: int, device: torch.device
) -> dict[str, list[tuple[float, float]]]:
    """Wall seconds of the slowest process and processor seconds of all, for every turn of every contender."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for number in range(rounds + 1):
        order = [*found][number % len(found) :] + [*found][: number % len(found)]
        for name in order:
            dist.barrier()
            cpu, started = cpu_seconds(), time.perf_counter()
            turn(found[name])
            if device.type == "cuda":
                torch.cuda.synchronize()
            wall, cpu = torch.tensor(time.perf_counter() - started), torch.tensor(cpu_seconds() - cpu)
            dist.all_reduce(wall, op=dist.ReduceOp.MAX)
            dist.all_reduce(cpu)
            if number:
                times[name].append((wall.item(), cpu.item()))
    return times


def measure(name: str, device: torch.device, *, batch: int, rounds: int, steps: int = 3) -> list[Record]:
    found = contenders(name, device)
    torch.manual_seed(1 + dist.get_rank())
    images, labels = torch.randn(batch, 3, 32, 32, device=device), torch.randint(100, (batch,), device=device)
    check(found, images, labels)

    def turn(one: Contender) -> None:
        for _ in range(steps):
            one.step(images, labels)

    times = timed(found, turn, rounds, device)
    total = sum(parameter.nbytes for parameter in found["alone"].module.parameters())
    case = f"{name}, {total / MIB:.2f} MiB of gradients, B={batch} a process, {dist.get_world_size()} processes"
    if dist.get_rank() == 0:
        print(f"{case} on {device_name(device.type)}", flush=True)
    return [_record(case, contender, times[contender], one, steps, device) for contender, one in found.items()]


def _record(
    case: str, name: str, times: Sequence[tuple[float, float]], one: Contender, steps: int, device: torch.device
) -> Record:
    wall, cpu = zip(*times, strict=True)
    fifths = statistics.quantiles(wall, n=5, method="inclusive")
    spent = [value / steps for value in (statistics.median(wall), fifths[0], fifths[3], statistics.median(cpu))]
    if dist.get_rank() == 0:
        sizes = " + ".join(f"{size / MIB:.2f}" for size in one.messages if size >= 1 << 14)
        short = [size for size in one.messages if size < 1 << 14]
        sizes += f", {len(short)} of {sum(short) / 1024:.1f} KiB in all" if short else ""
        print(
            f"  {name:12} {spent[0] * 1e3:9.2f} ms ({spent[1] * 1e3:.2f} to {spent[2] * 1e3:.2f})"
            f"  cpu {spent[3] * 1e3:9.2f} ms  {len(one.messages)} messages {sizes}",
            flush=True,
        )
    at = ("reduction", name, case, device_name(device.type))
    return Record(*at, *spent, None, True, versions(), commit(), messages=tuple(one.messages))  # pyright: ignore


def process(rank: int, world: int, folder: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    records: list[Record] = []
    for name in options.networks:
        records += measure(name, device, batch=options.batch, rounds=options.rounds)
        if rank == 0 and options.json:  # after every network, so that one that fails loses nothing
            write_json(records, options.json)
    dist.barrier()
    os._exit(0)  # threads of gloo that wait for the interpreter while it ends would abort it


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two networks, fewer repetitions")
    parser.add_argument("--networks", nargs="+", help="only these")
    parser.add_argument("--batch", type=int, default=64, help="images of each process")
    parser.add_argument("--rounds", type=int, help="turns of each contender")
    parser.add_argument("--json", type=record_file, help="write the records to this file")
    options = parser.parse_args(arguments)
    options.networks = options.networks or (QUICK if options.quick else NETWORKS)
    options.rounds = options.rounds or (5 if options.quick else 15)
    world = max(torch.cuda.device_count(), 1) if torch.cuda.is_available() else 2
    with tempfile.TemporaryDirectory() as folder:
        spawn(process, (world, folder, options), nprocs=world)


if __name__ == "__main__":
    main()

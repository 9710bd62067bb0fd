"""Two or more processes of one gloo group, for what they share."""

import os
import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_in_two(work: Callable[..., None], folder: str, *args) -> None:
    """Calls work(rank, folder, *args) in each of two processes, which meet in the folder."""
    run_in_several(2, work, folder, *args)


def run_in_several(processes: int, work: Callable[..., None], folder: str, *args) -> None:
    """Calls work(rank, folder, *args) in each of so many processes."""
    mp.spawn(_process, (processes, work, folder, *args), nprocs=processes)


def _process(rank: int, processes: int, work: Callable[..., None], folder: str, *args) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    work(rank, folder, *args)
    dist.barrier()  # a process that leaves while the other one still talks to it can take that one down
    os._exit(0)  # threads of gloo that wait for the interpreter while it ends would abort it

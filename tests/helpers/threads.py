"""Processes of a group as threads of one, by the process group of torch's own tests: what several do costs no start."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.multi_threaded_pg import (
    ProcessLocalGroup,
    _install_threaded_pg,
    _uninstall_threaded_pg,
)

T = TypeVar("T")

ONE_AT_A_TIME = threading.Lock()
"""Held while something is built: the random numbers of torch are those of all threads."""


def in_threads(processes: int, work: Callable[[int], T]) -> list[T]:
    """What work(rank) returns in each of so many threads, which send each other messages as processes do."""
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    _install_threaded_pg()
    store = dist.HashStore()

    def one(rank: int) -> T:
        # The group goes with its thread: torch 2.11 cannot destroy one of this kind.
        dist.init_process_group("threaded", rank=rank, world_size=processes, store=store)
        try:
            return work(rank)
        except BaseException as error:
            ProcessLocalGroup.exception_handle(error)  # wakes the others
            raise

    try:
        with ThreadPoolExecutor(processes) as pool:
            return [*pool.map(one, range(processes))]
    finally:
        ProcessLocalGroup.reset()
        _uninstall_threaded_pg()
        torch._C._distributed_c10d._set_thread_isolation_mode(False)

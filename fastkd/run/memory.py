"""What to do where a job needs more memory than there is."""

import contextlib
from collections.abc import Iterator

import torch

from fastkd.run.job import Job
from fastkd.support.command_line import what_ran_out
from fastkd.support.errors import UserError


@contextlib.contextmanager
def out_of_memory_names_the_knobs(job: Job) -> Iterator[None]:
    """Makes one line of running out of memory, which says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and what_ran_out(error) != "memory":
            raise
        batch = job.recipe.stages[-1].training
        size = f" (now {batch.batch_size})" if batch else ""
        knobs = f"raise --accumulate, or lower --batch-size{size} or --image-size"
        raise UserError(f"out of memory on {job.device}: {knobs}") from error

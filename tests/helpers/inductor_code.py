"""The kernels that torch.compile writes for a GPU, without one: their calls are read, nothing is run."""

import contextlib
import re
from collections import Counter
from unittest import mock

import torch


@contextlib.contextmanager
def written_for_a_gpu():
    """Within it Inductor writes Triton for what is on the CPU. What it has written is in the list that is yielded; the
    kernels are not compiled, and leave their results as they are."""
    from torch._inductor import config
    from torch._inductor.codecache import PyCodeCache
    from torch._inductor.runtime import triton_helpers, triton_heuristics
    from torch._inductor.utils import fresh_cache
    from triton.backends.compiler import GPUTarget

    codes, write = [], PyCodeCache.write

    def kept(source, *arguments, **options):
        codes.append(source)
        return write(source, *arguments, **options)

    def nothing(*arguments, **options):
        return None

    tuner, gpu = triton_heuristics.CachingAutotuner, GPUTarget("cuda", 90, 32)
    with (
        config.patch(cpu_backend="triton", compile_threads=1),
        fresh_cache(),
        mock.patch.object(PyCodeCache, "write", kept),
        mock.patch.object(torch.utils._triton, "triton_hash_with_backend", lambda: ""),
        mock.patch.object(triton_helpers, "set_driver_to_cpu", nothing),
        mock.patch.object(triton_heuristics, "GPUTarget", lambda *unused: gpu),
        mock.patch.multiple(tuner, run=nothing, precompile=nothing),
    ):
        torch.compiler.reset()
        yield codes
    torch.compiler.reset()


def calls(codes) -> Counter[str]:
    """How often each kind of kernel is called, by its name without the number at its end."""
    names = (name for code in codes for name in re.findall(r"^\s+(triton_\w+)\.run\(", code, re.MULTILINE))
    return Counter(re.sub(r"_\d+$", "", name) for name in names)

"""One small SFTN step as torch.compile and our kernels do it on a GPU, executed without one.

Inductor writes Triton for the CPU when it is told to; its driver is then the executor's. Convolutions and products of
matrices are library calls there as here, and are PyTorch's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from helpers.executed import executing
from helpers.tiny import built_stages, tiny_recipe
from ptx import Device, findings

from fastkd.data import Batch
from fastkd.training.compilation import compile_stage
from fastkd.training.stages import Stage

pytestmark = [
    pytest.mark.ptx,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),  # torch's own
]


@contextmanager
def compiled_for(architecture: str) -> Iterator[Device]:
    """Within, torch.compile makes Triton kernels for a GPU out of what is on the CPU."""
    from torch._inductor import config
    from torch._inductor.runtime import triton_helpers, triton_heuristics
    from torch._inductor.utils import fresh_cache
    from triton.backends.compiler import GPUTarget

    capability = int(architecture.removeprefix("sm_"))
    with (
        config.patch(cpu_backend="triton", compile_threads=1),
        fresh_cache(),
        mock.patch.object(triton_helpers, "set_driver_to_cpu", lambda: None),
        mock.patch.object(triton_heuristics, "GPUTarget", lambda *unused: GPUTarget("cuda", capability, 32)),
        executing(architecture, keep_findings=True) as gpu,
    ):
        yield gpu


def gradients(stage: Stage, batch: Batch) -> list[torch.Tensor]:
    stage.zero_grad()
    stage(batch).total.backward()
    return [parameter.grad.clone() for parameter in stage.parameters() if parameter.grad is not None]


def test_a_compiled_step_of_a_student_friendly_teacher():
    """Its gradients are those of the step that is not compiled; what is found is one thing, which changes nothing."""
    torch.compiler.reset()
    plain, compiled = (built_stages(tiny_recipe())[1]["teacher"].train() for _ in range(2))
    compiled.load_state_dict(plain.state_dict())
    images, labels = torch.randn(1, 6, 3, 8, 8), torch.randint(10, (6,))
    batch = Batch(images, labels, torch.arange(6), torch.tensor(0), torch.tensor(0))
    expected = gradients(plain, batch)
    with compiled_for("sm_90") as gpu:
        compile_stage(compiled, "blocks")
        found = gradients(compiled, batch)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=1e-5)
    names = {result.kernel for result in gpu.launches}
    assert len([name for name in names if name.startswith("triton_")]) >= 10 and "rows_kernel" in names
    # A running mean is read by every warp of a block, and written by one, which alone keeps what it has read.
    kinds = {finding.kind for result in gpu.launches for finding in result.findings}
    where = {finding.kernel for result in gpu.launches for finding in result.findings}
    assert kinds <= {findings.RACE} and all("batch_norm" in kernel for kernel in where)

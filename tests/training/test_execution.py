"""What `auto` means on a device, and what is refused."""

import warnings

import pytest
import torch
from helpers.steps import make_step
from helpers.tiny import CPU

from fastkd.support.errors import UserError
from fastkd.training.execution import EVERYTHING_OFF, Execution, Resolved, resolve, set_up


def turing(monkeypatch):
    """A card before sm_80."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla T4")


@pytest.fixture
def exactness():
    """Puts torch's switches back."""
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before[:2]
    torch.set_float32_matmul_precision(before[2])


class TestExecution:
    def test_the_cpu_is_plain_pytorch(self):
        resolved, why = resolve(Execution(), CPU)
        assert (
            resolved == EVERYTHING_OFF._replace(write_aside=True, shard_checkpoints=True) and "--compile blocks" in why
        )

    def test_a_gpu_has_everything_on(self):
        resolved, why = resolve(Execution(), torch.device("cuda"))
        assert resolved == Resolved("blocks", True, True, True, True, deterministic=False) and not why

    def test_several_processes_capture_when_they_are_told_to_and_say_so(self):
        resolved, why = resolve(Execution(), torch.device("cuda"), processes=2)
        assert not resolved.capture and "captured by --capture on alone" in why
        resolved, why = resolve(Execution(capture="on"), torch.device("cuda"), processes=2)
        assert resolved.capture and not why
        assert not resolve(Execution(capture="off"), torch.device("cuda"), processes=1)[0].capture

    def test_capturing_on_the_cpu_is_refused(self):
        with pytest.raises(UserError, match="--capture on: only a GPU"):
            resolve(Execution(capture="on"), CPU)

    def test_channels_last_on_the_cpu_is_refused(self):
        with pytest.raises(UserError, match="on the CPU it makes convolutions slower"):
            resolve(Execution(channels_last="on"), CPU)

    def test_float32_is_what_it_says(self, exactness):
        """torch has convolutions in TF32 unless it is told otherwise."""
        on = EVERYTHING_OFF._replace(bfloat16=True)
        for resolved, tf32 in ((EVERYTHING_OFF, False), (on, True), (EVERYTHING_OFF, False)):
            torch.set_float32_matmul_precision("high")
            set_up(resolved, torch.device("cuda"))
            assert torch.backends.cudnn.allow_tf32 is tf32
            assert torch.backends.cuda.matmul.allow_tf32 is False
        with warnings.catch_warnings(record=True) as told:
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            set_up(EVERYTHING_OFF, torch.device("cuda"))
            warnings.warn("TensorFloat32 tensor cores for float32 matrix multiplication available", stacklevel=1)
        assert not told

    def test_a_gpu_without_bfloat16_computes_in_float32_and_says_so(self, monkeypatch):
        turing(monkeypatch)
        resolved, why = resolve(Execution(), torch.device("cuda"))
        assert resolved == Resolved("blocks", True, False, True, True, deterministic=False)
        assert why == "float32, since the Tesla T4 (sm_75) has no bfloat16"
        _, why = resolve(Execution(), torch.device("cuda"), processes=2)
        assert why.startswith("with several processes the step is captured by") and why.endswith(
            "; float32, since the Tesla T4 (sm_75) has no bfloat16"
        )
        resolved, why = resolve(Execution(precision="float32"), torch.device("cuda"))
        assert not resolved.bfloat16 and not why
        with pytest.raises(UserError, match="--precision bfloat16: the Tesla T4 .sm_75. cannot compute in it"):
            resolve(Execution(precision="bfloat16"), torch.device("cuda"))

    def test_bfloat16_keeps_the_losses_in_float32(self):
        step, raws = make_step(EVERYTHING_OFF._replace(bfloat16=True))
        seen = []
        step.stage.network.head.classifier.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
        step(raws[0])
        assert seen == [torch.bfloat16]
        assert all(parameter.dtype == torch.float32 for parameter in step.stage.parameters())
        assert step.meter.read().means()["loss"] == pytest.approx(2.3, abs=0.8)

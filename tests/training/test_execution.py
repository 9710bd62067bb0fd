"""What `auto` means on a device, and what is refused."""

import pytest
import torch
from helpers.steps import make_step
from helpers.tiny import CPU

from fastkd.support.errors import UserError
from fastkd.training.execution import EVERYTHING_OFF, Execution, Resolved, resolve


class TestExecution:
    def test_the_cpu_is_plain_pytorch(self):
        resolved, why = resolve(Execution(), CPU)
        assert resolved == EVERYTHING_OFF and "--compile blocks" in why

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

    def test_bfloat16_keeps_the_losses_in_float32(self):
        step, raws = make_step(EVERYTHING_OFF._replace(bfloat16=True))
        seen = []
        step.stage.network.head.classifier.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
        step(raws[0])
        assert seen == [torch.bfloat16]
        assert all(parameter.dtype == torch.float32 for parameter in step.stage.parameters())
        assert step.meter.read().means()["loss"] == pytest.approx(2.3, abs=0.8)

"""The mean of the gradients over the processes; two of them are in test_agreement.py."""

import pytest
import torch
from helpers.dispatched import Launches
from helpers.steps import make_step
from helpers.tiny import CPU
from torch import nn

from fastkd.support import distributed
from fastkd.training import averaging
from fastkd.training.averaging import Averaging, average_gradients


def test_one_process_calls_the_stage_itself():
    step, _ = make_step()
    mean = Averaging(step.stage, CPU, static_graph=True)
    mean.build()
    assert mean.reducer is None
    with mean.part(last=False), mean.stream():
        mean.finish()
    batch = step.prepare(next(iter(step.loader.epoch(0))), step.done, step.epoch)
    step.stage.eval()
    assert mean.module()(batch).total == step.stage(batch).total


class TestOneOfTwo:
    """The other one sends three times what this one does."""

    @pytest.fixture(autouse=True)
    def two(self, monkeypatch):
        self.messages = []

        def all_reduce(flat):
            self.messages.append(flat.shape)
            flat.mul_(4)

        monkeypatch.setattr(averaging, "world_size", lambda: 1 if distributed._alone else 2)
        monkeypatch.setattr(averaging.dist, "all_reduce", all_reduce)
        monkeypatch.setattr(averaging.dist, "get_world_size", lambda: 2)

    def parameters(self):
        torch.manual_seed(0)
        convolution = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
        parameters = [*convolution.parameters(), nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(3, 5))]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        return parameters

    def test_all_gradients_are_the_mean_by_one_message(self):
        parameters = self.parameters()
        before = [parameter.grad.clone() for parameter in parameters]
        average_gradients(parameters)
        assert self.messages == [(216 + 6 + 1 + 15,)]
        for parameter, gradient in zip(parameters, before, strict=True):
            assert torch.equal(parameter.grad, gradient * 2)
            assert parameter.grad.stride() == gradient.stride()

    def test_they_are_copied_once_and_divided_once(self):
        parameters, launches = self.parameters(), Launches()
        with launches:
            average_gradients(parameters)
        assert launches.names == ["_foreach_copy_", "mul_", "mul_"], "the last one is the message"

    def test_a_parameter_without_a_gradient_is_not_sent(self):
        step, _ = make_step()
        mean = Averaging(step.stage, CPU, static_graph=True)
        mean.build(one_message=True)
        bias = step.stage.network.head.classifier.bias
        bias.grad = torch.ones_like(bias)
        mean.finish()
        assert self.messages == [bias.shape] and (bias.grad == 2).all()
        others = [parameter for parameter in step.stage.parameters() if parameter is not bias]
        assert all(parameter.grad is None for parameter in others)

    def test_alone_it_sends_nothing(self):
        step, raws = make_step()
        step.averaging.build(one_message=True)
        step._train_alone(raws[0])
        assert self.messages == [] and step.done == 1

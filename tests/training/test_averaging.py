"""The mean of the gradients over the processes; two of them are in test_agreement.py."""

import pytest
import torch
import torch.distributed as dist
from helpers.courses import taught_recipe
from helpers.dispatched import Launches
from helpers.steps import make_step, step_of_stage
from helpers.tiny import CPU
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from fastkd.support import distributed
from fastkd.training import averaging, gates
from fastkd.training.averaging import Averaging, average_gradients, message_bytes


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


@pytest.mark.parametrize("mebibytes, message", ((0.25, 1), (3.5, 1), (8, 2), (44, 11), (400, 25)))
def test_gradients_travel_in_four_messages_of_one_to_twenty_five_mebibytes(mebibytes, message):
    size = int(mebibytes * 2**18)
    weights = [nn.Parameter(torch.empty(size, device="meta")), nn.Parameter(torch.empty(size), requires_grad=False)]
    assert message_bytes(weights) == message << 20


class TestMessages:
    """A group of one process that believes to be one of two: what it sends comes back, and is written down."""

    @pytest.fixture(autouse=True)
    def group(self, tmp_path, monkeypatch):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
        self.sent, plain = [], dist.all_reduce

        def all_reduce(tensor, *arguments, **options):
            self.sent.append(tensor.nbytes)
            return plain(tensor, *arguments, **options)

        for module in (averaging, distributed, gates):
            monkeypatch.setattr(module, "world_size", lambda: 2)
        monkeypatch.setattr(dist, "all_reduce", all_reduce)
        yield
        dist.destroy_process_group()

    def sent_by(self, step, raws, **how):
        """The bytes of each message of a step, the third, for which DDP has cut its messages by what it saw."""
        step.averaging.build(**how)
        if step.averaging.reducer is not None:
            step.averaging.reducer.register_comm_hook(None, allreduce_hook)
        for raw in raws[:3]:
            self.sent.clear()
            step(raw)
        return self.sent

    FLAG = 4
    """Whether anything is not finite."""

    @pytest.mark.parametrize("parts, how", ((1, {}), (4, {}), (4, {"one_message": True})), ids=str)
    def test_of_a_batch_in_parts_the_last_one_alone_sends(self, parts, how):
        step, raws = make_step(accumulate=parts)
        assert self.sent_by(step, raws, **how) == [gradients_of(step), self.FLAG]

    @pytest.mark.slow
    @pytest.mark.parametrize("parts", (1, 4))
    def test_gated_gradients_travel_once_too(self, parts):
        step, raws = step_of_stage("student", recipe=taught_recipe("sckd"), accumulate=parts)
        *gated, flag = self.sent_by(step, raws)
        assert flag == self.FLAG and len(gated) == 1 and gated[0] > gradients_of(step)

    def test_a_network_of_some_mebibytes_begins_to_send_before_backward_ends(self):
        step, raws = make_step(network="wrn_16_2")
        *gradients, flag = self.sent_by(step, raws)
        assert flag == self.FLAG and sum(gradients) == gradients_of(step)
        assert len(gradients) > 1 and gradients[-1] < gradients_of(step) / 2


def gradients_of(step):
    return sum(parameter.nbytes for parameter in step.stage.parameters())

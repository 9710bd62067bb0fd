"""The step: compiling, accumulating, clipping and averaging change what they should and nothing else."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from helpers.dispatched import beside_forward_and_backward
from helpers.recorders import HasNoMemory, Refuses, RunAgain
from helpers.steps import close, make_step, step_of_stage, steps_of, weights
from helpers.tiny import tiny_recipe, train

from fastkd import networks
from fastkd.support.errors import UserError
from fastkd.training.optimisation import Training, WeightAverage


class TestTraining:
    @pytest.mark.parametrize("images", (32, 13, 3))
    def test_accumulation_equals_the_whole_batch_without_batchnorm(self, images):
        """The last batch of an epoch may not divide into the parts, or have fewer images than there are parts."""
        results = []
        for parts in (1, 4):
            step, raws = make_step(accumulate=parts, lr=0.01)
            for module in step.stage.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
            step(raws[0]._replace(index=raws[0].index[:images]))
            results.append((weights(step), step.meter.read().means()))
        (whole, terms), (parts_, part_terms) = results
        close(parts_, whole, rtol=1e-4, atol=1e-6)
        assert part_terms == pytest.approx(terms, rel=1e-5)

    def test_the_gradient_is_clipped(self):
        free, raws = make_step(momentum=0.0, weight_decay=0.0, lr=1.0, warmup_epochs=0)
        clipped, _ = make_step(momentum=0.0, weight_decay=0.0, lr=1.0, warmup_epochs=0, clip_norm=0.01)
        for step, limit in ((free, 1e9), (clipped, 0.01)):
            before = torch.cat([p.detach().flatten() for p in step.stage.parameters()])
            step(raws[0])
            moved = (torch.cat([p.detach().flatten() for p in step.stage.parameters()]) - before).norm()
            assert moved <= limit * 1.001
            assert limit > 1 or moved == pytest.approx(0.01, rel=1e-3)

    def test_weights_are_averaged(self):
        step, raws = make_step(ema=0.5)
        expected = {name: value.detach().clone() for name, value in step.stage.network.named_parameters()}
        for raw in raws[:3]:
            step(raw)
            for name, value in step.stage.network.named_parameters():
                expected[name] = 0.5 * expected[name] + 0.5 * value.detach()
        found = dict(step.average.network.named_parameters())
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
        buffers = dict(step.average.network.named_buffers())
        assert all(torch.equal(buffers[name], value) for name, value in step.stage.network.named_buffers())

    def test_averaged_weights_are_evaluated_saved_and_resumed(self, tmp_path):
        base = tiny_recipe()
        recipe = replace(base, stages=tuple(replace(s, training=replace(s.training, ema=0.9)) for s in base.stages))
        (result,) = train(recipe, tmp_path)
        assert "student (ema)" in result["stages"]["student"]["test"]
        assert (tmp_path / "student-ema.safetensors").exists()

    def test_the_average_is_a_copy_in_eval_mode(self):
        network = networks.build("resnet8")
        average = WeightAverage(network, 0.9)
        assert average.network is not network and not average.network.training

    def test_a_step_reads_nothing_on_the_host(self, monkeypatch):
        step, raws = make_step(ema=0.9, clip_norm=1.0)
        step(raws[0])

        def refuse(*arguments, **options):
            raise AssertionError("the step waits for the device")

        for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"):
            monkeypatch.setattr(torch.Tensor, name, refuse)
        step(raws[1])

    @pytest.mark.parametrize(
        "settings, words",
        [
            ({"accumulate": 3}, "batch of 64 images does not divide into 3 parts"),
            ({"shards": 65}, "batch of 64 images does not divide into 65 shards"),
            ({"shards": 4, "accumulate": 2}, "--shards takes each batch in parts, as --accumulate does"),
            ({"shards": 4, "sync_batchnorm": True}, "--shards: each has BatchNorm statistics of its own"),
            ({"clip_norm": 0.0}, "Training.clip_norm is 0.0, expected a number above 0"),
            ({"ema": 1.0}, "Training.ema is 1.0, expected a number from 0 to below 1"),
        ],
    )
    def test_mistakes(self, settings, words):
        with pytest.raises(UserError, match=words):
            Training(epochs=1, **settings)


class TestLaunches:
    """What a step does with single numbers is a handful of launches, however many terms its loss has."""

    FEW = (
        *("_foreach_norm", "stack", "linalg_vector_norm", "stack"),  # the norm of all gradients; the terms
        *("linalg_vector_norm", "lt", "logical_not"),  # is all finite
        *("clamp", "index_select", "add_", "gt", "where", "where"),  # the rates; the step's number; the first bad step
        *("_fused_sgd_", "add_", "add_", "maximum"),  # the meter
    )

    @pytest.mark.parametrize("name", ("teacher", "student", "control"))
    def test_they_are_few(self, name):
        step, raws = step_of_stage(name)
        step(raws[0])
        assert beside_forward_and_backward(step, raws[1]) == [*self.FEW]

    def test_clipping_and_averaging_take_all_weights_at_once(self):
        step, raws = make_step(ema=0.9, clip_norm=1.0)
        step(raws[0])
        more = Counter(beside_forward_and_backward(step, raws[1])) - Counter(self.FEW)
        clipping = ("add", "reciprocal", "mul", "clamp", "_foreach_mul_")
        buffers = ("_foreach_copy_", "_foreach_copy_")  # BatchNorm's, of two types
        assert more == Counter((*clipping, "_foreach_lerp_", *buffers))


@pytest.mark.parametrize("recorder", (RunAgain, Refuses))
def test_warming_up_is_no_training(recorder):
    step, raws = make_step(batch_size=4, ema=0.9)
    step(raws[0])
    torch.manual_seed(5)
    before, rng, read = weights(step), torch.get_rng_state(), step.meter.read()
    momentum = [state["momentum_buffer"].clone() for state in step.optimizer.state.values()]
    step.warm_up(step.loader, recorder())
    close(weights(step), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), rng)
    assert step.done == 1 and step.meter.read() == read
    after = [state["momentum_buffer"] for state in step.optimizer.state.values()]
    assert all(map(torch.equal, momentum, after))


def test_what_cannot_be_captured_says_why_and_goes_on():
    eager, _ = make_step()
    step, _ = make_step()
    (why,) = step.warm_up(step.loader, Refuses())
    assert why.startswith("not captured: RuntimeError: operation not permitted when stream is capturing and more (")
    steps_of(eager)
    steps_of(step)
    close(weights(step), weights(eager), rtol=0, atol=0)


def test_out_of_memory_is_no_reason_to_go_on_without():
    step, _ = make_step()
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 2 GiB"):
        step.warm_up(step.loader, HasNoMemory())


class TestOptimisersOfTheHost:
    """Those that read on the host, as timm's do."""

    def made(self):
        step, batches = make_step()
        parameters = [parameter for group in step.optimizer.param_groups for parameter in group["params"]]
        groups = [{"params": parameters, "lr": torch.tensor(0.05), "lr_factor": 1.0}]
        step.optimizer = torch.optim.SGD(groups, fused=False, foreach=False)
        return step, batches

    def test_they_are_not_captured(self):
        step, _ = self.made()
        (why,) = step.warm_up(step.loader, RunAgain())
        assert why == "not captured: SGD counts its steps on the host"

    def test_what_is_not_finite_changes_no_weight(self):
        step, batches = self.made()
        step(batches[0])
        before = dict(step.stage.named_parameters())
        before = {name: value.detach().clone() for name, value in before.items()}
        step.prepare.normalise.shift.fill_(float("nan"))
        step(batches[0])
        assert step.first_bad.step == 1
        for name, value in step.stage.named_parameters():
            assert torch.equal(value, before[name])


def test_a_batch_that_is_never_whole_is_not_captured():
    step, _ = make_step(batch_size=64)
    step.batch_size = 200  # as if of one process of several
    (why,) = step.warm_up(step.loader, RunAgain())
    assert "not captured: the only batch has" in why

"""What is compiled is the same: stages, steps, networks and whole runs."""

import copy
from dataclasses import replace

import pytest
import torch
from helpers.courses import prestage_recipe, taught_recipe
from helpers.steps import close, eagerly, make_step, weights
from helpers.tiny import Quiet, assert_same, built_stages, outcome, tiny_recipe, train

from fastkd import networks
from fastkd.training.compilation import compile_stage, compiled_parts, undo_compile
from fastkd.training.execution import EVERYTHING_OFF
from fastkd.training.stages import Supervised

STAGES = {
    "student-ab": lambda: prestage_recipe("ab"),
    "student-ft": lambda: prestage_recipe("kd+ft"),
    "student-sskd": lambda: prestage_recipe("kd+sskd"),
    "dml": lambda: taught_recipe("dml"),
    "kdcl": lambda: taught_recipe("kdcl", target="linear"),
    "rco": lambda: taught_recipe("rco", anchors=2),
    "simkd": lambda: taught_recipe("simkd"),
}


MODES = [(name, "whole") for name in STAGES] + [("student-sskd", "blocks"), ("dml", "blocks")]


@pytest.mark.parametrize(
    "name, mode", [pytest.param(*it, marks=pytest.mark.slow if it[0] == "kdcl" else ()) for it in MODES]
)
def test_compiled_it_is_the_same(name, mode):
    builder, stages = built_stages(STAGES[name]())
    own = name if name.startswith("student") else "student"
    stage, planned = stages[own], next(planned for planned in builder.job.course if planned.name == own)
    stage.train().begin_epoch(0)
    source, zero = builder.train_source(planned, stage.views), torch.tensor(0)
    batch = source.prepare(next(iter(source.loader.epoch(0))), zero, zero)
    torch._dynamo.reset()
    twin = copy.deepcopy(stage)
    compile_stage(twin, mode, backend="eager")
    losses = [each(batch) for each in (stage, twin)]
    for loss in losses:
        loss.total.backward()
    torch.testing.assert_close(losses[1].total, losses[0].total)
    gradients = [{n: p.grad for n, p in each.named_parameters() if p.grad is not None} for each in (stage, twin)]
    close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


class TestCompile:
    @pytest.fixture(autouse=True)
    def fresh(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def test_warming_up_is_no_training(self, monkeypatch):
        step, _ = make_step(EVERYTHING_OFF._replace(compile="blocks"))
        monkeypatch.setattr("fastkd.training.step.compile_stage", eagerly)
        torch.manual_seed(5)
        before, rng = weights(step), torch.get_rng_state()
        (done,) = step.warm_up(step.loader)
        assert done.startswith("compiled in")
        close(weights(step), before, rtol=0, atol=0)
        assert torch.equal(torch.get_rng_state(), rng)
        assert step.done == 0 and step.meter.read().means() == {}
        assert all(not state["momentum_buffer"].any() for state in step.optimizer.state.values())

    @pytest.mark.parametrize("optimizer", ("sgd", "adam"))
    def test_compiled_steps_equal_eager_ones(self, optimizer, monkeypatch):
        """By the eager backend, which traces and guards but leaves the arithmetic alone: bit for bit."""
        monkeypatch.setattr("fastkd.training.step.compile_stage", eagerly)
        eager, raws = make_step(optimizer=optimizer)
        compiled, _ = make_step(EVERYTHING_OFF._replace(compile="blocks"), optimizer=optimizer)
        compiled.warm_up(compiled.loader)
        for raw in raws:
            eager(raw)
            compiled(raw)
        close(weights(compiled), weights(eager), rtol=0, atol=0)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"

    def test_weights_that_are_cast_before_are_what_a_compiled_block_reads(self, monkeypatch):
        """In bfloat16 they are no parameters but inputs like any other: nothing is compiled again for them."""
        monkeypatch.setattr("fastkd.training.step.compile_stage", eagerly)
        bfloat16 = EVERYTHING_OFF._replace(bfloat16=True)
        (eager, raws), (compiled, _) = make_step(bfloat16), make_step(bfloat16._replace(compile="blocks"))
        compiled.warm_up(compiled.loader)
        torch._dynamo.utils.counters.clear()
        for raw in raws[:2]:
            eager(raw)
            compiled(raw)
        close(weights(compiled), weights(eager), rtol=0, atol=0)
        assert not torch._dynamo.utils.counters["stats"]["unique_graphs"], "something was traced again"

    def test_a_smaller_batch_is_not_compiled_again(self, monkeypatch):
        monkeypatch.setattr("fastkd.training.step.compile_stage", eagerly)
        step, raws = make_step(EVERYTHING_OFF._replace(compile="blocks"))
        step.warm_up(step.loader)
        torch._dynamo.utils.counters.clear()
        step(raws[0])
        step(raws[1]._replace(index=raws[1].index[:5]))
        assert not torch._dynamo.utils.counters["stats"]["unique_graphs"], "something was traced again"
        assert step.done == 2

    def test_what_cannot_be_compiled_says_why_and_goes_on(self, monkeypatch):
        def broken(stage, mode):
            def backend(graph, inputs):
                raise RuntimeError("no compiler here")

            compile_stage(stage, mode, backend)

        monkeypatch.setattr("fastkd.training.step.compile_stage", broken)
        eager, raws = make_step()
        step, _ = make_step(EVERYTHING_OFF._replace(compile="blocks"))
        (why,) = step.warm_up(step.loader)
        assert "not compiled" in why and "no compiler here" in why and "\n" not in why
        for raw in raws:
            eager(raw)
            step(raw)
        close(weights(step), weights(eager), rtol=0, atol=0)

    @pytest.mark.slow
    def test_inductor_equals_eager_within_rounding(self):
        eager, raws = make_step()
        compiled, _ = make_step(EVERYTHING_OFF._replace(compile="blocks"))
        (done,) = compiled.warm_up(compiled.loader)
        assert done.startswith("compiled in")
        for raw in raws[:2]:
            eager(raw)
            compiled(raw)
        close(weights(compiled), weights(eager), rtol=1e-3, atol=1e-4)


SMALL = ("resnet20", "wrn_16_1", "vgg8", "tf_cnn")
"""One of each way in which a network is made of blocks, and quickly compiled."""
SMALLEST = ("wrn_16_1",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SMALL else pytest.mark.slow) for name in networks.NETWORKS]
)
def test_no_network_falls_back_to_frames_that_are_not_compiled(name):
    """In training and in evaluation, every block of a forward pass is one execution of one whole graph."""
    torch._dynamo.reset()
    executions = [0]

    def counting(graph, inputs):
        def run(*arguments):
            executions[0] += 1
            return graph(*arguments)

        return run

    network = networks.build(name, num_classes=10)
    stage = Supervised(network, "network")
    images = torch.randn(2, 3, 32, 32)
    compile_stage(stage, "blocks", counting)
    parts = compiled_parts(stage, "blocks")
    assert len(parts) == len(network.blocks) + 2
    for training in (True, False, True, False):
        stage.train(training)
        executions[0] = 0
        assert network(images).logits.shape == (2, 10)
        assert executions[0] == len(parts)
    undo_compile(stage)
    executions[0] = 0
    network(images)
    assert executions[0] == 0
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # inductor's own
@pytest.mark.parametrize("backend", ("aot_eager", pytest.param("inductor", marks=pytest.mark.slow)))
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SMALLEST else pytest.mark.slow) for name in networks.NETWORKS]
)
def test_a_compiled_network_equals_itself_uncompiled(name, backend):
    """Outputs and gradients of a training step, in float64; then the outputs in evaluation."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = networks.build(name, num_classes=10).double()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # the compiler draws other numbers
    stage = Supervised(network, "network")
    size = 64 if name.startswith("torchvision") else 32
    images = torch.randn(4, 3, size, size, dtype=torch.float64)
    state = copy.deepcopy(network.state_dict())

    def step():
        network.load_state_dict(state)
        network.zero_grad()
        logits = network.train()(images).logits
        logits.square().mean().backward()
        gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        with torch.no_grad():
            return [logits.detach(), *gradients, network.eval()(images).logits]

    expected = step()
    compile_stage(stage, "blocks", backend)
    for found, goal in zip(step(), expected, strict=True):
        torch.testing.assert_close(found, goal, rtol=1e-6, atol=1e-9 + 1e-6 * goal.abs().max().item())
    torch._dynamo.reset()


@pytest.mark.parametrize("mode", ("blocks", pytest.param("whole", marks=pytest.mark.slow)))
def test_a_compiled_run_is_the_run(mode, tmp_path, monkeypatch):
    """By the eager backend: bit for bit; nothing is left compiled when a stage is done."""
    torch._dynamo.reset()
    recipe = tiny_recipe()
    train(recipe, tmp_path / "plain")
    stages = []

    def compiling(stage, how):
        stages.append(stage)
        compile_stage(stage, how, "eager")

    monkeypatch.setattr("fastkd.training.step.compile_stage", compiling)
    train(replace(recipe, execution=replace(recipe.execution, compile=mode)), tmp_path / "compiled")
    assert_same(outcome(tmp_path / "compiled"), outcome(tmp_path / "plain"))
    assert len(stages) == 3 and torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 3
    assert all(module._compiled_call_impl is None for stage in stages for module in stage.modules())
    torch._dynamo.reset()


def test_what_cannot_be_compiled_for_evaluation_says_why_and_goes_on(tmp_path, monkeypatch):
    def only_training(graph, inputs):
        if not torch.is_grad_enabled():
            raise RuntimeError("no graph without gradients")
        return graph

    torch._dynamo.reset()
    recipe = tiny_recipe()
    plain = replace(recipe, stages=recipe.stages[:1])
    train(plain, tmp_path / "plain")
    compiled = replace(plain, execution=replace(plain.execution, compile="blocks"))
    monkeypatch.setattr(
        "fastkd.training.step.compile_stage", lambda stage, mode: compile_stage(stage, mode, only_training)
    )
    display = Quiet()
    train(compiled, tmp_path / "compiled", display=display)
    assert any("not compiled: BackendCompilerFailed: backend=" in note for note in display.notes), display.notes
    assert_same(outcome(tmp_path / "compiled"), outcome(tmp_path / "plain"))
    torch._dynamo.reset()

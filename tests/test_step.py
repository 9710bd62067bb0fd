"""The step: compiling, accumulating, clipping and averaging change what they should and nothing else."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import tiny_recipe, train

from fastkd import networks
from fastkd.networks.folding import foldable, frozen_copy
from fastkd.run.builder import Builder, open_data
from fastkd.support.errors import UserError
from fastkd.training.compilation import compile_stage, compiled_parts, undo_compile
from fastkd.training.execution import Execution, Resolved, resolve
from fastkd.training.optimisation import Training, WeightAverage, build_optimizer
from fastkd.training.stages import Supervised
from fastkd.training.step import PLAIN, Step

CPU = torch.device("cpu")


def make_step(execution=PLAIN, network="resnet8", **training):
    """A supervised step on the tiny digits, and its raw batches."""
    recipe = tiny_recipe()
    builder = Builder(recipe, open_data(recipe), 0, CPU, execution)
    stage_recipe = replace(recipe.stages[-1], network=network)
    settings = replace(stage_recipe.training, epochs=20, **training)
    stage_recipe = replace(stage_recipe, training=settings)
    stage, source = builder.stage(stage_recipe), builder.train_source(stage_recipe)
    optimizer = build_optimizer(stage, settings, CPU)
    step = Step(stage.train(), source.prepare, optimizer, settings, source.loader.steps, CPU, execution)
    step.loader = source.loader
    return step, list(source.loader.epoch(0))


def weights(step):
    return {name: value.clone() for name, value in step.stage.state_dict().items()}


def eagerly(stage, mode):
    """Compiles with the backend that traces and guards but leaves the arithmetic alone."""
    compile_stage(stage, mode, "eager")


def close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance)


class TestCompile:
    @pytest.fixture(autouse=True)
    def fresh(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def test_warming_up_is_no_training(self, monkeypatch):
        step, _ = make_step(PLAIN._replace(compile="blocks"))
        monkeypatch.setattr(
            "fastkd.training.step.compile_stage", lambda stage, mode: compile_stage(stage, mode, "eager")
        )
        torch.manual_seed(5)
        before, rng = weights(step), torch.get_rng_state()
        (done,) = step.warm_up(step.loader)
        assert done.startswith("compiled in")
        close(weights(step), before, rtol=0, atol=0)
        assert torch.equal(torch.get_rng_state(), rng)
        assert step.step == 0 and step.meter.read().means() == {}
        assert all(not state["momentum_buffer"].any() for state in step.optimizer.state.values())

    @pytest.mark.parametrize("optimizer", ("sgd", "adam"))
    def test_compiled_steps_equal_eager_ones(self, optimizer, monkeypatch):
        """By the eager backend, which traces and guards but leaves the arithmetic alone: bit for bit."""
        monkeypatch.setattr(
            "fastkd.training.step.compile_stage", lambda stage, mode: compile_stage(stage, mode, "eager")
        )
        eager, raws = make_step(optimizer=optimizer)
        compiled, _ = make_step(PLAIN._replace(compile="blocks"), optimizer=optimizer)
        compiled.warm_up(compiled.loader)
        for raw in raws:
            eager(raw)
            compiled(raw)
        close(weights(compiled), weights(eager), rtol=0, atol=0)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"

    def test_a_smaller_batch_is_not_compiled_again(self, monkeypatch):
        monkeypatch.setattr(
            "fastkd.training.step.compile_stage", lambda stage, mode: compile_stage(stage, mode, "eager")
        )
        step, raws = make_step(PLAIN._replace(compile="blocks"))
        step.warm_up(step.loader)
        torch._dynamo.utils.counters.clear()
        step(raws[0])
        step(raws[1]._replace(index=raws[1].index[:5]))
        assert not torch._dynamo.utils.counters["stats"]["unique_graphs"], "something was traced again"
        assert step.step == 2

    def test_what_cannot_be_compiled_says_why_and_goes_on(self, monkeypatch):
        def broken(stage, mode):
            def backend(graph, inputs):
                raise RuntimeError("no compiler here")

            compile_stage(stage, mode, backend)

        monkeypatch.setattr("fastkd.training.step.compile_stage", broken)
        eager, raws = make_step()
        step, _ = make_step(PLAIN._replace(compile="blocks"))
        (why,) = step.warm_up(step.loader)
        assert "not compiled" in why and "no compiler here" in why and "\n" not in why
        for raw in raws:
            eager(raw)
            step(raw)
        close(weights(step), weights(eager), rtol=0, atol=0)

    @pytest.mark.slow
    def test_inductor_equals_eager_within_rounding(self):
        eager, raws = make_step()
        compiled, _ = make_step(PLAIN._replace(compile="blocks"))
        (done,) = compiled.warm_up(compiled.loader)
        assert done.startswith("compiled in")
        for raw in raws[:2]:
            eager(raw)
            compiled(raw)
        close(weights(compiled), weights(eager), rtol=1e-3, atol=1e-4)


SMALL = ("resnet20", "resnet8x4", "wrn_16_1", "vgg8", "ShuffleV1", "ShuffleV2_0_2", "MobileNetV2", "tf_cnn")
SMALLEST = ("resnet20", "wrn_16_1", "ShuffleV2_0_2")


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


class TestFolding:
    @pytest.mark.parametrize("name", SMALL)
    def test_a_folded_teacher_gives_the_same_outputs(self, name):
        torch.manual_seed(0)
        network = networks.build(name, num_classes=10).double()
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    for value in (module.weight, module.running_var):
                        value.uniform_(0.5, 1.5)
                    for value in (module.bias, module.running_mean):
                        value.normal_()
        network.eval()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        pairs = foldable(network, 32)
        twin = frozen_copy(network, 32, fold=True)
        images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
        expected, found = network(images), twin(images)
        for field in ("logits", "stem", "final_map", "embedding"):
            torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=1e-9, atol=1e-9)
        for mine, theirs in zip(found.features, expected.features, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
        assert pairs
        left = sum(isinstance(module, torch.nn.BatchNorm2d) for module in twin.modules())
        assert left == sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()) - len(pairs)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert not any(parameter.requires_grad for parameter in twin.parameters())

    def test_a_raw_sum_that_is_used_twice_is_left_alone(self):
        """WRN's stem is a feature and a shortcut besides the BatchNorm's input: folding it would change both."""
        network = networks.build("wrn_16_1")
        stem = [name for name, module in network.named_modules() if module is network.stem or name == "stem.0"]
        assert not {conv for conv, _ in foldable(network, 32)} & set(stem)

    def test_every_batchnorm_of_a_resnet_goes(self):
        twin = frozen_copy(networks.build("resnet20"), 32, fold=True)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in twin.modules())


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
            ({"clip_norm": 0.0}, "clipped to a norm above 0"),
            ({"ema": 1.0}, "decay of the averaged weights"),
        ],
    )
    def test_mistakes(self, settings, words):
        with pytest.raises(UserError, match=words):
            Training(epochs=1, **settings)


class TestExecution:
    def test_the_cpu_is_plain_pytorch(self):
        resolved, why = resolve(Execution(), CPU)
        assert resolved == PLAIN and "--compile blocks" in why

    def test_a_gpu_has_everything_on(self):
        resolved, why = resolve(Execution(), torch.device("cuda"))
        assert resolved == Resolved("blocks", True, True, True, True, deterministic=False) and not why

    def test_several_processes_capture_nothing_and_say_so(self):
        resolved, why = resolve(Execution(), torch.device("cuda"), processes=2)
        assert not resolved.capture and "not captured with several processes" in why
        with pytest.raises(UserError, match="--capture on: with several processes"):
            resolve(Execution(capture="on"), torch.device("cuda"), processes=2)

    def test_capturing_on_the_cpu_is_refused(self):
        with pytest.raises(UserError, match="--capture on: only a GPU"):
            resolve(Execution(capture="on"), CPU)

    def test_channels_last_on_the_cpu_is_refused(self):
        with pytest.raises(UserError, match="on the CPU it makes convolutions slower"):
            resolve(Execution(channels_last="on"), CPU)

    def test_bfloat16_keeps_the_losses_in_float32(self):
        step, raws = make_step(PLAIN._replace(bfloat16=True))
        seen = []
        step.stage.network.head.classifier.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
        step(raws[0])
        assert seen == [torch.bfloat16]
        assert all(parameter.dtype == torch.float32 for parameter in step.stage.parameters())
        assert step.meter.read().means()["loss"] == pytest.approx(2.3, abs=0.8)

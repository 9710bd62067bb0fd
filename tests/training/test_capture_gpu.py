"""On a GPU: the whole step as one CUDA graph trains as the uncaptured step does."""

import gc
from dataclasses import replace

import pytest
import torch
from helpers.captured import assert_equal_from_equal_states, assert_several_are_as_good
from helpers.steps import Streamed, close, weights
from helpers.tiny import Quiet, tiny_recipe

from fastkd.data.augment import Augmentation, Normalise, StreamedImages
from fastkd.methods import METHODS
from fastkd.recipes import digits
from fastkd.recipes.planned import PlannedDistillation
from fastkd.run import Job, Run, open_data
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.support.session import Session
from fastkd.training.capture import CudaRecorder
from fastkd.training.evaluation import Evaluation
from fastkd.training.execution import EVERYTHING_OFF
from fastkd.training.optimisation import build_optimizer
from fastkd.training.step import Step

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]  # Inductor's own
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def deterministic():
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.use_deterministic_algorithms(False)
    gc.collect()


def make_step(kind="control", execution=EVERYTHING_OFF, method="kd", **training):
    """A step of the tiny digits on the GPU; kind: "teacher" (with branches), "student", "student-ft" or "control"."""
    recipe = digits(teacher_net="resnet8", student="resnet8", method=method)
    recipe = replace(recipe, limit_train=128, threads=1)
    job = replace(Job.of(recipe, open_data(recipe), CUDA), execution=execution)
    builder, earlier = Builder(job, 0), Earlier(job.course)
    planned = next(stage for stage in job.course if stage.name == kind)
    settings = replace(planned.training, **({"epochs": 400, "batch_size": 4, "warmup_epochs": 0} | training))
    planned = replace(planned, training=settings)
    if isinstance(planned, PlannedDistillation):  # peers have no teacher
        planned = replace(planned, after=())
        torch.manual_seed(1)
        earlier.networks["teacher"] = builder.network("resnet8").to(CUDA).eval()
    stage = builder.stage(planned, earlier).train()
    source = builder.train_source(planned, stage.views)
    source.prepare.to(CUDA)
    if execution.channels_last:
        stage.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(stage, settings, CUDA)
    step = Step(stage, source.prepare, optimizer, settings, source.loader.steps, CUDA, execution)
    step.loader, step.builder = source.loader, builder
    return step


def captured(step, recorder=None):
    (done,) = step.warm_up(step.loader, recorder or CudaRecorder(CUDA))
    assert done.startswith("captured in"), done
    assert step.replays is not None
    return step


def train(step, epochs=1):
    for epoch in range(epochs):
        for _ in step.epoch_of(step.loader, epoch):
            pass
    torch.cuda.synchronize()


@pytest.mark.parametrize("kind", ("teacher", "student", "control"))
@pytest.mark.parametrize("optimizer", ("sgd", "adam"))
def test_captured_steps_equal_eager_ones(kind, optimizer):
    how = {"optimizer": optimizer, "lr": 0.01, "ema": 0.9, "clip_norm": 5.0, "warmup_epochs": 1}
    eager, other = make_step(kind, **how), captured(make_step(kind, **how))
    assert_equal_from_equal_states(eager, other)
    assert_several_are_as_good(eager, other)
    assert other.first_bad.step == -1
    for step in (eager, other):
        step.done.zero_()
        train(step, epochs=2)
    assert other.done == eager.done == 64


STAGES = [("student", name) for name in METHODS if name not in ("none", "fsp")]
STAGES += [(f"student-{name}", name) for name in ("ab", "ft", "sskd")]


@pytest.mark.parametrize("kind, method", STAGES)
def test_every_method_s_step_is_captured(kind, method):
    settings = {"batch_size": 16, "lr": 1e-3}
    eager, other = (make_step(kind, method=method, **settings) for _ in range(2))
    assert_equal_from_equal_states(eager, captured(other), states=(1, 4))


def test_as_it_is_by_default():
    """Compiled blocks, bfloat16, channels_last, folded teacher, captured: it learns what the plain step learns."""
    fast = EVERYTHING_OFF._replace(compile="blocks", capture=True, bfloat16=True, channels_last=True, fold=True)
    steps = {"plain": make_step("student"), "fast": make_step("student", fast)}
    done = steps["fast"].warm_up(steps["fast"].loader, CudaRecorder(CUDA))
    assert [line.split(" in ")[0] for line in done] == ["compiled", "captured"], done
    for step in steps.values():
        train(step, epochs=8)
    plain, quick = (step.meter.read().means() for step in steps.values())
    assert quick["loss"] == pytest.approx(plain["loss"], rel=0.2)


def test_memory_stays_flat_over_a_thousand_replays():
    step = captured(make_step("student"))
    train(step)
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    train(step, epochs=250)  # 32 steps each, in five replays
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_random_numbers_advance():
    """Each replay crops anew, and draws new numbers from the device's generator."""
    step = make_step("control", lr=1e-6)
    seen = torch.zeros(400, device=CUDA)
    drawn = torch.zeros(400, device=CUDA)
    plain = step.prepare.forward

    def watched(raw, number, epoch):
        batch = plain(raw, number, epoch)
        place = number.view(1) % 400
        seen.index_copy_(0, place, batch.images.double().sum().float().view(1))
        drawn.index_copy_(0, place, torch.rand(1, device=CUDA))
        return batch

    step.prepare.forward = watched
    train(captured(step), epochs=10)
    assert len(drawn[:320].unique()) == 320
    assert len(seen[:320].unique()) > 310


def test_streamed_batches():
    """The last one of an epoch is of another size."""
    steps = []
    for _ in range(2):
        step = make_step("control", batch_size=12, drop_last=False)
        data = step.builder.job.data
        step.loader = Streamed(step.loader, data.train.images)
        step.prepare = StreamedImages(data.train.labels, Normalise(data.mean, data.std), Augmentation(), 0).to(CUDA)
        steps.append(step)
    eager, other = steps[0], captured(steps[1])
    assert_equal_from_equal_states(eager, other, states=(1, 4, 10))
    for step in steps:
        step.done.zero_()
        step.meter.clear()
        train(step, epochs=2)
    assert other.meter.steps == eager.meter.steps == 22 and other.meter.images == eager.meter.images == 256


@pytest.mark.parametrize("kind", ("teacher", "student"))
@pytest.mark.parametrize("capture", (True, False))
def test_nothing_waits_for_the_device(kind, capture):
    step = make_step(kind, ema=0.9, clip_norm=1.0)
    if capture:
        captured(step)
    train(step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in step.epoch_of(step.loader, 1):
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_loss_that_is_not_finite_changes_no_weight():
    step = captured(make_step("control"))
    train(step)
    before = weights(step)
    with torch.no_grad():
        step.stage.network.head.classifier.bias[0] = float("nan")
    train(step)
    after = weights(step)
    assert step.first_bad.step == 32
    before.pop("network.head.classifier.bias"), after.pop("network.head.classifier.bias")
    trained = {name for name, _ in step.stage.named_parameters()}
    for name, value in before.items():
        assert name not in trained or torch.equal(after[name], value), name


def test_what_cannot_be_captured_says_why_and_leaves_nothing_behind():
    eager, step = make_step("control"), make_step("control")
    for one in (eager, step):
        plain = one.stage.forward
        one.stage.forward = lambda batch, plain=plain: plain(batch)._replace(
            hits=torch.tensor([int(batch.labels.sum().item() >= 0)] * 2, device=CUDA)
        )
    recorder = CudaRecorder(CUDA)
    (why,) = step.warm_up(step.loader, recorder)
    assert why.startswith("not captured: ") and "\n" not in why
    assert "not permitted when stream is capturing" in why.partition(", then")[0], "what came first"
    for one in (eager, step):
        train(one)
    close(weights(step), weights(eager), rtol=1e-5, atol=1e-6)
    assert torch.rand(4, device=CUDA).isfinite().all(), "the generator is usable"
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    captured(make_step("control"), recorder)
    other, before = torch.cuda.Stream(), torch.cuda.memory_reserved()
    for _ in range(64):
        torch.empty(1 << 22, device=CUDA).record_stream(other)
        torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() - before < 8 << 22, "what another stream has used is used again"


def test_evaluation_is_captured():
    step = make_step("control")
    step.stage.eval()
    source = step.builder.job.test_source()
    plain = Evaluation(step.predictions, source, CUDA)
    quick = Evaluation(step.predictions, source, CUDA, recorder=CudaRecorder(CUDA))
    assert quick() == plain() and not quick.why_not_captured
    with torch.no_grad():
        step.stage.network.head.classifier.weight.normal_()
    assert quick() == plain() and quick()["control"]["samples"] == source.samples


def test_a_run_is_captured_evaluated_saved_and_resumed(tmp_path):
    recipe = tiny_recipe()
    recipe = replace(recipe, execution=replace(recipe.execution, compile="off"))
    display, job = Quiet(), Job.of(recipe, open_data(recipe), CUDA)
    results = Run(job, 0, tmp_path, Session(display)).carry_out()
    assert sum("captured in" in note for note in display.notes) == 3, display.notes
    assert not any("not captured" in note for note in display.notes)
    assert results["stages"]["student"]["test"]["student"]["samples"] == 899

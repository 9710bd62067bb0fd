"""General teachers (GTN): trained, resumed, captured; masks against drawn paths, both byte for byte."""

import json

import pytest
import torch
import torch.nn.functional as F
from helpers.courses import general_recipe
from helpers.interrupts import AfterSteps
from helpers.processes import TINY, finish, start
from helpers.recorders import record_everything
from helpers.tiny import Quiet, assert_same, built_stages, outcome, train
from safetensors.torch import load_file

from fastkd.data.base import Batch
from fastkd.networks.supernet import layers_of
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Stopped
from fastkd.training.general import GeneralTeacher
from fastkd.training.untouched import leaving_alone

LEARNED = {"paths": "learned", "tested": "likeliest"}


def built(**gtn) -> GeneralTeacher:
    stage = built_stages(general_recipe(**gtn))[1]["teacher"]
    assert isinstance(stage, GeneralTeacher)
    return stage.double()


def batch(step: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(step)
    images = torch.randn(1, 6, 3, 8, 8, generator=draw, dtype=torch.float64)
    at, zero = torch.tensor(step), torch.zeros((), dtype=torch.int64)
    return Batch(images, torch.randint(10, (6,), generator=draw), torch.arange(6), at, zero)


def test_branches_are_the_last_three_two_and_one_blocks_of_the_supernet():
    """On the stem, the first and the second block of a CIFAR teacher, which has three."""
    stage = built()
    assert {key: len(branch.tail.blocks) for key, branch in stage.branches.items()} == {"0": 3, "1": 2, "2": 1}
    assert [len(layers_of(branch)) for branch in stage.branches.values()] == [5, 4, 2]


@pytest.mark.parametrize("masks", [False, True])
def test_the_loss_is_that_of_the_paper(masks):
    """CE(teacher) + mean over branches of (α KL(q_T || q_R) + CE(branch)), of the drawn paths, in float64."""
    stage, one = built(masks=masks), batch(5)
    stage.train()
    stage.begin_step(5)
    loss = stage(one)
    output = stage.network(one.images[0])
    stage.paths.choose(stage.paths.drawn(torch.tensor(5)).tolist())
    maps = [output.stem, *output.features]
    teacher, expected = output.logits.log_softmax(1), F.cross_entropy(output.logits, one.labels)
    for key, branch in stage.branches.items():
        logits = branch(maps[int(key)]).logits
        kl = (teacher.exp() * (teacher - logits.log_softmax(1))).sum(1).mean()
        expected = expected + (3 * kl + F.cross_entropy(logits, one.labels)) / 3
    torch.testing.assert_close(loss.total.double(), expected, rtol=1e-5, atol=1e-6)


def test_an_undrawn_candidate_has_no_gradient_and_the_drawn_one_has():
    stage = built(zeros="nowhere")
    stage.train()
    stage.begin_step(3)
    stage(batch(3)).total.backward()
    for branch in stage.branches.values():
        for layer in layers_of(branch):
            for piece in layer.pieces():
                for parameter in piece.module.parameters():
                    assert (parameter.grad is not None) == (layer.drawn in piece.users)


@pytest.mark.parametrize("masks, frozen", [(False, False), (True, False), (False, True)])
def test_a_branch_that_a_zero_cuts_off_teaches_and_is_left_alone(masks, frozen):
    """Its logits are the same for every image, and reach the teacher; weights and statistics stay as they were."""
    stage = built_stages(general_recipe(masks=masks, frozen_epochs=int(frozen)))[1]["teacher"]
    stage.train()
    path = torch.tensor([[0, 0, 7, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 7]])
    stage.paths.drawn = lambda step: path
    stage.begin_epoch(0)
    stage.begin_step(0)
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    one = batch()
    loss = stage(one._replace(images=one.images.float()))
    loss.total.backward()
    with leaving_alone(optimizer, stage.used()):
        optimizer.step()
    for name, value in stage.state_dict().items():
        left_alone = name.startswith(("branches.0", "branches.2")) or (frozen and name.startswith("network"))
        assert not left_alone or torch.equal(value, before[name]), name
    assert any(
        not torch.equal(value, before[name]) for name, value in stage.state_dict().items() if "branches.1" in name
    )
    logits = stage._logits(one.images[0].float())[1]
    assert torch.equal(logits[0], logits[0][:1].expand_as(logits[0]))


@pytest.mark.parametrize("cut_off_learns", [False, True])
def test_gradients_explode_where_a_branch_that_is_cut_off_learns(cut_off_learns):
    """BatchNorm behind a zero normalises what hardly varies; that is why such a branch learns nothing in that step."""
    builder, stages = built_stages(general_recipe(epochs=3))
    stage, source = stages["teacher"], builder.train_source(builder.job.course[0])
    if cut_off_learns:
        stage.paths.cut_off = lambda paths_PL: torch.zeros(3, dtype=torch.bool)
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.05, momentum=0.9)
    norms, zero = [], torch.zeros((), dtype=torch.int64)
    stage.train()
    for step, raw in enumerate(raw for epoch in range(3) for raw in source.loader.epoch(epoch)):
        stage.begin_step(step)
        optimizer.zero_grad()
        stage(source.prepare(raw, torch.tensor(step), zero)).total.backward()
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in stage.parameters() if p.grad is not None]))
        optimizer.step()
    assert (max(norms) > 1000) == cut_off_learns and (max(norms) < 100) != cut_off_learns


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that are compared with, each trained once."""
    folder, done = tmp_path_factory.mktemp("general"), set[str]()

    def run(**gtn):
        own = folder / "-".join(map(str, gtn.values() or ["plain"]))
        if own.name not in done:
            train(general_recipe(**gtn), own)
            done.add(own.name)
        return own

    return run


def state_of(run, **gtn):
    """The checkpoint of a training that was stopped after six steps: branches, momentum, statistics."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        train(general_recipe(**gtn), run, AfterSteps(patch, 6))
    return torch.load(run / "checkpoints" / "teacher.pt", weights_only=True)


@pytest.mark.parametrize(
    "gtn",
    [
        {},
        pytest.param(LEARNED, marks=pytest.mark.slow),
        pytest.param({"shared_path": True, "shared_depths": True, "identity": "pad"}, marks=pytest.mark.slow),
        pytest.param({"training": {"optimizer": "adamw", "lr": 1e-3}}, marks=pytest.mark.slow),
        pytest.param({"training": {"accumulate": 2}}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_masks_train_the_same_bytes_as_drawn_paths(gtn, tmp_path):
    """Weights, momentum and running statistics of every candidate, after six steps with weight decay and momentum."""
    drawn, masked = state_of(tmp_path / "drawn", **gtn), state_of(tmp_path / "masked", masks=True, **gtn)
    assert drawn["model"].keys() == masked["model"].keys()
    for name, value in drawn["model"].items():
        assert torch.equal(value, masked["model"][name]), name
    for place, own in drawn["optimizer"].items():
        for name, value in own.items():
            assert value is None or torch.equal(value, masked["optimizer"][place][name]), (place, name)
    moved = [name for name, value in drawn["model"].items() if name.endswith("num_batches_tracked") and value > 0]
    still = [name for name, value in drawn["model"].items() if name.endswith("num_batches_tracked") and value == 0]
    assert moved and still, "six steps draw some candidates and not all"


@pytest.mark.parametrize(
    "count, gtn",
    [(3, {}), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((4, {}), (7, {}), (5, LEARNED)))],
    ids=str,
)
def test_stopped_after_any_step_and_resumed_is_the_same_bit_for_bit(count, gtn, whole, tmp_path):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        train(general_recipe(**gtn), tmp_path, AfterSteps(patch, count))
    train(general_recipe(**gtn), tmp_path)
    assert_same(outcome(tmp_path), outcome(whole(**gtn)))


@pytest.mark.slow
def test_a_captured_run_with_masks_is_the_run_with_drawn_paths(whole, tmp_path, monkeypatch):
    """Replays draw on the device what the host draws without them; evaluation, too."""
    expected = outcome(whole())
    record_everything(monkeypatch)
    train(general_recipe(masks=True), tmp_path)
    found = outcome(tmp_path)
    for one in (found, expected):
        one["results"]["stages"]["teacher"].pop("identity")
    assert_same(found, expected)


@pytest.mark.slow
def test_two_processes_draw_the_same_paths_with_masks_and_without(tmp_path):
    """DDP finds what a drawn path leaves out; with masks there is nothing to find, and the weights are the same."""
    given = ["digits", "--teacher-training", "gtn", "--branch", "gtn_supernet_thin", *TINY]
    for masks in ("off", "on"):
        finish(start(*given, "--gtn.masks", masks, "--run", tmp_path / masks))
    drawn, masked = (load_file(tmp_path / masks / "teacher.safetensors") for masks in ("off", "on"))
    assert all(torch.equal(value, masked[name]) for name, value in drawn.items())


def test_drawn_paths_are_not_captured_and_the_run_says_why(whole, tmp_path, monkeypatch):
    record_everything(monkeypatch)
    display = Quiet()
    train(general_recipe(), tmp_path, display=display)
    assert any("not captured: the supernet has 32,768 paths" in note for note in display.notes)
    assert_same(outcome(tmp_path), outcome(whole()))


def test_the_log_has_the_curves_of_figure_1(whole):
    """The accuracy of the teacher and of every branch after each epoch that is tested."""
    log = [json.loads(line) for line in (whole() / "metrics.jsonl").read_text().splitlines()]
    assert [list(record["test"]) for record in log] == [[], ["teacher", "branch 0", "branch 1", "branch 2"]]


def test_a_test_draws_a_path_for_its_epoch_and_training_goes_on_with_its_own():
    stage = built().eval()
    images = batch().images[0]
    first = stage.predictions(images)
    assert all(torch.equal(value, first[name]) for name, value in stage.predictions(images).items())
    stage.begin_epoch(1)
    stage.eval()
    assert any(not torch.equal(value, first[name]) for name, value in stage.predictions(images).items())


def test_learned_paths_add_their_loss_and_move_their_distribution():
    stage = built(**LEARNED)
    stage.train()
    stage.begin_step(0)
    loss = stage(batch())
    parts = loss.terms["teacher_ce"] + 3 * loss.terms["kl"] + loss.terms["branch_ce"] + loss.terms["path"]
    torch.testing.assert_close(loss.total.detach(), parts.to(loss.total.dtype))
    loss.total.backward()
    assert stage.paths.logits_PLO.grad.any()


def test_a_frozen_teacher_is_as_it_was_and_its_branches_learn():
    recipe = general_recipe(frozen_epochs=1)
    stage = built_stages(recipe)[1]["teacher"]
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    stage.train()
    stage.begin_epoch(0)
    stage.begin_step(0)
    stage(batch()._replace(images=batch().images.float())).total.backward()
    assert all(parameter.grad is None for parameter in stage.network.parameters())
    assert all(torch.equal(value, before[f"network.{name}"]) for name, value in stage.network.state_dict().items())
    assert any(parameter.grad is not None for parameter in stage.branches.parameters())
    stage.train()
    stage.begin_epoch(1)
    stage(batch()._replace(images=batch().images.float())).total.backward()
    assert all(parameter.grad is not None for parameter in stage.network.parameters())


@pytest.mark.slow
def test_a_frozen_teacher_resumes_exactly_on_both_sides_of_the_thaw(tmp_path):
    train(general_recipe(frozen_epochs=1), tmp_path / "whole")
    for count in (2, 6):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            train(general_recipe(frozen_epochs=1), tmp_path / str(count), AfterSteps(patch, count))
        train(general_recipe(frozen_epochs=1), tmp_path / str(count))
        assert_same(outcome(tmp_path / str(count)), outcome(tmp_path / "whole"))


def test_the_likeliest_path_needs_learned_ones():
    with pytest.raises(UserError, match="--gtn.tested likeliest goes with --gtn.paths learned"):
        general_recipe(tested="likeliest")

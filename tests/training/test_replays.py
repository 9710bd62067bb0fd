"""A step that is replayed trains as one that is not. Without a GPU a replay runs what was recorded again."""

import pytest
import torch
from helpers.recorders import RunAgain
from helpers.steps import Streamed, close, make_step, steps_of, weights
from helpers.tiny import tiny_recipe

from fastkd.data import RawBatch, ResidentLoader
from fastkd.data.augment import Augmentation, Normalise, StreamedImages
from fastkd.data.order import Order
from fastkd.run import open_data
from fastkd.training.replays import STEPS, ResidentSteps, StreamedSteps, Trained


class TestResidentSteps:
    def test_a_replayed_epoch_equals_an_eager_one(self):
        eager, _ = make_step(batch_size=4)
        replayed, _ = make_step(batch_size=4)
        recorder = RunAgain()
        (done,) = replayed.warm_up(replayed.loader, recorder)
        assert "captured in" in done and f"{STEPS} steps a replay" in done
        assert steps_of(eager) == [1] * 32
        assert steps_of(replayed) == [STEPS] * 3 + [1] * 2
        assert recorder.replays == 5
        close(weights(replayed), weights(eager), rtol=0, atol=0)
        assert replayed.meter.read() == eager.meter.read()
        assert replayed.done == eager.done == 32

    def test_an_epoch_goes_on_in_its_middle(self):
        eager, _ = make_step(batch_size=4)
        replayed, _ = make_step(batch_size=4)
        for step in (eager, replayed):
            step.done.fill_(40)  # step 8 of the second epoch
        replayed.warm_up(replayed.loader, RunAgain())
        assert steps_of(replayed, 1, 8) == [1, 1, STEPS, STEPS, 1, 1]
        steps_of(eager, 1, 8)
        close(weights(replayed), weights(eager), rtol=0, atol=0)

    def test_a_shorter_last_batch_is_not_replayed(self):
        eager, _ = make_step(batch_size=12, drop_last=False)
        replayed, _ = make_step(batch_size=12, drop_last=False)
        replayed.warm_up(replayed.loader, RunAgain())
        assert steps_of(replayed) == [STEPS, 1]
        steps_of(eager)
        close(weights(replayed), weights(eager), rtol=0, atol=0)
        assert replayed.meter.read() == eager.meter.read()

    def test_schedules_take_effect_without_recording_again(self):
        eager, _ = make_step(batch_size=4, milestones=(1, 2), factor=0.5, warmup_epochs=0)
        replayed, _ = make_step(batch_size=4, milestones=(1, 2), factor=0.5, warmup_epochs=0)
        recorder = RunAgain()
        replayed.warm_up(replayed.loader, recorder)
        for epoch in range(3):
            steps_of(eager, epoch)
            steps_of(replayed, epoch)
        assert recorder.recorded == 2
        close(weights(replayed), weights(eager), rtol=0, atol=0)


def test_streamed_batches_are_copied_to_where_the_replay_reads():
    recipe = tiny_recipe()
    data = open_data(recipe)
    eager, _ = make_step(batch_size=12, drop_last=False)
    replayed, _ = make_step(batch_size=12, drop_last=False)
    for step in (eager, replayed):
        step.loader = Streamed(step.loader, data.train.images)
        step.prepare = StreamedImages(data.train.labels, Normalise(data.mean, data.std), Augmentation(), 0)
    recorder = RunAgain()
    replayed.warm_up(replayed.loader, recorder)
    assert steps_of(replayed) == [1] * 11 == steps_of(eager)
    assert recorder.replays == 10, "the last batch is shorter"
    close(weights(replayed), weights(eager), rtol=0, atol=0)


@pytest.mark.parametrize("rank, ranks", ((0, 1), (0, 2), (1, 2)))
@pytest.mark.parametrize("samples", (2, 2 * STEPS - 2, 2 * STEPS, 2 * STEPS + 2, 6 * STEPS + 3))
def test_a_resident_epoch_has_the_batches_of_its_loader(samples, rank, ranks):
    """Of any length, also shorter than one replay, begun at any step, and on each rank its own."""
    order = Order(samples, 2 * ranks if samples > 2 else 2, seed=1, drop_last=False, rank=rank, world_size=ranks)
    loader, step = ResidentLoader(torch.zeros(samples), ("a", "b"), order), torch.tensor(0)
    seen = []

    def train(raw):
        seen.append(raw.index.tolist())
        step.add_(1)

    replays = ResidentSteps(train, RunAgain(), loader, train, step=step, begin=lambda number: None)
    for start in sorted({0, 1, order.steps // 2, order.steps - 1, order.steps}):
        seen.clear()
        step.fill_(3 * order.steps + start)
        trained = list(replays.epoch(loader, 3, start))
        batches = [raw.index.tolist() for raw in loader.epoch(3, start)]
        assert seen == batches
        assert sum(done.steps for done in trained) == len(batches)
        assert sum(done.images for done in trained) == sum(map(len, batches))


@pytest.mark.parametrize("every, each", ((0, 10), (5, 5), (4, 2), (3, 1), (40, 10)))
def test_what_is_done_between_the_steps_is_done_before_their_replays(every, each):
    """Whatever step an epoch goes on at: of several steps in a replay it precedes the first alone."""
    order = Order(46, 2, seed=1, drop_last=False)
    loader, step, seen = ResidentLoader(torch.zeros(46), ("a", "b"), order), torch.tensor(0), []

    def train(raw):
        seen.append(int(step))
        step.add_(1)

    def begin(number):
        if every and number % loader.steps % every == 0:
            seen.append(f"before {number}")

    recorder = RunAgain()
    replays = ResidentSteps(train, recorder, loader, train, step=step, begin=begin, every=every)
    assert replays.each == each
    for start in (0, 7):
        seen.clear()
        step.fill_(2 * loader.steps + start)
        recorder.replays = 0
        assert sum(done.steps for done in replays.epoch(loader, 2, start)) == loader.steps - start
        expected = []
        for number in range(2 * loader.steps + start, 3 * loader.steps):
            place = number - 2 * loader.steps
            expected += [f"before {number}"] if every and place % every == 0 else []
            expected.append(number)
        assert seen == expected
    assert recorder.replays < 16 or each == 1


@pytest.mark.parametrize("sizes", ((4, 4, 4), (4, 3, 4, 1), (3, 3), ()), ids=str)
def test_a_streamed_batch_that_lost_images_keeps_its_place(sizes):
    """It is trained on without a replay, between the replays of those before and after it."""
    raws = [RawBatch(torch.arange(size) + 10 * n, torch.full((1, size, 2, 2, 3), n)) for n, size in enumerate(sizes)]
    seen = []

    def train(raw):
        seen.append((raw.index.tolist(), raw.images.unique().tolist()))

    class Loader:
        def epoch(self, epoch, start):
            return iter(raws[start:])

    recorder = RunAgain()
    raw = RawBatch(torch.zeros(4).long(), torch.zeros(1, 4, 2, 2, 3).long())
    replays = StreamedSteps(train, recorder, raw, train)
    for start in range(len(raws) + 1):
        seen.clear()
        recorder.replays = 0
        assert list(replays.epoch(Loader(), 0, start)) == [Trained(size) for size in sizes[start:]]
        assert seen == [(raw.index.tolist(), [n]) for n, raw in enumerate(raws)][start:]
        assert recorder.replays == sizes[start:].count(4)

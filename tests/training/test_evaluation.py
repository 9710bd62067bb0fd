"""A test set is counted exactly, in batches of any size, recorded or not."""

import pytest
import torch
from helpers.feeding import evaluation_of
from helpers.recorders import HasNoMemory, Refuses, RunAgain
from helpers.tiny import CPU, job_of, tiny_recipe

from fastkd.data import Batch, DataSet, RawBatch, ResidentLoader, Source, Split
from fastkd.data.augment import Normalise, StreamedImages
from fastkd.data.order import InOrder
from fastkd.networks import Output
from fastkd.run.builder import Builder
from fastkd.training.evaluation import Evaluation, accuracies, batches, similarity
from fastkd.training.similarity import Similarity

CLASSES = 7


def made_source(samples, batch_size, rank=0, ranks=1):
    """A test set whose images say which they are."""
    generator = torch.Generator().manual_seed(samples)
    labels = torch.randint(CLASSES, (samples,), generator=generator)

    def prepare(raw, step, epoch):
        images = raw.index.float().view(1, -1, 1, 1, 1).expand(1, -1, 3, 2, 2)
        return Batch(images, labels[raw.index], raw.index, step, epoch)

    order = InOrder(samples, batch_size, rank=rank, world_size=ranks)
    return Source(ResidentLoader(labels, tuple("abcdefg"), order), prepare, samples, batch_size)


def made_logits(samples, seed=0):
    return torch.randn(samples, CLASSES, generator=torch.Generator().manual_seed(seed))


def looked_up(logits, images):
    return logits[images[:, 0, 0, 0].long()]


def topk_hits(logits, labels, k):
    return (logits.topk(k, dim=1).indices == labels[:, None]).any(1).sum().item()


def test_something_may_be_done_after_each_batch():
    source, seen = made_source(13, 4), []
    table = made_logits(13)
    Evaluation(lambda images: {"student": looked_up(table, images)}, source, CPU, after_batch=lambda: seen.append(1))()
    assert len(seen) == 4


@pytest.mark.parametrize("fixed_shape", (False, True))
@pytest.mark.parametrize("batch_size", (1, 4, 13, 50))
@pytest.mark.parametrize("samples", (1, 12, 13))
def test_counts_are_those_of_topk_whatever_the_batches(samples, batch_size, fixed_shape):
    source = made_source(samples, batch_size)
    logits = {name: made_logits(samples, seed) for seed, name in enumerate(("student", "branch 1"))}
    found = Evaluation(
        lambda images: {name: looked_up(table, images) for name, table in logits.items()},
        source,
        CPU,
        fixed_shape=fixed_shape,
    )()
    labels = source.loader.labels
    assert found == {
        name: {"top1": topk_hits(table, labels, 1), "top5": topk_hits(table, labels, 5), "samples": samples}
        for name, table in logits.items()
    }


@pytest.mark.parametrize("ranks", (2, 3, 5))
def test_the_ranks_counts_add_up_to_those_of_one_process(ranks):
    logits = made_logits(13)

    def counted(**options):
        return accuracies(lambda images: {"net": looked_up(logits, images)}, made_source(13, 3, **options), CPU)["net"]

    parts = [counted(rank=rank, ranks=ranks) for rank in range(ranks)]
    assert {key: sum(part[key] for part in parts) for key in parts[0]} == counted()


def test_with_fewer_than_five_classes_every_image_is_among_the_top_five():
    source = made_source(9, 4)
    logits = made_logits(9)[:, :3]
    source.loader.labels.remainder_(3)
    (found,) = accuracies(lambda images: {"net": looked_up(logits, images)}, source, CPU).values()
    assert found["top5"] == 9 > found["top1"]


def test_a_streamed_batch_is_filled_up_with_pixels():
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 2, 2, 3)
    labels, sizes = torch.arange(10) % CLASSES, []

    class Streaming:
        def epoch(self, epoch, start=0):
            for index in torch.arange(10).split(4):
                yield RawBatch(index, images[index].unsqueeze(0))

    prepare = StreamedImages(labels, Normalise((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)), None)

    def predictions(images):
        sizes.append(len(images))
        return {"net": torch.eye(CLASSES)[images[:, 0, 0, 0].round().long() % CLASSES]}

    found = Evaluation(predictions, Source(Streaming(), prepare, 10, 4), CPU, fixed_shape=True)()
    assert sizes == [4, 4, 4] and found["net"] == {"top1": 10, "top5": 10, "samples": 10}


@pytest.mark.parametrize("batch_size", (1, 4, 13))
def test_similarity_does_not_depend_on_the_batches(batch_size):
    logits, nothing = [made_logits(13, seed) for seed in (0, 1)], torch.empty(0)

    def network(table):
        def forward(images):
            found = looked_up(table, images)
            return Output(found, nothing, (), nothing, found.cos())

        return forward

    whole = Similarity()
    whole.add(*(Output(table, nothing, (), nothing, table.cos()) for table in logits))
    found = similarity(*map(network, logits), made_source(13, batch_size), CPU)
    assert found == pytest.approx(whole.read(), rel=1e-9)


def test_batches_are_every_image_once_prepared():
    split = Split(torch.full((7, 2, 2, 3), 51, dtype=torch.uint8), torch.arange(7))
    data = DataSet(name="made", train=split, test=split, classes=tuple("abcdefg"), mean=(0.1,) * 3, std=(0.5,) * 3)
    found = list(batches(evaluation_of(data, image_size=2, batch_size=3), CPU))
    assert [batch.labels.tolist() for batch in found] == [[0, 1, 2], [3, 4, 5], [6]]
    assert all(batch.images.shape[0] == 1 for batch in found)
    torch.testing.assert_close(found[-1].images, torch.full((1, 1, 3, 2, 2), (51 / 255 - 0.1) / 0.5))


@pytest.mark.parametrize("recorder", (None, RunAgain, Refuses))
def test_an_evaluation_counts_every_image_once(recorder):
    job = job_of(tiny_recipe())
    source, network = job.test_source(), Builder(job, 0).network("resnet8").eval()

    def predictions(images):
        assert recorder is None or len(images) == source.batch_size
        return {"student": network(images).logits}

    expected = accuracies(lambda images: {"student": network(images).logits}, source, CPU)
    evaluation = Evaluation(predictions, source, CPU, recorder=recorder and recorder())
    assert evaluation() == expected
    assert bool(evaluation.why_not_captured) == (recorder is Refuses)
    with torch.no_grad():  # other weights, same recording
        network.head.classifier.weight.normal_()
    assert evaluation() == accuracies(lambda images: {"student": network(images).logits}, source, CPU)
    assert evaluation()["student"]["samples"] == source.samples


def test_out_of_memory_is_no_reason_to_go_on_without():
    evaluation = Evaluation(lambda images: {"net": images.flatten(1)}, made_source(8, 4), CPU, recorder=HasNoMemory())
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 2 GiB"):
        evaluation()


def test_a_batch_that_lost_images_is_filled_up_too():
    """Also the first one; what fills it up is not counted."""
    job = job_of(tiny_recipe())
    source, network = job.test_source(), Builder(job, 0).network("resnet8").eval()
    batches = list(source.loader.epoch(0))
    batches[0] = RawBatch(batches[0].index[:-3])

    class Lossy:
        def epoch(self, epoch, start=0):
            return iter(batches)

    lossy, sizes = source._replace(loader=Lossy()), set()

    def predictions(images):
        sizes.add(len(images))
        return {"student": network(images).logits}

    found = Evaluation(predictions, lossy, CPU, fixed_shape=True)()
    assert sizes == {source.batch_size} and found["student"]["samples"] == source.samples - 3
    assert found == accuracies(predictions, lossy, CPU)

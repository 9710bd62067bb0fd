"""On a GPU: what the step does with a raw batch belongs into its graph, and gives the pixels that a CPU gives."""

import pytest
import torch
from helpers.feeding import training_of

from fastkd.data import (
    FOUR_ROTATIONS,
    ONE_VIEW,
    Augmentation,
    DataSet,
    Format,
    RawBatch,
    Split,
    Views,
)
from fastkd.data.augment import Normalise, StreamedImages

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
GPU = torch.device("cuda")
SAMPLES, BATCH, SIZE = 50, 8, 12
VIEWS = pytest.mark.parametrize("views", (ONE_VIEW, Views(2), FOUR_ROTATIONS), ids=("one", "two", "rotations"))
FORMAT = Format(dtype=torch.bfloat16, channels_last=True)


def generated(*shape):
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def source(device, **options):
    split = Split(generated(SAMPLES, SIZE, SIZE, 3), torch.arange(SAMPLES) % 10)
    data = DataSet(
        name="made", train=split, test=split, classes=tuple("abcdefghij"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1)
    )
    found = training_of(data, image_size=SIZE, batch_size=BATCH, seed=7, device=device, format=FORMAT, **options)
    found.prepare.to(device or "cpu")
    return found


def captured(work):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = work()
    return graph, out


@VIEWS
@pytest.mark.parametrize("rotation", (0.0, 15.0))
def test_an_epoch_without_the_host(views, rotation):
    """Several steps of one graph take their indices from the order on the device; a CPU prepares the same batches."""
    how = {"views": views, "augmentation": Augmentation(crop_padding=2, rotation=rotation)}
    ours, theirs = source(GPU, **how), source(None, **how)
    order = ours.loader.order(4)
    assert order.is_cuda and len(order) == SAMPLES // BATCH
    step, epoch = torch.zeros((), dtype=torch.int64, device=GPU), torch.full((), 4, device=GPU)

    def work():
        batch = ours.prepare(RawBatch(order.index_select(0, step.view(1)).squeeze(0)), step, epoch)
        step.add_(1)
        return batch

    graph, batch = captured(work)
    step.zero_()
    for raw in theirs.loader.epoch(4):
        graph.replay()
        expected = theirs.prepare(raw, torch.tensor(0), torch.tensor(4))
        assert batch.images.dtype == torch.bfloat16
        assert all(view.is_contiguous(memory_format=torch.channels_last) for view in batch.images)
        # One more or less rounding of the product and the sum, then one to bfloat16.
        torch.testing.assert_close(batch.images.cpu().float(), expected.images.float(), rtol=2**-7, atol=2**-7)
        assert torch.equal(batch.labels.cpu(), expected.labels) and torch.equal(batch.index.cpu(), raw.index)


@VIEWS
@pytest.mark.parametrize("crop", ("pad", "resized"))
def test_pixels_that_were_brought(views, crop):
    """As a loader of files brings them: one picture for each view, or one that all views are cropped out of."""
    brought = views.count if crop == "resized" else 1
    normalise = Normalise((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    prepare = StreamedImages(torch.arange(SAMPLES), normalise, Augmentation(crop=crop), 7, views, FORMAT)
    raw = RawBatch(torch.arange(BATCH) * 5, generated(brought, BATCH, SIZE, SIZE, 3))
    expected = prepare(raw, torch.tensor(0), torch.tensor(1)).images
    prepare.to(GPU)
    on_gpu, epoch = raw.to(GPU), torch.ones((), dtype=torch.int64, device=GPU)
    graph, batch = captured(lambda: prepare(on_gpu, epoch, epoch))
    graph.replay()
    torch.testing.assert_close(batch.images.cpu().float(), expected.float(), rtol=2**-7, atol=2**-7)

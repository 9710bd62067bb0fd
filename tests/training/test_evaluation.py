"""A test set is counted exactly, in batches of any size, recorded or not."""

import pytest
import torch
from helpers.recorders import Refuses, RunAgain
from helpers.tiny import CPU, job_of, tiny_recipe

from fastkd.data import RawBatch
from fastkd.run.builder import Builder
from fastkd.training.evaluation import Evaluation, accuracies


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

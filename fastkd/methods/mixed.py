"""Losses on mixed images (mixup, cutmix): a method sees one label for each image, and a mixed image has two."""

from collections.abc import Callable

import torch

from fastkd.data.base import Batch
from fastkd.methods.base import Method, MethodLoss, MixedLabels


def labels_of_mixed(method: Method) -> MixedLabels:
    return method.mixed_labels or ("both" if method.is_logit_method else "own")


def loss_on_mixed(loss: Callable[[Batch], MethodLoss], batch: Batch, labels: MixedLabels) -> MethodLoss:
    """The loss of a batch whose images may be mixed, out of one that takes a label for each.

    labels: "both", the mean of the losses with either label, weighted by the images' shares: for a loss that is linear
        in the label, as cross-entropy beside a KL that does not know it, this is the loss with the mixed label.
        "greater": the label of the greater share alone (NKD's code). "own": the method sees to it, or needs no label.

    The share is that of the whole batch. Hits are those of the first label.
    """
    if batch.mixed is None or labels == "own":
        return loss(batch)
    share = batch.mixed.share[0]
    if labels == "greater":
        return loss(batch._replace(labels=torch.where(share >= 0.5, batch.labels, batch.mixed.labels)))
    first, second = loss(batch), loss(batch._replace(labels=batch.mixed.labels))
    terms = {name: share * value + (1 - share) * second.terms[name] for name, value in first.terms.items()}
    gated = None
    if first.gated is not None and second.gated is not None:
        gated = share * first.gated + (1 - share) * second.gated
    return MethodLoss(share * first.total + (1 - share) * second.total, terms, first.hits, gated)

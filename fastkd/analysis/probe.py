"""A linear classifier on frozen features: transfer to other data (SFTN, Table 7), and sequential training (SimKD,
Table 4).

The network is in eval mode throughout: its BatchNorms use, and keep, their running statistics.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.analysis.opened import SplitName, feeding_of, plain_source
from fastkd.data import Augmentation, DataSet, training_source
from fastkd.data.order import Order
from fastkd.methods.reused import Deployed
from fastkd.networks.base import Network
from fastkd.recipes.findings import ProbeSettings
from fastkd.recipes.recipe import Recipe
from fastkd.training.evaluation import batches
from fastkd.training.likelihood import Likelihood
from fastkd.training.optimisation import learning_rates

Encode = Callable[[Tensor], Tensor]
"""Images [B,3,H,W] → features [B,D] of a frozen network."""
Told = Callable[[str], None]


@dataclass(frozen=True)
class Probe:
    """What is frozen, and what it is shown."""

    network: Network
    recipe: Recipe
    """That of the network's run: size and normalisation of the images."""
    data: DataSet
    device: torch.device
    settings: ProbeSettings

    def run(self, tell: Told = lambda line: None) -> dict[str, Any]:
        """Trains the classifier and tests it after every epoch.

        {"features": D, "classes", "epochs", "top1", "top5", "samples", "nll", "entropy": see `Likelihood.read`, of the
        last epoch; "best": the largest "top1" of an epoch; "curve": "top1" of each}.
        """
        encode = encoder(self.network, self.settings.features)
        tested = self._embedded(encode, "test")
        classes, width = len(self.data.classes), tested[0].shape[1]
        torch.manual_seed(zlib.crc32(f"{self.settings.seed}/probe".encode()))
        classifier = nn.Linear(width, classes).to(self.device)
        training = self.settings.training
        how = {"momentum": training.momentum, "nesterov": training.nesterov, "weight_decay": training.weight_decay}
        optimizer = torch.optim.SGD(classifier.parameters(), lr=training.lr, **how)
        steps, epoch_of = self._batches(encode)
        rates = learning_rates(training, steps).tolist()
        curve, found = [], {}
        for epoch in range(training.epochs):
            for step, (features, labels) in enumerate(epoch_of(epoch)):
                optimizer.param_groups[0]["lr"] = rates[epoch * steps + step]
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(classifier(features), labels).backward()
                optimizer.step()
            found = _tested(classifier, *tested)
            curve.append(found["top1"])
            tell(f"epoch {epoch + 1} of {training.epochs}  test top-1 {100 * found['top1'] / found['samples']:.2f} %")
        own = {"features": width, "classes": classes, "epochs": training.epochs}
        return own | found | {"best": max(curve), "curve": curve}

    def _batches(self, encode: Encode) -> tuple[int, Callable[[int], Iterator[tuple[Tensor, Tensor]]]]:
        """The steps of an epoch, and the features and labels of an epoch's batches."""
        if self.settings.augment != "off":
            return self._augmented(encode)
        features, labels = self._embedded(encode, "train")
        order = Order(len(labels), self.settings.batch_size, self.settings.seed, drop_last=False)

        def epoch_of(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            for index in order.epoch(epoch):
                places = index.to(self.device)
                yield features[places], labels[places]

        return order.steps, epoch_of

    def _augmented(self, encode: Encode) -> tuple[int, Callable[[int], Iterator[tuple[Tensor, Tensor]]]]:
        feeding = feeding_of(self.recipe, self.data, self.device)
        augmentation = Augmentation(crop_padding=4 if self.settings.augment == "crop" else 0)
        seed, batch = self.settings.seed, self.settings.batch_size
        how: dict[str, Any] = {"batch_size": batch, "augmentation": augmentation, "seed": seed, "drop_last": False}
        source = training_source(self.data, feeding, **how)
        source.prepare.to(self.device)

        def epoch_of(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            now = torch.full((), epoch, dtype=torch.int64, device=self.device)
            for raw in source.loader.epoch(epoch):
                made = source.prepare(raw.to(self.device), now * source.loader.steps, now)
                yield encode(made.images[0]), made.labels

        return source.loader.steps, epoch_of

    def _embedded(self, encode: Encode, split: SplitName) -> tuple[Tensor, Tensor]:
        """The features [n,D] and labels [n] of a split, without augmentation, on the device."""
        source = plain_source(self.recipe, self.data, self.device, split)
        made = [(encode(batch.images[0]), batch.labels) for batch in batches(source, self.device)]
        features, labels = zip(*made, strict=True)
        return torch.cat(features), torch.cat(labels)


def encoder(network: Network, kind: str = "embedding") -> Encode:
    """What gives a frozen network's features; the network is put into eval mode."""
    network.eval()

    @torch.no_grad()
    def encode(images_BCHW: Tensor) -> Tensor:
        if kind == "encoder" and isinstance(network, Deployed):
            return network.encoded(images_BCHW).float()
        return network(images_BCHW).embedding.float()

    return encode


@torch.no_grad()
def _tested(classifier: nn.Linear, features: Tensor, labels: Tensor) -> dict[str, float]:
    measured = Likelihood(features.device)
    for rows, own in zip(features.split(4096), labels.split(4096), strict=True):
        measured.add(classifier(rows), own)
    return measured.read()

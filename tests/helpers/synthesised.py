"""A synthesis of a few images for tiny networks, without an engine around it."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fastkd import networks
from fastkd.data import Augmentation
from fastkd.synthesis.base import Feed, MadeFor, Synthesis
from fastkd.synthesis.kinds import synthesis_of
from fastkd.synthesis.settings import SynthesisSettings

TINY = SynthesisSettings(kind="cmi", images=4, steps_per_epoch=3, latent=4, channels=2, lr=0.01)
OF_KIND = {
    "cmi": replace(TINY, generator_steps=3, bank=6, drawn=3, adversarial=0.5),
    "dafl": replace(TINY, kind="dafl", every=2, activation=10.0),
    "zskt": replace(TINY, kind="zskt", every=2),
}
"""CMI's bank overflows in the second round, and lends fewer rows than it has."""


def made_for(**changes) -> MadeFor:
    """A teacher and a student of three classes, for images of 8 pixels; two epochs of batches of 5."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(networks.build("resnet8", num_classes=3))
    teacher, student = found
    given = {
        "teacher": teacher.eval().requires_grad_(False),
        "student": student,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.25, 0.3),
        "image_size": 8,
        "classes": ("a", "b", "c"),
        "epochs": 2,
        "batch_size": 5,
        "seed": 0,
        "data_seed": 0,
        "device": torch.device("cpu"),
    }
    return MadeFor(**given | changes)


def tiny_synthesis(settings: SynthesisSettings, **changes) -> Synthesis:
    torch.manual_seed(2)
    return synthesis_of(settings, made_for(**changes))


def batches(synthesis: Synthesis, *, start: int = 0) -> Iterator[Tensor]:
    """The images of every batch from a step on, without a student that learns from them."""
    source = synthesis.source(Feed(Augmentation(crop_padding=1)))
    for epoch in range(synthesis.made_for.epochs):
        synthesis.begin_epoch(epoch)
        first = epoch * source.loader.steps
        for place, raw in enumerate(source.loader.epoch(epoch)):
            synthesis.before_step(place)
            if first + place >= start:
                yield source.prepare(raw, torch.tensor(first + place), torch.tensor(epoch)).images

"""The recipe for a first run."""

from dataclasses import replace
from typing import Any

from fastkd.data import Augmentation
from fastkd.recipes.choice import REPDISTILLER_KD, Choice, stages_of
from fastkd.recipes.recipe import Recipe
from fastkd.training.optimisation import Training

_CHOICE = Choice(
    data="digits", teacher_net="wrn_16_2", student="resnet8", method="kd", teacher_training="sftn", control=True
)


def digits(**chosen: Any) -> Recipe:
    """A first run: 8x8 handwritten digits, a minute on two cores, three seeds.

    It shows distillation: the student is better than the same student without a teacher. It does not show what SFTN
    adds: on digits a plainly trained teacher serves as well.
    """
    choice = replace(_CHOICE, **chosen)
    training = Training(epochs=30, lr=0.05, schedule="cosine", warmup_epochs=1)
    return Recipe(
        name="digits",
        data=choice.data,
        image_size=8,
        stages=stages_of(choice, training, replace(training, epochs=10), {"kd": REPDISTILLER_KD}),
        augmentation=Augmentation(crop_padding=1, flip=False),
        seeds=3,
    )

"""Versions of what decides the numbers of a training: one that is raised makes every training of it a new one.

A version is raised in the commit that changes more than the last bits of what is computed.
"""

from fastkd.data import AUGMENTATION_VERSION
from fastkd.methods import split_methods
from fastkd.recipes.recipe import StageRecipe

COMMON = {"augmentation": AUGMENTATION_VERSION, "order": 1, "weights": 1, "distill_loss": 1}
"""What every training depends on; the beginning weights of networks are `weights`."""
SYNTHESIS = {"synthesis": 1}
"""What a training on made images depends on besides: draws, losses and rounds."""
METHODS: dict[str, int] = {}
"""Those of methods whose draws or formula have changed; a method that is not here has version 1."""


def versions_of(stage: StageRecipe) -> dict[str, int]:
    """The versions that a stage's training depends on."""
    methods = split_methods(stage.method) if stage.method else ()
    made = SYNTHESIS if stage.synthesis is not None else {}
    return COMMON | made | {name: METHODS.get(name, 1) for name in methods}

"""Tiny recipes without data: a student of digits that learns from images that are made for it, in seconds."""

from dataclasses import replace

from fastkd import recipes
from fastkd.recipes.recipe import Recipe
from helpers.tiny import tiny_recipe

SMALL = {"images": 8, "steps_per_epoch": 4, "latent": 8, "channels": 4}
OF_KIND = {"cmi": {"generator_steps": 2, "bank": 12, "drawn": 6}, "zskt": {"every": 3}, "dafl": {"every": 3}}
"""CMI's bank overflows in the second round."""


def made_recipe(kind: str = "cmi", *, method: str = "kd", epochs: int = 3, synthesis=(), **changes) -> Recipe:
    """A plain teacher of one epoch and a student of three, each of four steps. synthesis: what differs of it."""
    of_kind = {"cmi": recipes.cifar100_cmi, "zskt": recipes.cifar100_zskt, "dafl": recipes.cifar100_dafl}[kind]
    base = of_kind(data="digits", teacher_net="resnet8", student="resnet8", method=method)
    teacher, student = base.stages
    assert teacher.training is not None and student.training is not None and student.synthesis is not None
    teacher = replace(teacher, training=replace(teacher.training, epochs=1, batch_size=32, milestones=()))
    training = replace(student.training, epochs=epochs, batch_size=8)
    made = replace(student.synthesis, **SMALL | OF_KIND[kind] | dict(synthesis))
    student = replace(student, training=training, synthesis=made)
    like = {name: getattr(tiny_recipe(), name) for name in ("limit_train", "threads", "seeds", "augmentation")}
    return replace(base, **{"stages": (teacher, student), "image_size": 8} | like | changes)

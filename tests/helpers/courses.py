"""Tiny recipes whose methods bring stages of their own."""

from dataclasses import replace

from fastkd.methods import find_method, split_methods
from fastkd.recipes.recipe import GTNSettings
from helpers.tiny import tiny_recipe


def taught_recipe(method, teachers=1, epochs=2, **settings):
    """Plain teachers of two epochs and a student; four steps an epoch."""
    base = tiny_recipe()
    teacher, student, *_ = base.stages
    names = tuple("teacher" if number == 1 else f"teacher-{number}" for number in range(1, teachers + 1))
    training = replace(teacher.training, epochs=epochs)
    plain = [replace(teacher, sftn=None, name=name, training=training) for name in names]
    given = {name: find_method(name).Settings(**(settings if name == method else {})) for name in split_methods(method)}
    student = replace(student, method=method, settings=given, teachers=names)
    return replace(base, stages=(*plain, student))


PRESTAGE_SETTINGS = {
    "ab": {"epochs": 2},
    "fsp": {"epochs": 2},
    "ft": {"epochs": 2},
    "sskd": {"epochs": 2, "milestones": (1,)},
}


def prestage_recipe(method, **changes):
    """A plain teacher and a student; two epochs of four steps for each stage."""
    base = tiny_recipe()
    teacher, student, *_ = base.stages
    settings = {name: find_method(name).Settings(**PRESTAGE_SETTINGS.get(name, {})) for name in split_methods(method)}
    teacher = replace(teacher, sftn=None)
    student = replace(student, method=method, settings=settings)
    return replace(base, **({"stages": (teacher, student)} | changes))


def general_recipe(epochs=2, frozen_epochs=0, training=None, **gtn):
    """A teacher with branches of a thin supernet; epochs of four steps of few images, every second one tested."""
    base = tiny_recipe(limit_train=32)
    teacher = base.stages[0]
    sftn = replace(teacher.sftn, network="gtn_supernet_thin", frozen_epochs=frozen_epochs)
    how = replace(teacher.training, epochs=epochs, batch_size=8, **(training or {}))
    return replace(base, stages=(replace(teacher, sftn=sftn, gtn=GTNSettings(**gtn), training=how),), eval_every=2)

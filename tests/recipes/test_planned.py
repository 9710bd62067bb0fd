"""The kinds of stages that a run carries out."""

import dataclasses
import json

import pytest

from fastkd.recipes.planned import Peer, PlannedMutual, PlannedStage, PlannedSupervised, PlannedTraining
from fastkd.support.plain import to_plain
from fastkd.training.optimisation import Training


def kinds_below(kind):
    """The kinds that stages are of: `PlannedStage` and `PlannedTraining` are not among them."""
    found = {found for below in kind.__subclasses__() for found in kinds_below(below)}
    return found | ({kind} if hasattr(kind, "kind") else set())


KINDS = kinds_below(PlannedStage)


def some(kind):
    """One of that kind, with a value in every field that needs one."""
    values = {"role": "student", "training": Training(epochs=1), "settings": {}, "teachers": (), "sftn": None}
    needed = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
    return kind(**{name: values.get(name, "x") for name in needed if name != "peers"})


def test_the_words_are_those_in_the_files_of_earlier_runs():
    """A word that changes makes every unfinished run impossible to resume."""
    assert {kind.kind for kind in KINDS} >= {"loaded", "supervised", "student_aware", "distill", "prestage", "mutual"}


def test_every_kind_has_a_word_of_its_own():
    assert len({kind.kind for kind in KINDS}) == len(KINDS) and {PlannedStage, PlannedTraining}.isdisjoint(KINDS)


def test_fields_are_given_by_name_and_never_changed():
    stage = some(PlannedSupervised)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage.network = "vgg8"
    with pytest.raises(TypeError):
        PlannedStage("student", "student", "vgg8")


def test_a_stage_becomes_plain_with_its_peers():
    stage = dataclasses.replace(some(PlannedMutual), peers=(Peer(name="teacher", network="vgg8", lr_factor=0.2),))
    plain = json.loads(json.dumps(to_plain(stage)))
    assert plain["peers"] == [{"name": "teacher", "network": "vgg8", "lr_factor": 0.2}]
    assert plain["training"]["epochs"] == 1

"""What finished stages leave to the later ones."""

from pathlib import Path

import pytest
import torch
from helpers.courses import prestage_recipe, taught_recipe
from helpers.tiny import job_of

from fastkd import networks
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.run.weights import Description, save_network
from fastkd.support.errors import UserError
from fastkd.training.execution import EVERYTHING_OFF


def finished(recipe, stages, snapshots=None):
    """What the first of a course's stages leave, untrained as they are."""
    job = job_of(recipe, EVERYTHING_OFF)
    builder, earlier = Builder(job, 0), Earlier(job.course, snapshots)
    for planned in job.course[:stages]:
        earlier.add(planned, builder.stage(planned, earlier).train())
    return earlier


def test_networks_are_left_in_eval_mode():
    earlier = finished(taught_recipe("kd"), 2)
    assert list(earlier.networks) == ["teacher", "student"]
    assert not any(module.training for network in earlier.networks.values() for module in network.modules())
    assert earlier.teacher("teacher") is earlier.networks["teacher"]


def test_what_trains_before_the_student_leaves_no_network_but_what_it_trained():
    earlier = finished(prestage_recipe("kd+ft+sskd"), 3)
    assert list(earlier.networks) == ["teacher"]
    assert list(earlier.passed_on) == ["student-ft", "student-sskd"]
    assert all(earlier.passed_on.values())


def test_what_no_later_stage_begins_with_is_not_held():
    assert finished(taught_recipe("kd"), 2).passed_on == {}


def test_a_student_with_another_head_is_left_with_it():
    """What SimKD deploys: the teacher's classifier, not the student's own."""
    recipe = taught_recipe("simkd")
    earlier = finished(recipe, 2)
    weights = dict(earlier.networks["student"].named_parameters())
    assert torch.equal(weights["head.classifier.parts.0.weight"], earlier.networks["teacher"].head.classifier.weight)


def test_networks_that_learned_together_are_left_by_their_own_names():
    earlier = finished(taught_recipe("kdcl", 2), 1)
    assert set(earlier.networks) == {"student", "teacher", "teacher-2"}
    assert len({id(network) for network in earlier.networks.values()}) == 3
    assert not any(network.training for network in earlier.networks.values())


class TestEpochsOfATeacher:
    def test_they_are_read_from_the_runs_folder(self, tmp_path):
        kept = networks.build("resnet8", num_classes=10)
        save_network(tmp_path / "teacher@1.safetensors", kept, Description("resnet8", 10, 8))
        earlier = finished(taught_recipe("kd"), 1, tmp_path)
        read = earlier.teacher("teacher@1")
        assert torch.equal(read.stem[0].weight, kept.stem[0].weight) and not read.training
        assert not torch.equal(read.stem[0].weight, earlier.teacher("teacher").stem[0].weight)

    def test_where_nothing_is_trained_for_good_the_last_one_will_do(self):
        earlier = finished(taught_recipe("kd"), 1)
        assert earlier.teacher("teacher@1") is earlier.networks["teacher"]

    def test_one_that_somebody_deleted_is_named(self, tmp_path):
        earlier = finished(taught_recipe("kd"), 1, Path(tmp_path))
        with pytest.raises(UserError, match=r"teacher@1\.safetensors is not a weights file of fastkd"):
            earlier.teacher("teacher@1")

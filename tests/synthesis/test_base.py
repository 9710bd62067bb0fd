"""What both kinds of synthesis have in common."""

import copy

import pytest
import torch
from helpers.synthesised import OF_KIND, batches, made_for, tiny_synthesis

from fastkd.support.errors import UserError


@pytest.mark.parametrize("kind", OF_KIND)
def test_teacher_and_student_are_as_they_were(kind):
    synthesis = tiny_synthesis(OF_KIND[kind])
    networks = (synthesis.made_for.teacher, synthesis.made_for.student)
    before = copy.deepcopy([network.state_dict() for network in networks])
    assert all(images.isfinite().all() for images in batches(synthesis))
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())
    assert synthesis.made_for.student.training and synthesis.is_finite() and synthesis.rounds


@pytest.mark.parametrize("kind", OF_KIND)
def test_all_that_is_drawn_follows_from_the_seed(kind):
    torch.manual_seed(5)
    one = list(batches(tiny_synthesis(OF_KIND[kind])))
    torch.manual_seed(6)
    again, other = (list(batches(tiny_synthesis(OF_KIND[kind], seed=seed))) for seed in (0, 1))
    assert all(map(torch.equal, one, again)) and not any(map(torch.equal, one, other))


@pytest.mark.parametrize("kind", OF_KIND)
def test_a_rehearsal_makes_a_batch_and_counts_for_no_round_of_a_pool(kind):
    synthesis = tiny_synthesis(OF_KIND[kind])
    assert synthesis.rehearse() == pytest.approx(2 / 3), "two of three steps of the generator, or of the student"
    assert synthesis.rounds == (0 if kind == "cmi" else 1) and not synthesis.files


def test_a_weight_that_is_not_finite_is_noticed():
    synthesis = tiny_synthesis(OF_KIND["dafl"])
    with torch.no_grad():
        next(synthesis.generator.parameters())[0] = torch.nan
    assert not synthesis.is_finite()


@pytest.mark.parametrize("kind", OF_KIND)
def test_images_of_odd_sizes_are_refused(kind):
    with pytest.raises(UserError, match="a multiple of 4, --image-size is 10"):
        tiny_synthesis(OF_KIND[kind], image_size=10)


def test_a_teacher_without_batchnorm_is_refused_where_its_statistics_are_wanted():
    teacher = made_for().teacher
    for name, module in list(teacher.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            parent, _, own = name.rpartition(".")
            setattr(teacher.get_submodule(parent), own, torch.nn.Identity())
    tiny_synthesis(OF_KIND["dafl"], teacher=teacher)
    with pytest.raises(UserError, match="cmi makes images by the statistics of the teacher's BatchNorms"):
        tiny_synthesis(OF_KIND["cmi"], teacher=teacher)

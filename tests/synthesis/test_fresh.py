"""A generator that learns between the student's steps: against the trajectories of golden/datafree, and by itself."""

import copy

import pytest
import torch
from helpers.datafree import MEAN, STD, generator, network
from helpers.golden import Case
from helpers.synthesised import OF_KIND, batches, made_for, tiny_synthesis

from fastkd.data import Augmentation, Views
from fastkd.support.errors import UserError
from fastkd.synthesis.base import Feed
from fastkd.synthesis.fresh import FreshSynthesis
from fastkd.synthesis.rounds import BETAS
from fastkd.synthesis.settings import SynthesisSettings


@pytest.mark.parametrize("kind", ("dafl", "zskt"))
def test_its_rounds_are_the_steps_of_datafree(kind, monkeypatch):
    case = Case(f"datafree/{kind}", "gen3")
    teacher, student = network(case, "teacher"), network(case, "teacher" if kind == "dafl" else "student")
    given = {"teacher": teacher, "student": student, "mean": tuple(MEAN.tolist()), "std": tuple(STD.tolist())}
    synthesis = FreshSynthesis(SynthesisSettings(kind=kind, latent=8, channels=4, every=2), made_for(**given))
    synthesis.mean, synthesis.std, synthesis.generator = MEAN, STD, generator(case, width=4)
    synthesis.optimizers["generator"] = torch.optim.Adam(synthesis.generator.parameters(), lr=1e-3, betas=BETAS)
    monkeypatch.setattr(FreshSynthesis, "_latents", lambda own: case["in/z"][own.rounds])
    for step in range(6):
        synthesis.before_step(step)
        assert synthesis.rounds == step // 2 + 1
        torch.testing.assert_close(synthesis.loss, case["out/losses"][step // 2].float(), rtol=1e-6, atol=1e-9)
    made = synthesis.generator.eval()(case["in/z"][0])
    torch.testing.assert_close(made, case["out/img_eval_after"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ("dafl", "zskt"))
def test_a_batch_is_made_by_what_the_generator_is_at_its_step(kind):
    synthesis = tiny_synthesis(OF_KIND[kind])
    assert synthesis.every == 2
    source, images = synthesis.source(Feed(Augmentation())), {}
    raw, epoch = next(source.loader.epoch(0)), torch.tensor(0)
    for step in range(3):
        before = copy.deepcopy(synthesis.generator.state_dict())
        synthesis.before_step(step)
        learned = any(not torch.equal(value, before[name]) for name, value in synthesis.generator.state_dict().items())
        assert learned == (step % OF_KIND[kind].every == 0)
        state = copy.deepcopy(synthesis.generator.state_dict())
        images[step] = source.prepare(raw, torch.tensor(step), epoch).images
        assert all(torch.equal(value, state[name]) for name, value in synthesis.generator.state_dict().items())
    assert not torch.equal(images[0], images[1])
    unnormalised = images[2][0] * synthesis.std[:, None, None] + synthesis.mean[:, None, None]
    assert unnormalised.min() >= -1e-6 and unnormalised.max() <= 1 + 1e-6


def test_no_batch_repeats_another():
    found = torch.cat([images[0] for images in batches(tiny_synthesis(OF_KIND["zskt"]))])
    assert len(found.flatten(1).unique(dim=0)) == len(found) == 30


def test_several_views_are_refused():
    with pytest.raises(UserError, match="zskt makes each image once: a method of several views"):
        tiny_synthesis(OF_KIND["zskt"]).source(Feed(Augmentation(), Views(2)))

"""Rounds whose images join a pool: against a whole round of golden/datafree, and what is kept of them in files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.datafree import MEAN, STD, generator, head, network, views
from helpers.golden import Case
from helpers.synthesised import OF_KIND, batches, made_for, tiny_synthesis

from fastkd.synthesis.bank import FeatureBank
from fastkd.synthesis.pooled import PooledSynthesis
from fastkd.synthesis.settings import SynthesisSettings


@pytest.mark.parametrize("name", ("round", "round_fast"))
def test_its_round_is_that_of_cmi(name, monkeypatch):
    case = Case("datafree/cmi_round", name)
    count, steps, lr = len(case["in/y"]), int(case["hp/steps"]), case["hp/lr_g"].item()
    weights = {
        "statistics": "bn",
        "label": "oh",
        "adversarial": "adv",
        "contrast": "cr",
        "contrast_temperature": "cr_T",
    }
    settings = SynthesisSettings(
        kind="cmi",
        images=count,
        generator_steps=steps,
        latent=8,
        channels=4,
        generator="small",
        lr=lr,
        bank=64,
        **{own: case[f"hp/{theirs}"].item() for own, theirs in weights.items()},
    )
    teacher, student = network(case, "teacher"), network(case, "student")
    synthesis = PooledSynthesis(settings, made_for(teacher=teacher, student=student, image_size=16))
    maker, contrast = generator(case), head(240, int(case["hp/head_dim"]))
    synthesis.generator, synthesis.bank = maker, FeatureBank(64, 480, dtype=torch.float64)
    synthesis.bank.add(case["in/bank"])
    synthesis.inversion = replace(synthesis.inversion, head=contrast, mean=MEAN, std=STD)
    synthesis.optimizers["head"] = torch.optim.Adam(contrast.parameters(), lr=lr)
    drawn = [(views(case), case["in/bank"])] * steps
    monkeypatch.setattr(PooledSynthesis, "_draws", lambda own, steps: iter(drawn))
    monkeypatch.setattr(PooledSynthesis, "_begin_round", lambda own, generator: (case["in/y"], case["in/z"]))
    synthesis.begin_epoch(0)
    pool = synthesis.images[:count].movedim(-1, 1).long()
    assert torch.equal(pool, case["out/best_u8"]) and not synthesis.images[count:].any()
    torch.testing.assert_close(synthesis.bank.rows[6 : 6 + count], case["out/best_features"], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(synthesis.loss, case["out/losses"].min().float(), rtol=1e-6, atol=1e-9)


def test_the_data_seed_decides_on_order_and_crops_alone():
    one, other = (tiny_synthesis(OF_KIND["cmi"], data_seed=seed) for seed in (0, 1))
    assert not any(map(torch.equal, batches(one), batches(other))) and torch.equal(one.images, other.images)


def test_a_round_is_done_once():
    synthesis = tiny_synthesis(OF_KIND["cmi"])
    synthesis.begin_epoch(0)
    before = synthesis.images.clone()
    synthesis.begin_epoch(0)
    assert synthesis.rounds == 1 and torch.equal(synthesis.images, before) and not before[4:].any()


def test_a_round_begins_with_weights_of_its_own_and_leaves_the_random_numbers_alone():
    synthesis, state = tiny_synthesis(OF_KIND["cmi"]), torch.get_rng_state()
    synthesis.begin_epoch(0)
    synthesis.begin_epoch(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(synthesis.images[:4], synthesis.images[4:8])


@pytest.mark.parametrize("contrast", (0.8, 0.0))
def test_files_hold_what_is_taken_up(contrast, tmp_path):
    settings = replace(OF_KIND["cmi"], contrast=contrast)
    synthesis, again = tiny_synthesis(settings), tiny_synthesis(settings)
    for one in (synthesis, again):
        one.keep_beside(tmp_path / "student.pt")
    list(batches(synthesis))
    assert synthesis.files.keys() == ({"images", "features"} if contrast else {"images"})
    images = np.fromfile(tmp_path / "student.images", np.uint8).reshape(8, 8, 8, 3)
    assert np.array_equal(images, synthesis.images.numpy())
    for name, file in again.files.items():
        file.take_up(synthesis.files[name].mark())
    again.take_up(synthesis.rounds)
    assert again.rounds == 2 and torch.equal(again.images, synthesis.images)
    if synthesis.bank is not None:
        assert again.bank is not None and len(synthesis.bank.rows) == 6, "eight rows were added"
        assert torch.equal(again.bank.rows, synthesis.bank.rows) and again.bank.pointer == synthesis.bank.pointer == 2


def test_whoever_watches_may_end_a_round():
    synthesis = tiny_synthesis(OF_KIND["cmi"])
    seen = []

    def watch(done, steps, seconds):
        seen.append((done, steps))
        if done == 1:
            raise KeyboardInterrupt

    synthesis.watch = watch
    with pytest.raises(KeyboardInterrupt):
        synthesis.begin_epoch(0)
    assert seen == [(0, 3), (1, 3)] and synthesis.rounds == 0 and synthesis.made_for.student.training


def test_what_is_measured():
    synthesis = tiny_synthesis(OF_KIND["cmi"])
    synthesis.begin_epoch(0)
    assert synthesis.measures() == {"rounds": 1, "loss": synthesis.loss.item(), "images": 4}
    assert synthesis.words().startswith("pool of 4, synthesis loss ")

"""What a table wants to know beyond a training's results."""

from fastkd.recipes.findings import ProbeSettings


def test_milestones_follow_the_epochs():
    assert ProbeSettings().changed({"epochs": 12}).milestones == (3, 6, 9)
    assert ProbeSettings().changed({"epochs": 12, "milestones": (5,)}).milestones == (5,)


def test_a_probe_is_trained_on_all_images():
    training = ProbeSettings().training
    assert not training.drop_last and (training.lr, training.weight_decay) == (0.1, 0.0)

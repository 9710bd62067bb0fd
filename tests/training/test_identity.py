"""A file goes on with the recipe that it was made with, and with no other."""

from pathlib import Path

import pytest

from fastkd.support.errors import UserError
from fastkd.training.identity import Identity

FILE = Path("run/checkpoints/student.pt")
STAGE = {"stage": {"network": "resnet8", "training": {"lr": 0.05, "milestones": [1, 2]}}, "seed": 0}


def changed(**stage):
    return {**STAGE, "stage": {**STAGE["stage"], **stage}}


def test_the_same_is_accepted():
    Identity(STAGE).refuse_changes(changed(), FILE)


def test_a_trainer_without_an_identity_accepts_only_files_without_one():
    Identity().refuse_changes({}, FILE)
    with pytest.raises(UserError, match="was made with seed = 0, the recipe now says None"):
        Identity().refuse_changes({"seed": 0}, FILE)


@pytest.mark.parametrize(
    "then, words",
    [
        (changed(network="wrn_16_1"), "stage.network = 'wrn_16_1', the recipe now says 'resnet8'"),
        (changed(training={"lr": 0.1, "milestones": [1, 2]}), "stage.training.lr = 0.1, the recipe now says 0.05"),
        (changed(training={"lr": 0.05, "milestones": [1, 3]}), "stage.training.milestones[1] = 3, the recipe now"),
        (changed(training={"lr": 0.05, "milestones": [1]}), "stage.training.milestones = [1], the recipe now says [1,"),
        ({**STAGE, "seed": 1}, "seed = 1, the recipe now says 0"),
        ({"stage": STAGE["stage"]}, "seed = None, the recipe now says 0"),
        ({**STAGE, "more": "words"}, "more = 'words', the recipe now says None"),
    ],
)
def test_a_change_is_refused_in_one_line_that_names_its_place(then, words):
    with pytest.raises(UserError) as raised:
        Identity(STAGE).refuse_changes(then, FILE)
    line = str(raised.value)
    assert line.startswith(f"{FILE} was made with {words}") and line.endswith("start another run")
    assert "\n" not in line


def test_what_an_earlier_version_wrote_is_compared_in_words_of_today():
    today = Identity(STAGE, lambda then: {"seed": 0, "stage": then["old name of stage"]})
    today.refuse_changes({"old name of stage": STAGE["stage"]}, FILE)
    with pytest.raises(UserError, match="stage.network = 'vgg8', the recipe now says 'resnet8'"):
        today.refuse_changes({"old name of stage": {**STAGE["stage"], "network": "vgg8"}}, FILE)

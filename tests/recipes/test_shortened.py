"""What is said in epochs follows them."""

from dataclasses import dataclass

from fastkd.recipes.shortened import shortened_prestage, shortened_training
from fastkd.training.optimisation import Training

LONG = Training(epochs=240, milestones=(150, 180, 210), warmup_epochs=5)


@dataclass
class Before:
    epochs: int = 60
    milestones: tuple[int, ...] = (30, 45)


def test_milestones_and_warm_up_follow_the_epochs():
    short = shortened_training(LONG, {"epochs": 24, "lr": 0.1})
    assert (short.milestones, short.warmup_epochs, short.lr) == ((15, 18, 21), 5, 0.1)
    shortest = shortened_training(LONG, {"epochs": 2})
    assert (shortest.milestones, shortest.warmup_epochs) == ((1,), 2)


def test_what_is_given_beside_the_epochs_stays():
    assert shortened_training(LONG, {"epochs": 24, "milestones": (20,)}).milestones == (20,)
    assert shortened_training(LONG, {"factor": 0.2}).milestones == LONG.milestones


def test_a_training_before_the_students_moves_by_the_same_factor():
    assert shortened_prestage(Before(), 0.1) == {"epochs": 6, "milestones": (3, 4)}
    assert shortened_prestage(Before(), 0.001) == {"epochs": 1, "milestones": ()}
    assert shortened_prestage(Before(), 1) == shortened_prestage(Before(0), 0.1) == {}

"""Where a stage stands."""

from dataclasses import asdict

from fastkd.support.schemas import Progress as Written
from fastkd.training.progress import Progress


def test_a_checkpoint_has_a_place_for_every_field():
    assert asdict(Progress()).keys() == Written.__annotations__.keys()

"""Every setting of every method changes something, or its declaration says beside what it does."""

import dataclasses
import itertools
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from helpers.walk import PAIRS, SETTINGS, VARIANTS, batch, distill, trained

from fastkd.methods import METHODS
from fastkd.support.errors import UserError
from fastkd.support.fields import idle
from fastkd.support.ranges import bare, range_of

STARTS: dict[str, dict[str, Any]] = {"sskd": {"epochs": 4, "milestones": (1, 2)}}
"""Settings to begin with, where the defaults leave a part of a method out."""


def others(kind: Any, value: Any) -> list[Any]:
    """Other values that a setting may have."""
    inner = bare(kind)
    options = [option for option in get_args(inner) if option is not type(None)]
    if get_origin(inner) is Literal:
        return [option for option in get_args(inner) if option != value]
    if get_origin(inner) is tuple:
        return [value[:-1]]
    if inner is bool:
        return [not value]
    if inner in (int, float):
        near = (2 * value, value / 2, value + 1, 0.5, 1, 2)
        fitting = [inner(one) for one in near if not range_of(kind).refuses(inner(one))]
        return [one for one in fitting if one != value]
    return others(options[0], value) if options else []


def trace_of(method: str, settings: dict[str, Any]) -> list[Any]:
    """What two steps make of it, and what it asks of the rest of the run."""
    pair = ("resnet14", "resnet8") if method == "fsp" else PAIRS["same depth"]
    stage = distill(method, pair[1], pair[0], **settings)
    own = stage.methods[method]
    optimizer = torch.optim.SGD(trained(stage), lr=1e-2)
    found: list[Any] = [own.prestage_training(own.settings), own.waypoints(own.settings), own.own_augmentation]
    for number in range(3):
        stage.begin_epoch(number)
        total = stage(batch(number)).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(total.item())
    return found


def changes(method: str):
    start = SETTINGS.get(method, {}) | VARIANTS.get(method, {}) | STARTS.get(method, {})
    kind = METHODS[method].Settings
    usual = kind(**start)
    for name, annotation in get_type_hints(kind, include_extras=True).items():
        if idle(usual, [name]) is None:
            yield start, name, [dataclasses.replace(usual, **{name: one}) for one in _fitting(usual, name, annotation)]


def _fitting(usual: Any, name: str, annotation: Any) -> list[Any]:
    found = []
    for one in others(annotation, getattr(usual, name)):
        try:
            dataclasses.replace(usual, **{name: one})
        except UserError:
            continue
        found.append(one)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].teachers_needed != (0, 0)])
def test_every_setting_changes_something(method):
    if METHODS[method].among_peers:
        pytest.skip("peers are tested by their own stage")
    for start, name, changed in changes(method):
        before, traces = trace_of(method, start), []
        for settings in itertools.islice(changed, 3):
            try:
                traces.append(trace_of(method, start | {name: getattr(settings, name)}))
            except UserError:
                continue
        assert not changed or any(trace != before for trace in traces), f"{method}.{name} changes nothing"

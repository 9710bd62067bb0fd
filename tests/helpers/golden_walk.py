"""A plugin of pytest, `-p helpers.golden_walk`: which golden numbers passing tests read, and which methods these built.

It writes {"modern/nkd/c10/loss/target": ["nkd"], …} to the file that GOLDEN_WALK names.
"""

import functools
import json
import os
from pathlib import Path

import pytest

from helpers import golden, method_cases

_of_this_test: tuple[set[str], set[str]] = set(), set()
_found: dict[str, set[str]] = {}


def _watch() -> None:
    read, build = golden.Case.__getitem__, method_cases.built

    def reading(case: golden.Case, key: str):
        _of_this_test[0].add(f"{case.file}/{case.name}/{key}")
        return read(case, key)

    @functools.wraps(build)
    def building(name: str, *given, **settings):
        _of_this_test[1].add(name)
        return build(name, *given, **settings)

    golden.Case.__getitem__, method_cases.built = reading, building


_watch()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    keys, methods = _of_this_test
    keys.clear()
    methods.clear()
    result = yield
    for key in keys:
        _found.setdefault(key, set()).update(methods)
    return result


def pytest_sessionfinish() -> None:
    written = {key: sorted(methods) for key, methods in _found.items()}
    Path(os.environ["GOLDEN_WALK"]).write_text(json.dumps(written))

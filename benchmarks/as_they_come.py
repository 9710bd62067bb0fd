"""A plugin of pytest that writes each result as soon as it is there: a session that is killed has lost none of them.

pytest -p benchmarks.as_they_come --results FILE: a line of JSON for each test that was called or was not passed.
"""

import json
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, default=None, help="write a line for each test there")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--results")
    if file is not None and not hasattr(config, "workerinput"):  # xdist's workers tell the process that writes
        config.pluginmanager.register(_Results(file))


class _Results:
    def __init__(self, file: Path):
        self.file = file
        file.write_text("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        line: dict[str, Any] = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 3)}
        if report.outcome == "failed":
            crash = getattr(report.longrepr, "reprcrash", None)
            line["why"] = str(report.longrepr if crash is None else crash.message)[:2000]
        with self.file.open("a") as results:
            results.write(json.dumps(line) + "\n")

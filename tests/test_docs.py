"""What the pages of docs/ name is there, and what should be named in them is."""

import re
from pathlib import Path

import pytest
from helpers.places import ROOT, TESTS

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *DOCS,
    ROOT / "benchmarks" / "README.md",
    TESTS / "golden/README.md",
    TESTS / "golden/modern/README.md",
]
OF_OURS = re.compile(r"FASTKD_[A-Z_]+")
READ = re.compile(r"environ(?:\.get\(|\.setdefault\(|\[)\"([A-Z_]+)\"|\"([A-Z_]+)\" (?:not )?in os\.environ")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)*/?)`")
OF_A_RUN = {"checkpoints/"}
"""Paths that are not those of the repository."""


def sources(*folders: str) -> list[Path]:
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    kept = [path for path in files if path.suffix in (".py", ".h", ".cuh", ".cpp", ".cu", "") and path.name[0] != "."]
    return [*kept, ROOT / "setup.py", ROOT / "Makefile"]


def named_in_the_page() -> set[str]:
    """The first column of its tables."""
    rows = re.findall(r"^\| (`[^|]+) \|", (ROOT / "docs" / "ENVIRONMENT.md").read_text(), re.M)
    return {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}


def test_the_environment_page_names_every_variable_of_ours_and_no_other():
    text = "\n".join(path.read_text() for path in sources("fastkd", "csrc", "benchmarks", "tests", ".ci"))
    macros = set(re.findall(r"#define (FASTKD_[A-Z_]+)", text))
    assert set(OF_OURS.findall(text)) - macros == {name for name in named_in_the_page() if OF_OURS.match(name)}


def test_the_environment_page_names_every_variable_that_is_read():
    read = {one or other for path in sources("fastkd", "benchmarks") for one, other in READ.findall(path.read_text())}
    assert {"FASTKD_OPS", "RANK", "OMP_NUM_THREADS", "MAX_JOBS"} <= read, "the pattern finds what it should"
    assert not read - named_in_the_page()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text()) if "://" not in target]
    assert not [target for target in targets if target and not (page.parent / target).exists()]


@pytest.mark.parametrize("name", ("CONTRIBUTING.md", "DESIGN.md", "ENVIRONMENT.md"))
def test_paths_in_backticks_exist(name):
    paths = {word for word in PATH.findall((ROOT / "docs" / name).read_text()) if "/" in word} - OF_A_RUN
    assert len(paths) >= 3
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_targets_of_make_exist(page):
    there = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert not set(re.findall(r"`make ([a-z]+)", page.read_text())) - there


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_stand_alone(page):
    """Nothing that is outside of the repository is referred to."""
    assert not re.findall(r"\.\./shared|notes/\w+\.md|/(?:root|home|tmp|work)/", page.read_text())


def test_the_golden_files_are_all_described():
    described = set(re.findall(r"^##+ ([\w./]+)", (TESTS / "golden" / "README.md").read_text(), re.M))
    there = {path.name for path in (TESTS / "golden").iterdir() if path.name != "README.md"}
    assert {name for name in there if name not in described and f"{name}/" not in described} == set()

"""The documentation's site: what its pages are made of, and that it builds without a warning."""

import importlib.util
import re
import subprocess
import sys

import pytest
from helpers.places import ROOT

from fastkd.methods import METHODS
from fastkd.recipes import RECIPES

HAS_MKDOCS = all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings", "latex2mathml"))
PAGES = sorted((ROOT / "docs" / "site").glob("*.md"))


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "docs" / "mkdocs.yml").read_text()
    assert all(f": {page.name}" in navigation for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_links_of_a_page(page):
    text, there = page.read_text(), {other.name for other in PAGES}
    made = {"methods.md", "recipes.md", "api.md", *(path.name for path in (ROOT / "docs").glob("*.md")), "CHANGELOG.md"}
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target in there | made, target
    for recipe in re.findall(r"fastkd train ([a-z][\w-]+)", text):
        assert recipe in RECIPES, recipe
    for method in re.findall(r"^## .*\(`(\w+)`\)", text, re.M):
        assert method in METHODS, method


@pytest.mark.slow
@pytest.mark.skipif(not HAS_MKDOCS, reason="mkdocs, mkdocs-material, mkdocstrings and latex2mathml are not installed")
def test_it_builds_without_a_warning_and_asks_nobody(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(ROOT / "docs" / "mkdocs.yml")]
    done = subprocess.run([*command, "-d", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    methods = (tmp_path / "methods.html").read_text()
    assert all(f'id="{name}"' in methods for name in METHODS)
    mathematics = (tmp_path / "mathematics.html").read_text()
    assert mathematics.count("<math") > 10 and "arithmatex" not in mathematics
    for page in tmp_path.glob("*.html"):
        assert not re.search(r'(src|<link[^>]*href)="https?://', page.read_text()), page.name

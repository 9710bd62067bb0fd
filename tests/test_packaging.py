"""What a source distribution and a wheel hold, and what they say of themselves."""

import importlib.metadata
import re
import runpy
import subprocess
import sys
import tarfile
import tomllib

import pytest
from helpers.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The names in a source distribution of the files that are tracked."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("this is no checkout")
    files = {name for name in tracked.stdout.split("\0") if name and (ROOT / name).is_file()}
    folder = tmp_path_factory.mktemp("sdist")
    for name in files:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).symlink_to(ROOT / name)
    environment = {"FASTKD_BUILD": "none", "PATH": "/usr/bin:/bin"}
    line = [sys.executable, "setup.py", "-q", "sdist", "-d", str(folder)]
    done = subprocess.run(line, cwd=folder / "source", capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("fastkd-*.tar.gz")
    with tarfile.open(archive) as opened:
        return files, {file.name.partition("/")[2] for file in opened.getmembers() if not file.isdir()}


def test_a_source_distribution_is_the_whole_checkout(sdist):
    """Its tests can run: what they import, compare with and read is there, and the Makefile that runs them."""
    tracked, packed = sdist
    assert tracked - packed == set()
    assert {"Makefile", "constraints-dev.txt", "tests/golden/kd.npz", "tests/helpers/tiny.py", "csrc/nce.h"} <= packed


def test_nothing_else_is_in_it(sdist):
    tracked, packed = sdist
    extra = {name for name in packed - tracked if not name.startswith("fastkd.egg-info/")}
    assert extra == {"PKG-INFO", "setup.cfg"}


@pytest.mark.parametrize("build, label", [("cpu", "+cpu"), ("cuda", "+cu128"), ("auto", ""), ("none", "")])
def test_what_was_built_by_order_stands_in_the_version(build, label, tmp_path, monkeypatch):
    """So that a CPU's wheel and CUDA's stand on one index."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 12.8, V12.8.61\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("FASTKD_BUILD", build)
    building = runpy.run_path(str(ROOT / "setup.py"))
    assert building["label"](tmp_path) == label


def test_the_program_is_there_and_every_word_of_it():
    from fastkd.__main__ import run

    assert PROJECT["scripts"] == {"fastkd": "fastkd.__main__:run"} and callable(run)


def test_dependencies_are_few_and_bring_pillow():
    names = {re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]}
    assert names == {"torch", "torchvision", "numpy", "safetensors", "tyro", "rich"}
    assert any(re.match(r"pillow\b(?!.*extra)", line) for line in importlib.metadata.requires("torchvision"))


def test_the_package_says_what_it_is():
    assert PROJECT["authors"] and PROJECT["keywords"] and PROJECT["urls"]
    assert "Typing :: Typed" in PROJECT["classifiers"] and (ROOT / "fastkd" / "py.typed").is_file()
    assert all(re.match("https://", address) for address in PROJECT["urls"].values())

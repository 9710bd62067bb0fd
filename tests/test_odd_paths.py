"""Paths of folders of others, too long ones, circles, names in no encoding: every command has one line for each."""

import json
import os
import shutil

import pytest
from helpers.commands import TINY
from helpers.hostile import line_of
from helpers.image_folders import write_folder

from fastkd import evaluate, report, reproduce, train
from fastkd.data.__main__ import main as data
from fastkd.support import paths

TINY_TABLE = ["digits", "--only", "wrn_16_2/resnet8", "--methods", "kd", "--epochs", "1", "--limit-train", "64"]
COMMANDS = {
    "train --run": lambda path: train.main([*TINY, "--run", path]),
    "train --resume": lambda path: train.main(["--resume", path]),
    "train --teacher": lambda path: train.main([*TINY, "--teacher", path, "--run", "run"]),
    "train --teacher RUN@EPOCH": lambda path: train.main([*TINY, "--teacher", f"{path}@3", "--run", "run"]),
    "train --trust": lambda path: train.main([*TINY, "--trust", path, "--run", "run"]),
    "train RECIPE": lambda path: train.main([f"{path}.json", "--run", "run"]),
    "train --data imagefolder": lambda path: train.main(["cifar100-sftn", "--data", f"imagefolder:{path}"]),
    "train --data tiny-imagenet": lambda path: train.main(["cifar100-sftn", "--data", f"tiny-imagenet:{path}"]),
    "train --data cifar100": lambda path: train.main(["cifar100-sftn", "--data", f"cifar100:{path}"]),
    "train --data cifar10": lambda path: train.main(["cifar100-sftn", "--data", f"cifar10:{path}"]),
    "train --data stl10": lambda path: train.main(["cifar100-sftn", "--data", f"stl10:{path}"]),
    "evaluate": lambda path: evaluate.main([path]),
    "evaluate --data": lambda path: evaluate.main(["good", "--data", f"cifar100c:{path}"]),
    "evaluate --export": lambda path: evaluate.main(["good", "--export", f"{path}/x.pt2"]),
    "report": lambda path: report.main([path]),
    "report --out": lambda path: report.main(["good", "--out", f"{path}/x.html"]),
    "reproduce --out": lambda path: reproduce.main([*TINY_TABLE, "--out", path]),
    "inspect": lambda path: data(["inspect", path]),
    "inspect --out": lambda path: data(["inspect", "animals", "--image-size", "8", "--out", f"{path}/x.png"]),
    "inspect --index-cache": lambda path: data(["inspect", "animals", "--index-cache", path]),
}
"""Every command and option that takes a path."""


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("animals") / "animals", per_class=3)


@pytest.fixture
def here(finished, animals, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "good")
    (tmp_path / "animals").symlink_to(animals)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_paths_that_are_none(command, here, monkeypatch):
    (here / "circle").symlink_to("circle")
    for path in ("x" * 5000, "y/" * 2500, "y/" * 3 + "x" * 300, "a\0b", "circle/inside"):
        assert line_of(lambda path=path: COMMANDS[command](path), (command, path))
    assert not (here / "y").exists(), "folders are left of one that cannot be made"


@pytest.mark.parametrize("command", COMMANDS)
def test_folders_of_others(command, here, monkeypatch):
    """Root may look everywhere, so the system is made to refuse."""
    (here / "others").mkdir()
    for name in ("stat", "open", "mkdir", "scandir", "listdir"):
        refuse_below(name, monkeypatch)
    assert "Permission denied" in line_of(lambda: COMMANDS[command]("others/inside"), command)


def refuse_below(name, monkeypatch):
    original = getattr(os, name)

    def refusing(path=".", *arguments, **options):
        if isinstance(path, str | bytes | os.PathLike) and "others/" in os.fsdecode(path):
            raise PermissionError(13, "Permission denied", path)
        return original(path, *arguments, **options)

    monkeypatch.setattr(paths.os, name, refusing)


class TestNamesThatAreNotUTF8:
    ODD = os.fsdecode(b"caf\xe9")

    @pytest.fixture
    def root(self, tmp_path):
        return write_folder(tmp_path / self.ODD, per_class=40, classes=("ant", self.ODD, "a\nline\x1b[31m"))

    @pytest.fixture
    def shown(self, monkeypatch, tmp_path):
        """The program's output, encoded as a terminal's is."""
        import io
        import sys

        from fastkd.support.command_line import command

        def run(main, *arguments):
            out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
            err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
            with monkeypatch.context() as patch:
                patch.setattr(sys, "argv", ["fastkd", *map(str, arguments)])
                patch.setattr(sys, "stdout", out)
                patch.setattr(sys, "stderr", err)
                code = command(main)
                out.flush(), err.flush()
            return code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()

        return run

    def test_inspect_shows_them(self, root, shown, tmp_path):
        sheet = tmp_path / "sheet.png"
        code, out, err = shown(data, "inspect", root, "--image-size", "8", "--out", sheet)
        assert code == 0 and "caf\\udce9" in out and sheet.exists(), err
        code, out, err = shown(data, "inspect", root, "--image-size", "8", "--out", sheet, "--json")
        assert code == 0 and self.ODD in json.loads(out)["classes"], err
        (root / "train" / "ant" / f"{self.ODD}.png").write_bytes(b"no image")
        code, out, _ = shown(data, "inspect", root, "--image-size", "8", "--out", sheet)
        assert code == 1 and "caf\\udce9.png is no image" in out

    def test_a_run_in_such_a_folder_on_such_data(self, root, shown, tmp_path):
        run = tmp_path / f"run-{self.ODD}"
        how = ["--data", f"imagefolder:{root}", "--image-size", "8", *TINY, "--epochs", "1", "--control", "off"]
        how[how.index("--limit-train") + 1] = "96"
        code, out, err = shown(train.main, *how, "--run", run)
        assert code == 0 and "caf\\udce9" in out, err
        recipe = json.loads((run / "recipe.json").read_bytes().decode())
        assert recipe["data"] == f"imagefolder:{root}"
        for main, *arguments in ((report.main, run), (evaluate.main, run), (train.main, "--resume", run)):
            code, _, err = shown(main, *arguments)
            assert code == 0, err

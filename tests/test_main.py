"""The program `fastkd`: the commands are its words."""

import sys

import pytest
from helpers.commands import command

import fastkd
from fastkd.__main__ import COMMANDS, run


@pytest.fixture
def typed(monkeypatch):
    """Runs the program on some words."""

    def running(*words):
        monkeypatch.setattr(sys, "argv", ["fastkd", *words])
        return run()

    return running


def test_without_a_command_it_lists_them(typed, capsys):
    assert typed() == 2 and typed("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"  {word} " in shown and what in shown for word, what in COMMANDS.items())


def test_a_module_is_the_same_program():
    done = command("fastkd")
    assert done.returncode == 2 and done.stdout.startswith("usage: fastkd COMMAND") and not done.stderr


def test_what_is_no_command_is_one_line(typed, capsys):
    assert typed("trian") == 2
    assert capsys.readouterr().err == "fastkd: no command 'trian'; did you mean 'train'?\n"


@pytest.mark.parametrize("word", COMMANDS)
def test_every_word_hands_the_rest_to_its_command(word, typed, monkeypatch):
    module = "fastkd.data.__main__" if word == "data" else f"fastkd.{word}"
    given = []
    monkeypatch.setattr(f"{module}.main", lambda arguments: given.append(arguments) or 7)
    assert typed(word, "RUN", "--out", "x y") == 7 and given == [["RUN", "--out", "x y"]]


def test_a_mistake_of_a_command_is_one_line(typed, capsys):
    assert typed("report", "/no/such/run") == 2
    assert capsys.readouterr().err == "fastkd: no run folder /no/such/run\n"


def test_the_version(typed, capsys):
    assert typed("--version") == 0 and capsys.readouterr().out.strip() == fastkd.__version__


def test_asking_for_help_does_not_wait_for_torch(monkeypatch):
    done = command("fastkd", "--help", env={"PYTHONPROFILEIMPORTTIME": "1", "PATH": "/usr/bin"})
    assert done.returncode == 0 and "torch" not in done.stderr

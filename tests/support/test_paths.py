"""What stands at a path, however odd the path: an answer, or one line."""

import os
from pathlib import Path

import pytest

from fastkd.support import paths
from fastkd.support.errors import UserError

QUESTIONS = (paths.is_there, paths.is_file, paths.is_folder)


def test_files_folders_and_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    answers = {name: [ask(tmp_path / name) for ask in QUESTIONS] for name in ("", "file", "gone", "file/below")}
    assert answers == {
        "": [True, False, True],
        "file": [True, True, False],
        "gone": [False] * 3,
        "file/below": [False] * 3,
    }


def test_links_are_what_they_lead_to(tmp_path):
    (tmp_path / "file").write_text("")
    for name, goal in (("good", "file"), ("dead", "gone")):
        (tmp_path / name).symlink_to(goal)
    assert paths.is_file(tmp_path / "good") and not paths.is_there(tmp_path / "dead")


@pytest.mark.parametrize("ask", QUESTIONS)
@pytest.mark.parametrize("name", ("x" * 300, "a/" * 3000, "nul\0byte"))
def test_paths_that_are_none_are_one_line(ask, name, tmp_path):
    with pytest.raises(UserError, match="^cannot look at "):
        ask(tmp_path / name)


@pytest.mark.parametrize("ask", QUESTIONS)
def test_a_circle_of_links_is_one_line(ask, tmp_path):
    (tmp_path / "x").symlink_to("x")
    with pytest.raises(UserError, match="leads in a circle"):
        ask(tmp_path / "x")


@pytest.mark.parametrize("ask", (*QUESTIONS, lambda path: paths.inside(path, "*")))
def test_where_nobody_may_look_is_one_line(ask, tmp_path, monkeypatch):
    def denied(path, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(paths.os, "stat", denied)
    with pytest.raises(UserError, match=r"^cannot look at .*x: Permission denied$"):
        ask(tmp_path / "x")


def test_a_folder_that_may_be_looked_at_but_not_into_is_one_line(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(paths.os, "listdir", denied)
    with pytest.raises(UserError, match="^cannot read the folder .*: Permission denied$"):
        paths.inside(tmp_path, "*")


def test_what_lies_inside_is_sorted_and_named_by_a_pattern(tmp_path):
    for name in ("b.pt", "a.pt", "a.txt", ".hidden"):
        (tmp_path / name).write_text("")
    assert [path.name for path in paths.inside(tmp_path, "*.pt")] == ["a.pt", "b.pt"]
    assert paths.inside(tmp_path / "gone", "*") == []


def test_the_home_folder_is_put_in_place_of_its_sign(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert paths.expanded("~/x") == Path("/home/somebody/x") and paths.expanded("~") == Path("/home/somebody")
    for word in ("x~", "a/~/b", "/x"):
        assert paths.expanded(word) == Path(word)
    with pytest.raises(UserError, match="there is no such home folder"):
        paths.expanded("~nosuchuser/x")


def test_a_free_path_is_one_where_nothing_stands(tmp_path):
    wanted = tmp_path / "sheet.png"
    assert paths.free_path(wanted) == wanted
    wanted.touch()
    (tmp_path / "sheet-2.png").symlink_to(tmp_path / "gone")  # writing there would make what it leads to
    assert paths.free_path(wanted) == tmp_path / "sheet-3.png"


def test_names_that_are_not_utf_8_are_shown_with_escapes(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    assert not paths.is_there(tmp_path / name)
    with pytest.raises(UserError) as raised, paths.explained("cannot read", Path(name)):
        raise OSError(5, "Input/output error")
    assert str(raised.value) == r"cannot read caf\udce9: Input/output error"

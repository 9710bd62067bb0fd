"""What stands in a file is what its class says, or one line says where it is not; see tests/test_fuzz_files.py, too."""

import json
import typing

import pytest
import torch
from helpers.golden import GOLDEN

from fastkd.support import schemas
from fastkd.support.environment import collect, this_call
from fastkd.support.errors import UserError
from fastkd.support.schemas import Checkpoint, Environment, EpochRecord, Metadata, Record, Results, checked

RUN = GOLDEN / "format_1" / "run"
KINDS = [kind for kind in vars(schemas).values() if typing.is_typeddict(kind) and kind.__module__ == schemas.__name__]


def results():
    return json.loads((RUN / "results.json").read_text())


def checkpoint():
    return torch.load(RUN / "checkpoints" / "student.pt", weights_only=True)


def record():
    return json.loads((RUN / "metrics.jsonl").read_text().splitlines()[0])


def environment():
    return json.loads((RUN / "env.json").read_text())


METADATA = {"network": "resnet8", "num_classes": 10, "image_size": 8}
GOOD = {
    Environment: environment,
    Results: results,
    Checkpoint: checkpoint,
    EpochRecord: record,
    Record: record,
    Metadata: lambda: dict(METADATA),
}


@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.__name__)
def test_what_fastkd_0_1_wrote_is_read_as_it_is(kind):
    value = GOOD[kind]()
    assert checked(kind, value, "here") is value


@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.__name__)
def test_every_required_entry_is_missed_and_a_further_one_is_not(kind):
    for name in kind.__required_keys__:
        value = GOOD[kind]()
        del value[name]
        with pytest.raises(UserError, match=f"^here(.*) lacks the entry '{name}'$"):
            checked(kind, value, "here")
    checked(kind, GOOD[kind]() | {"of a newer fastkd": object()}, "here")


@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.__name__)
def test_no_entry_may_be_of_another_kind(kind):
    hints = typing.get_type_hints(kind)
    for name in GOOD[kind]().keys() & hints.keys():
        if hints[name] is not typing.Any:
            with pytest.raises(UserError, match="^(here|a name in here)"):
                checked(kind, GOOD[kind]() | {name: {1: 2.5} if hints[name] is not dict else 3}, "here")


@pytest.mark.parametrize("value", (None, [], "x", 3, {1: 2}))
@pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.__name__)
def test_what_is_no_dictionary_of_names(kind, value):
    with pytest.raises(UserError):
        checked(kind, value, "here")


def test_numbers_have_their_ranges():
    for number in (-1, 1 << 63, 10**400, 0.5, True, float("nan")):
        with pytest.raises(UserError, match=r"^here\.step is "):
            checked(Record, record() | {"step": number}, "here")
    none_tested = record()
    none_tested["test"] = {"teacher": {"top1": 0, "top5": 0, "samples": 0}}
    with pytest.raises(UserError, match=r"here\.test\.teacher\.samples is 0, expected a whole number from 1"):
        checked(EpochRecord, none_tested, "here")


def test_there_may_be_no_best_evaluation_and_no_last_record_yet():
    value = checkpoint()
    value["progress"]["best"], value["logged"] = {}, {}
    assert checked(Checkpoint, value, "here")["progress"]["best"] == {}
    value["progress"]["best"] = {"epoch": 3}
    with pytest.raises(UserError, match=r"here\.progress\.best lacks the entry 'top1'"):
        checked(Checkpoint, value, "here")


@pytest.mark.parametrize(
    "name", ("teacher", "student-ft", "kd+fitnet", "no teacher", "teacher-2", "a.b", "x" * 100, "_")
)
def test_names_that_a_file_may_have(name):
    schemas.check_name(name, "the name")


BAD = (
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc",
    "x" * 101,
    "a\0",
    "a\nb",
    ".x",
    "-x",
    "+",
    " x",
    "x ",
    "seed-0",
    "a@3",
    "é",
    3,
)


@pytest.mark.parametrize("name", (*BAD, None, "a\\b", "x.", "a*"))
def test_names_that_it_may_not_have(name):
    with pytest.raises(UserError, match="^the name is .*expected a name of letters, digits"):
        schemas.check_name(name, "the name")


def test_what_is_written_today_is_what_is_read():
    today = collect() | this_call() | {"earlier": [this_call()]}
    assert checked(Environment, today, "here") is today
    assert today.keys() - typing.get_type_hints(Environment).keys() == set()

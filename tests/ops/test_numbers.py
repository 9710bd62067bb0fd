"""The table of the losses' numbers: what reads it agrees with it."""

import inspect
import math
import re

import pytest
from helpers.places import ROOT

from fastkd.ops.distill_loss import reference
from fastkd.ops.numbers import NUMBERS, ROW_FORMS, CRDRole, Role, neutral, partners_learn

CSRC = ROOT / "csrc"
OPTIONS = {"labels_B", "ignore_index", "shares", "direction", "detached", "tau_squared", "spread", "standardised"}
OPTIONS |= {"weighted", "continuous"}


@pytest.mark.parametrize("form", NUMBERS)
def test_every_number_has_a_place_of_its_own_and_a_default_in_its_range(form):
    places = [number.role for number in NUMBERS[form].values()]
    assert len(set(places)) == len(places)
    assert len(neutral(form)) == len(CRDRole if form == "crd" else Role)
    for name, number in NUMBERS[form].items():
        if number.default != math.inf:  # stands for none
            number.range.check(name, number.default)


@pytest.mark.parametrize("form", NUMBERS)
def test_no_weight_of_a_term_may_be_negative(form):
    for name, number in NUMBERS[form].items():
        if number.role.name.endswith("WEIGHT"):
            assert number.range.refuses(-1.0) and not number.range.refuses(0.0), name


@pytest.mark.parametrize("form", reference.FORMS)
def test_the_definition_takes_the_numbers_of_its_row(form):
    keywords = [
        name
        for name, one in inspect.signature(reference.FORMS[form]).parameters.items()
        if one.kind is one.KEYWORD_ONLY and name not in OPTIONS
    ]
    row = set(NUMBERS[form])
    assert row == set(keywords) - ({"temperature"} if form == "virtual" else set())


def test_the_kernel_of_a_cpu_has_every_form_and_reads_the_numbers_where_they_stand():
    roles = re.search(r"enum Role \{(.*?)ROLES\s*\}", (CSRC / "distill.h").read_text(), re.DOTALL)[1]
    assert [name.strip() for name in roles.split(",") if name.strip()] == [role.name for role in Role]
    rows = re.findall(r"\{\{\"(\w+)\", (true|false), (-1|\w+), (true|false)\}", (CSRC / "distill_rows.h").read_text())
    assert sorted(name for name, *_ in rows) == sorted(reference.FORMS)
    for name, learn, third, _ in rows:
        has = {number.role.name for number in NUMBERS[name].values()}
        assert (learn == "true") == partners_learn(name)
        assert ({third} - {"-1"}) == has & {"PARTNER_CE_WEIGHT", "OTHERS_WEIGHT"}


@pytest.mark.parametrize("form", ROW_FORMS)
def test_the_numbers_of_rows_and_of_batches_stand_in_one_tensor(form):
    """`KDLoss` hands one tensor to both operations."""
    assert neutral(form) == neutral("kd")
    assert set(neutral(form)) == {1.0}


def test_every_form_has_a_definition_and_a_kernel():
    pytest.importorskip("triton")
    from fastkd.ops.distill_loss import launch

    assert set(reference.FORMS) == set(launch.FORMS) == set(NUMBERS) - {"crd", *ROW_FORMS}

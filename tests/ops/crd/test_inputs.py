"""One declaration of what the CRD operations read: schemas, tuples and the C++ functions agree."""

import re
from pathlib import Path

import torch
from helpers.crd_cases import problem

from fastkd.ops.crd import operation
from fastkd.ops.crd.draws import DrawPlan
from fastkd.ops.crd.inputs import Inputs
from fastkd.ops.schema import flat, schema

HEADER = (Path(__file__).parents[3] / "csrc" / "inputs.h").read_text()
IN_CPP = {"Tensor": "Tensor", "Tensor?": "std::optional<Tensor>", "int": "int64_t", "bool": "bool"}


def arguments_in_cpp(macro: str) -> list[tuple[str, str]]:
    text = re.search(rf"#define {macro}(.*?[^\\])\n", HEADER, re.DOTALL)[1].replace("\\\n", " ")
    text = text.replace("FASTKD_DRAW_PLAN", re.search(r"#define FASTKD_DRAW_PLAN(.*?[^\\])\n", HEADER, re.DOTALL)[1])
    return [tuple(argument.split()) for argument in text.replace("\\\n", " ").split(",")]


def arguments_in_python(kind: type) -> list[tuple[str, str]]:
    pairs = [argument.split() for argument in schema(kind).split(", ")]
    return [(IN_CPP[of], re.sub(r"_[A-Zn0-9]+$", "", name)) for of, name in pairs]


def test_cpp_takes_what_python_hands_over():
    assert arguments_in_cpp("FASTKD_CRD_INPUTS") == arguments_in_python(Inputs)
    assert arguments_in_cpp("FASTKD_DRAW_PLAN") == arguments_in_python(DrawPlan)


def test_the_gradients_are_those_of_the_embeddings():
    """Whatever stands in front of them: the backward finds them by name."""
    given = problem().inputs(torch.tensor((30.0, 40.0)))
    total = operation.crd_loss(*flat(given), "cpu")[0]
    gradients = torch.autograd.grad(total, (given.contrast.student_BD, given.contrast.teacher_BD))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)

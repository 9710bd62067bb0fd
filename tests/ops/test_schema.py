"""The flat arguments of an operation: what the fields of a nested tuple say, in their order."""

from typing import NamedTuple

import torch
from torch import Tensor

from fastkd.ops.schema import flat, leaves, nested, schema


class Inner(NamedTuple):
    count: int
    wanted: bool
    of: torch.dtype


class Outer(NamedTuple):
    rows_B: Tensor
    inner: Inner
    table: Tensor | None = None


GIVEN = Outer(torch.arange(3), Inner(2, True, torch.bfloat16))


def test_the_schema_is_one_that_pytorch_reads():
    text = "Tensor rows_B, int count, bool wanted, ScalarType of, Tensor? table"
    assert schema(Outer) == text
    arguments = torch._C.parse_schema(f"f({text}) -> ()").arguments
    assert [argument.name for argument in arguments] == [name for name, _ in leaves(Outer)]


def test_flat_and_nested_again():
    rows_B, count, wanted, of, table = flat(GIVEN)
    assert rows_B is GIVEN.rows_B and table is None and (count, wanted, of) == tuple(GIVEN.inner)
    again = nested(Outer, iter(flat(GIVEN)))
    assert again.rows_B is rows_B and again[1:] == GIVEN[1:] and isinstance(again.inner, Inner)


def test_traced_without_a_break():
    def count(rows_B):
        return len(flat(GIVEN._replace(rows_B=rows_B))) * rows_B

    compiled = torch.compile(count, fullgraph=True, backend="eager")
    assert torch.equal(compiled(GIVEN.rows_B), 5 * GIVEN.rows_B)

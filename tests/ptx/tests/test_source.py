"""What the text says is what is read, and what it does not say is an error with its line."""

import pytest
from ptx import PTXError, UnknownInstruction, decoded, kernels
from ptx.syntax import Address, Literal, Negated, Pair, Register, Symbol, Vector
from ptx.writing import text_of


def instructions(body: str, **options):
    return kernels(text_of(body, **options))["test"].instructions


def last(body: str, **options):
    return instructions(body, **options)[-2]  # the last one is `ret`


def test_operands():
    assert last("mov.b64 {%r4, _}, %d1;").operands == (
        Vector((Register("%r4"), Symbol("_"))),
        Register("%d1"),
    )
    assert last("shfl.sync.bfly.b32 %r4|%p1, %r5, 16, 31, -1;").operands[0] == Pair(Register("%r4"), Register("%p1"))
    assert last("selp.b32 %r4, 0x10, -3, !%p2;").operands[1:] == (Literal(16), Literal(-3), Negated(Register("%p2")))
    assert last("ld.shared.b32 %r4, [%r5+-124];").operands[1] == Address(Register("%r5"), -124)
    assert last("ld.shared.b32 %r4, [%r5 + 0];").operands[1] == Address(Register("%r5"), 0)
    assert last("ld.shared.b32 %r4, [%r5-8];").operands[1] == Address(Register("%r5"), -8)
    assert last("ld.global.b32 %r4, [test_param_0+4];").operands[1] == Address(Symbol("test_param_0"), 4)
    assert last("add.f32 %r4, %r5, 0f3F800000;").operands[2] == Literal(0x3F800000)
    assert last("add.f32 %r4, %r5, 1.5;").operands[2] == Literal(1.5)


def test_guards_and_hints():
    given = last("@!%p3 ld.global.L1::evict_last.v4.b32 {%r4, %r5, %r6, %r7}, [%d0];")
    assert given.opcode == "ld.global.L1::evict_last.v4.b32"
    assert given.guard == Register("%p3") and given.unless


def test_comments_are_left_out_and_lines_counted():
    text = text_of("// add.s32\n/* two\nlines */ mov.u32 %r4, 7;")
    given = kernels(text)["test"].instructions[-2]
    assert "mov.u32 %r4, 7" in text.splitlines()[given.line - 1]


def test_a_scope_has_registers_and_labels_of_its_own():
    """As inline assembly has them: the same names twice, one after the other and one within the other."""
    scope = "{ .reg .pred ready; again: setp.eq.s32 ready, %r0, %r0; @!ready bra.uni again; }"
    kernel = kernels(text_of(f"{scope} {{ {scope} }}"))["test"]
    own = [name for name in kernel.registers if name.startswith("ready")]
    assert len(own) == 2
    jumps = [i for i, given in enumerate(kernel.instructions) if given.opcode == "bra.uni"]
    assert [kernel.targets[jump] for jump in jumps] == [jump - 1 for jump in jumps]


def test_jumps_forwards_and_backwards():
    kernel = kernels(text_of("back: @%p1 bra ahead; bra.uni back; ahead: mov.u32 %r4, 1;"))["test"]
    places = [i for i, given in enumerate(kernel.instructions) if given.opcode.startswith("bra")]
    assert [kernel.targets[place] for place in places] == [places[0] + 2, places[0]]


def test_variables_and_parameters():
    before = ".extern .shared .align 16 .b8 dynamic[];\n.global .align 1 .b8 word[3] = {97, 98, 0};"
    text = text_of(".shared .align 8 .b8 own[24]; mov.u32 %r4, own; mov.u32 %r5, dynamic;", pointers=2, before=before)
    kernel = kernels(text)["test"]
    assert kernel.shared["own"].bytes == 24 and kernel.shared["dynamic"].bytes == 0
    assert kernel.constants["word"].initial == b"ab\0"
    program = decoded(kernel)
    assert program.parameter_places == [0, 8] and program.parameter_bytes == 16
    assert program.shared_bytes == 32, "what the launch gives begins aligned to 16"


def test_a_struct_parameter_and_threads():
    text = """
.visible .entry other(.param .align 8 .b8 other_param_0[24], .param .u32 other_param_1)
.reqntid 64, 2
{
    ret;
}
"""
    kernel = kernels(text)["other"]
    assert [p.bytes for p in kernel.parameters.values()] == [24, 4] and kernel.threads == 128


def test_entries_are_read_when_they_are_asked_for():
    module = kernels(text_of("mov.u32 %r4, 1;") + ".visible .entry broken()\n{\n    what is this;\n}\n")
    assert list(module) == ["test", "broken"] and module["test"].name == "test"
    with pytest.raises(PTXError):
        module["broken"]


def test_the_source_is_where_the_compiler_says():
    text = text_of(".loc 1 44 0 // here\nmov.u32 %r4, 1;") + '.file 1 "/somewhere/kernel.py"\n'
    assert kernels(text)["test"].instructions[-2].source == "/somewhere/kernel.py:44"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("add.s32 %r4, %r5, %q7;", "'%q7' is not known"),
        ("bra nowhere;", "no label 'nowhere'"),
        ("@%p99 mov.u32 %r4, 1;", "'%p99' is not declared"),
        ("mov.u32 %r4, 1; }", "'ret' is not known in a module"),
        ("add.s32 %r4, %r5;", "takes 2 operands, got 1"),
        ("add.s16 %r4, %h1, %r5, %r6;", "takes 2 operands, got 3"),
        ("add.s32 %r4, %h1, %r5;", "has 16 bits, not 32"),
        ("mov.u32 %r4, §;", "cannot read"),
    ],
)
def test_what_is_wrong_is_named(body, message):
    with pytest.raises(PTXError, match=message):
        decoded(kernels(text_of(body))["test"])


@pytest.mark.parametrize(
    "opcode", ["frobnicate.b32", "add.q32", "shfl.sync.spin.b32", "ld.global.v3.b32", "setp.lt.b32"]
)
def test_an_unknown_instruction_is_named_with_its_line(opcode):
    text = text_of(f"{opcode} %r4, %r5, %r6;")
    line = next(i for i, row in enumerate(text.splitlines(), 1) if opcode in row)
    with pytest.raises(UnknownInstruction, match=f"test, line {line}: {opcode}"):
        decoded(kernels(text)["test"])

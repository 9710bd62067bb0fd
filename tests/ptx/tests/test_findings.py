"""What becomes of a finding."""

import pytest
from ptx import FindingsError, findings, launching
from ptx.writing import only, program, run, words


def test_a_loop_that_does_not_end(engine, monkeypatch):
    monkeypatch.setattr(launching, "MOST_STEPS", 1000)
    only(run("again: bra.uni again;", engine=engine), findings.ENDLESS)


def test_a_trap_hides_what_follows_from_it(engine):
    body = "setp.eq.u32 %p1, %r0, 3; @%p1 bra bad; bar.sync 0; ret; bad: trap;"
    assert only(run(body, engine=engine), findings.TRAP).thread == 3


def test_a_launch_raises_what_it_found(engine):
    with pytest.raises(
        FindingsError, match="outside every buffer: writes 4 bytes at .*: block 0, thread 0: test, PTX line"
    ):
        launching.launch(program("st.global.b32 [%d0+8], 1;", pointers=1), 1, 1, [words(2)], engine=engine)


def test_findings_of_one_instruction_are_counted(engine):
    result = run(
        "mov.u32 %r4, 0; again: st.global.b32 [%d0+64], 1; add.u32 %r4, %r4, 1;"
        "setp.lt.u32 %p1, %r4, 5; @%p1 bra again;",
        words(2),
        threads=1,
        engine=engine,
    )
    assert only(result, findings.OUTSIDE).times == 5

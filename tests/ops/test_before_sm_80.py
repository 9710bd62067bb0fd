"""What a GPU without bfloat16 is given: the kernels of the losses compile for it without spills, also for bfloat16."""

import pytest
from helpers.subprocesses import compiled_ahead

pytest.importorskip("triton", reason="Triton is not installed")

SM_75 = "75"


@pytest.mark.slow
def test_the_kernels_of_the_losses_take_no_more_than_it_has():
    losses = [("kd", "100", "fp32", "1"), ("sftn", "1000", "fp32", "3"), ("ttm", "21841", "fp32", "1")]
    losses += [("dkd", "100", "bf16", "1"), ("kd", "1000", "fp16", "1")]
    rows = [("logits", "forward", "classes", "1000", "fp32", "plain")]
    for module, cases in (("distill_loss", losses), ("row_loss", rows)):
        for record in compiled_ahead(module, *(word for case in cases for word in (*case, SM_75))):
            assert record["architecture"] == "sm_75" and not record["spilled"], record
            assert record["shared"] <= 64 << 10, "it has no more for a block"

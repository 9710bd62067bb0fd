"""The kernel runs in Triton's interpreter only in a process that sets TRITON_INTERPRET before it imports Triton:
`test_augment_interpreter.py` starts one; `TRITON_INTERPRET=1 pytest tests/ops/augment` is the same by hand."""

import os

collect_ignore_glob = (
    ["test_augment_*.py"] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_interpreted_augment.py"]
)

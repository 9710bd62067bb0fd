"""Kernels run in Triton's interpreter only in a process that sets TRITON_INTERPRET before it imports Triton.

`test_by_interpreter.py` of each operation starts one for its `test_interpreted*.py`; by hand that is
`TRITON_INTERPRET=1 pytest tests/ops/distill_loss`.
"""

import os

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_ignore_collect(collection_path):
    name = collection_path.name
    if name.startswith("test_") and name.startswith("test_interpreted") != INTERPRETING:
        return True
    return None


if INTERPRETING:
    import helpers.interpreter  # noqa: F401 - what it patches

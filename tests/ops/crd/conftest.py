"""Triton's interpreter needs a process of its own: see tests/ops/distill_loss/conftest.py."""

import os

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = ["test_crd_*.py"] if INTERPRETING else ["test_interpreted_*"]

if INTERPRETING:
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_for_numpy(tensor, scope):
        """Triton 3.6 converts arrays of one element to int, which numpy 2.4 refuses: `range` over a runtime value."""
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_tensor_for_numpy

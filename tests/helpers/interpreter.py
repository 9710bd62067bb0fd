"""What Triton's interpreter lacks. A pytest plugin, for processes that set TRITON_INTERPRET."""

import numpy as np
from triton.runtime import interpreter

# On a GPU, tl.maximum of NaN and a number is the number, as its documentation says.
interpreter.InterpreterBuilder.create_maxnumf = lambda self, one, other: self.binary_op(one, other, np.fmax)

patch_tensor = interpreter._patch_lang_tensor


def patch_tensor_for_numpy(tensor, scope):
    """Triton 3.6 converts arrays of one element to int, which numpy 2.4 refuses: `range` over a runtime value."""
    patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = patch_tensor_for_numpy

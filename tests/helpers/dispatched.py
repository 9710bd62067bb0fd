"""What would be launched on a GPU, counted on a CPU by what PyTorch dispatches."""

from contextlib import contextmanager

from torch.utils._python_dispatch import TorchDispatchMode

NOTHING_IS_COMPUTED = ("aten::empty", "aten::new_empty", "profiler::")


class Launches(TorchDispatchMode):
    """The names of the operations that compute something, in order: neither views nor tensors without content."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []
        self.watching = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if self.watching and not func.is_view and not func._schema.name.startswith(NOTHING_IS_COMPUTED):
            self.names.append(func._schema.name.removeprefix("aten::"))
        return result

    @contextmanager
    def looking_away(self):
        before, self.watching = self.watching, False
        yield
        self.watching = before


def beside_forward_and_backward(step, raw) -> list[str]:
    """What a step does once it has its gradients."""
    launches, plain = Launches(), step._accumulate

    def unseen(batch, weight):
        launches.watching = True
        with launches.looking_away():
            return plain(batch, weight)

    step._accumulate, launches.watching = unseen, False
    try:
        with launches:
            step._train(raw)
    finally:
        step._accumulate = plain
    return launches.names

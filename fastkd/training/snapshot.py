"""Everything a stage holds, put aside and put back, so that warming up is not training."""

from typing import Self

import torch
from torch import Tensor, nn


class Snapshot:
    """Parameters, buffers, optimiser state, further tensors, and the state of the random number generators."""

    def __init__(self, modules: list[nn.Module], optimizer: torch.optim.Optimizer, tensors: list[Tensor]):
        self.optimizer = optimizer
        live = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        live += [*tensors, *self._optimizer_tensors()]
        self.saved = [(tensor, tensor.detach().clone()) for tensor in live]
        self.known = {id(tensor) for tensor in live}
        self.cpu_rng = torch.get_rng_state()
        self.cuda_rng = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    @torch.no_grad()
    def restore(self) -> Self:
        """Puts the old values back in place, for whoever holds the tensors; optimiser state that is new is zeroed."""
        for tensor, value in self.saved:
            tensor.copy_(value)
        for tensor in self._optimizer_tensors():
            if id(tensor) not in self.known:
                tensor.zero_()
        self.optimizer.zero_grad(set_to_none=True)
        torch.set_rng_state(self.cpu_rng)
        if self.cuda_rng:
            torch.cuda.set_rng_state_all(self.cuda_rng)
        return self

    def _optimizer_tensors(self) -> list[Tensor]:
        values = [value for state in self.optimizer.state.values() for value in state.values()]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return [value for value in (*values, *rates) if isinstance(value, Tensor)]

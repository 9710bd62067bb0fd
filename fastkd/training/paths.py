"""Which candidates of a supernet a step uses: a function of (seed, step) and of what is learned, if anything is.

The paths of GTN (Binici et al., "Generalizing Teacher Networks for Effective Knowledge Distillation Across Student
Architectures"). Its supplement does not print how it draws them; what is learned here is a choice: a distribution over
each layer's candidates, by the policy gradient of the branches' cross-entropy (Williams 1992).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastkd.networks.supernet import ReconfigurableLayer, is_among
from fastkd.ops.philox import below, philox, split_seed

STREAM = 0x47544E00  # "GTN" in ASCII: other users of the same seed have another number in this place
_STREAM_OF_TESTS = STREAM + 1
_WORDS = 2**32

Tested = Literal["drawn", "largest", "likeliest"]


@dataclass(frozen=True, kw_only=True)
class PathSettings:
    """How paths are drawn, see `GTNSettings`."""

    learned: bool = False
    shared: bool = False
    tested: Tested = "drawn"
    baseline_decay: float = 0.99


class Used(NamedTuple):
    """Parameters of a step that does not say by their gradients whether it uses them."""

    parameters: tuple[nn.Parameter, ...]
    used: Tensor
    """[] bool"""


class Paths(nn.Module):
    """The paths of several branches of supernets, each of which ends with the supernet's last layer.

    A path is a number of a candidate for each layer; all paths have the same length L, counted from the end, and a
    branch of fewer layers leaves its first numbers alone. There is one path for each branch, or one for all (P = 1).
    """

    counts_L: Tensor
    baseline_N: Tensor

    def __init__(
        self, branches: Sequence[Sequence[ReconfigurableLayer]], how: PathSettings, *, seed: int, classes: int
    ):
        """branches: the layers of each. classes: K; the first baseline is ln K, the loss of knowing nothing."""
        super().__init__()
        self.branches, self.how, self.key = tuple(map(tuple, branches)), how, split_seed(seed)
        longest = max(self.branches, key=len)
        self.length, self.number = len(longest), 1 if how.shared else len(self.branches)
        self.largest = [layer.largest for layer in longest]
        self.counts = torch.tensor([len(layer.names) for layer in longest])
        """[L] on the CPU, for whoever draws there."""
        self.register_buffer("counts_L", self.counts.clone(), persistent=False)
        if how.learned:
            most = int(self.counts.max())
            self.logits_PLO = nn.Parameter(torch.zeros(self.number, self.length, most))
            self.register_buffer("baseline_N", torch.full((len(self.branches),), float(classes)).log())

    def drawn(self, step: Tensor) -> Tensor:
        """[P,L] int64: the paths of a step, [] int64, drawn where that is."""
        return self._draw(step, STREAM)

    def tested(self, epoch: Tensor) -> Tensor:
        """[P,L] int64: the paths by which the branches are tested after an epoch, [] int64."""
        if self.how.tested == "drawn":
            return self._draw(epoch, _STREAM_OF_TESTS)
        if self.how.tested == "likeliest":
            return self._log_probabilities().argmax(-1)
        rows = [torch.full((self.number,), number, device=epoch.device) for number in self.largest]
        return torch.stack(rows, 1)

    def choose(self, paths_PL: Tensor | Sequence[Sequence[int]]) -> None:
        """Makes the branches' layers run these paths: by numbers the drawn candidates alone, by a tensor all."""
        for place, layers in enumerate(self.branches):
            path = paths_PL[place % self.number]
            for number, layer in enumerate(layers, self.length - len(layers)):
                layer.drawn = path[number]

    def cut_off(self, paths_PL: Tensor) -> Tensor:
        """[N] bool: the branches with a zero in their path, which say the same of every image."""
        found = []
        for place, layers in enumerate(self.branches):
            path = self._path(paths_PL, place)
            zeros = [drawn == layer.zero for layer, drawn in zip(layers, path.unbind(), strict=True)]
            found.append(torch.stack(zeros).any())
        return torch.stack(found)

    def used(self, paths_PL: Tensor, cut_off_N: Tensor) -> list[Used]:
        """The parameters of all candidates, and whether these paths use them: drawn, in a branch not cut off."""
        return [
            Used(tuple(piece.module.parameters()), ~cut_off_N[place] & is_among(drawn, piece.users))
            for place, layers in enumerate(self.branches)
            for layer, drawn in zip(layers, self._path(paths_PL, place).unbind(), strict=True)
            for piece in layer.pieces()
        ]

    def _path(self, paths_PL: Tensor, place: int) -> Tensor:
        """The numbers of a branch's own layers."""
        return paths_PL[place % self.number][self.length - len(self.branches[place]) :]

    def loss(self, paths_PL: Tensor, cross_entropies_N: Tensor) -> Tensor:
        """The policy gradient's loss: mean over branches of (CE − baseline) · ln p(path), CE without a gradient.

        It is the smaller the likelier paths are whose cross-entropy lies below the branch's running mean, which moves
        towards this one afterwards.
        """
        better = (cross_entropies_N - self.baseline_N).detach()
        chosen = self._log_probabilities().gather(2, paths_PL.unsqueeze(2)).squeeze(2)
        own = [self._path(chosen, place).sum() for place in range(len(self.branches))]
        self.baseline_N.lerp_(cross_entropies_N.detach().to(self.baseline_N.dtype), 1 - self.how.baseline_decay)
        return (better * torch.stack(own)).mean()

    def _draw(self, when: Tensor, stream: int) -> Tensor:
        path = torch.arange(self.number, device=when.device).unsqueeze(1)
        layer = torch.arange(self.length, device=when.device).unsqueeze(0)
        word = philox(self.key, (when % _WORDS, path, layer, stream))[0]
        if not self.how.learned:
            return below(word, self.counts if when.device == self.counts.device else self.counts_L)
        bounds = self._log_probabilities().double().exp().cumsum(-1)[..., :-1]
        place = (word.double() + 0.5) / _WORDS
        return torch.minimum((place.unsqueeze(-1) >= bounds).sum(-1), self.counts_L - 1)

    def _log_probabilities(self) -> Tensor:
        """[P,L,O] of each layer's candidates; what is none has −inf."""
        places = torch.arange(self.logits_PLO.shape[-1], device=self.logits_PLO.device)
        absent = places >= self.counts_L.unsqueeze(-1)
        return self.logits_PLO.float().masked_fill(absent, -torch.inf).log_softmax(-1)

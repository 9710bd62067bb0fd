"""CMI's bank: the features of images that were made before, the oldest of which are overwritten."""

import torch
from torch import Tensor, nn


class FeatureBank(nn.Module):
    """A ring of rows of features, float32 unless said otherwise, without gradients.

    A full bank is drawn from as a whole. In the authors' code one that was filled exactly counts as empty, and the loss
    is NaN for that round: rows ever added and the place to write at are two numbers here, too, but only the first says
    how many rows there are.
    """

    def __init__(self, rows: int, width: int, *, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.rows = nn.Buffer(torch.zeros(rows, width, dtype=dtype))
        self.added = nn.Buffer(torch.zeros((), dtype=torch.int64))
        """The number of rows that were ever added."""

    @property
    def pointer(self) -> int:
        """The place of the next row."""
        return int(self.added) % len(self.rows)

    @property
    def filled(self) -> int:
        return min(int(self.added), len(self.rows))

    @torch.no_grad()
    def add(self, rows_NC: Tensor) -> None:
        """Raises ValueError for more rows than the bank has."""
        if len(rows_NC) > len(self.rows):
            raise ValueError(f"a bank of {len(self.rows)} rows cannot take {len(rows_NC)} at once")
        places = (self.pointer + torch.arange(len(rows_NC), device=self.rows.device)) % len(self.rows)
        self.rows.index_copy_(0, places, rows_NC.to(self.rows))
        self.added += len(rows_NC)

    def drawn(self, most: int, generator: torch.Generator) -> Tensor:
        """[N,C]: so many rows at random, none of them twice; all of them where there are no more."""
        order = torch.randperm(self.filled, generator=generator, device=generator.device)[:most]
        return self.rows[order.to(self.rows.device)]

"""CMI's contrast of the images that are being made with each other and with those that were made before (Fang et al.:
"Contrastive model inversion for data-free knowledge distillation", IJCAI 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.losses.precision import full_precision

OUTPUTS = 256


class Head(nn.Sequential):
    """Two linear layers on the features of a view, and length 1."""

    def __init__(self, width: int, outputs: int = OUTPUTS):
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, features_NC: Tensor) -> Tensor:
        return F.normalize(super().forward(features_NC), dim=1)


@full_precision
def contrastive_loss(
    local_BC: Tensor, global_BC: Tensor, bank_N2C: Tensor | None, *, head: Head, temperature: float = 0.1
) -> Tensor:
    """Each image's local view finds its global view among those of the batch and the bank.

    bank_N2C: rows of a bank, the local half first; None: there is none yet. Global views are constants, so that the
    gradient reaches the images through their local views alone; the bank's rows train the head. The mean over the
    batch and that over the bank are added.
    """
    batch, bank = len(local_BC), None if bank_N2C is None or not len(bank_N2C) else bank_N2C
    if bank is not None:
        known_local, known_global = bank.to(local_BC).chunk(2, 1)
        local_BC, global_BC = torch.cat([local_BC, known_local]), torch.cat([global_BC, known_global])
    rows_RD = head(local_BC)
    with torch.no_grad():
        columns_RD = head(global_BC)
    own = torch.arange(len(rows_RD), device=rows_RD.device)
    errors = F.cross_entropy(rows_RD @ columns_RD.T / temperature, own, reduction="none")
    return errors[:batch].mean() + (errors[batch:].mean() if bank is not None else 0)

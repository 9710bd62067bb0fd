"""The networks and draws of a golden case of data-free distillation."""

import torch
from torch import Tensor, nn

from fastkd.networks.wrn import WRN
from fastkd.synthesis.contrastive import Head
from fastkd.synthesis.generators import Generator
from fastkd.synthesis.inversion import Inversion, Views, Weights
from fastkd.synthesis.views import GlobalDraws, LocalDraws
from helpers.filled import fill
from helpers.golden import Case

SHIFTS = {"teacher": 0, "student": 1000}
MEAN = torch.tensor([0.5071, 0.4867, 0.4408], dtype=torch.float64)
STD = torch.tensor([0.2675, 0.2565, 0.2761], dtype=torch.float64)


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def network(case: Case, role: str) -> WRN:
    """The teacher or the student in eval mode: WRN-10-1 by the rule, with the running statistics of the case."""
    found = WRN(10, 1, num_classes=10).double()
    fill(found, SHIFTS[role])
    layers = norms(found)
    sizes = [layer.num_features for layer in layers]
    means, variances = (case[f"w/{role}.bn_{name}"].split(sizes) for name in ("mean", "var"))
    for layer, mean, variance in zip(layers, means, variances, strict=True):
        layer.running_mean, layer.running_var = mean.clone(), variance.clone()
    return found.eval().requires_grad_(role == "student")


def generator(case: Case, *, width: int = 2) -> Generator:
    found = Generator(int(case["hp/nz"]), image_size=16, channels=int(case["hp/ngf"]), width=width).double()
    fill(found, 2000)
    return found


def head(width: int, outputs: int) -> Head:
    found = Head(width, outputs).double()
    fill(found, 3000)
    return found


def views(case: Case) -> Views:
    whole = GlobalDraws(*(case[f"in/g_{name}"] for name in ("x0", "y0", "flip")))
    part = LocalDraws(*(case[f"in/l_{name}"] for name in ("x0", "y0", "w", "h", "flip")))
    return Views(whole, part)


def inversion(case: Case) -> Inversion:
    return Inversion(
        teacher=network(case, "teacher"),
        student=network(case, "student"),
        head=head(240, int(case["hp/head_dim"])),
        mean=MEAN,
        std=STD,
        weights=Weights(*(case[f"hp/{name}"].item() for name in ("bn", "oh", "adv", "cr"))),
        temperature=case["hp/cr_T"].item(),
    )


def lengths(module: nn.Module) -> Tensor:
    """The length of every parameter, in order."""
    return torch.stack([parameter.detach().norm() for parameter in module.parameters()])

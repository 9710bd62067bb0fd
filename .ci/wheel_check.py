"""An installed wheel, tried away from the checkout: losses, and that the compiled library is what runs."""

import hashlib
import os
import sys
import sysconfig
import warnings
from importlib.metadata import distributions

warnings.simplefilter("ignore")
import torch  # noqa: E402

import fastkd  # noqa: E402
from fastkd.losses import CRDLoss, KDLoss, SFTNLoss  # noqa: E402
from fastkd.ops import compiled  # noqa: E402

environment, wheel = sys.argv[1:]
assert fastkd.__file__.startswith(environment), fastkd.__file__
(own,) = distributions(name="fastkd", path=[sysconfig.get_paths()["purelib"]])  # others may stand beside torch
found = own.version
assert f"fastkd-{found}-" in os.path.basename(wheel), (found, wheel)
torch.set_num_threads(1)
torch.manual_seed(0)


def gradient(loss, implementation, *given):
    """The gradient of a loss, computed by the compiled library or by the definition."""
    os.environ["FASTKD_OPS"] = f"distill_loss={implementation}"
    student = torch.linspace(-2, 3, 40).view(4, 10).requires_grad_()
    loss(student, *given).total.backward()
    del os.environ["FASTKD_OPS"]
    return student.grad


labels, others = torch.arange(4), torch.randn(4, 10)
for loss, given in ((KDLoss(), (others, labels)), (SFTNLoss(), ([others], labels))):
    torch.testing.assert_close(gradient(loss, "cpu", *given), gradient(loss, "reference", *given))

numbers = hashlib.sha256()
for dtype in (torch.float32, torch.bfloat16):
    contrast = CRDLoss(64, 64, 5000, labels=torch.arange(5000) % 50, negatives=2000, bank_dtype=dtype)
    assert contrast.implementation(8)[0].startswith("cpu"), contrast.implementation(8)
    plain = CRDLoss(64, 64, 5000, labels=torch.arange(5000) % 50, negatives=2000, bank_dtype=dtype)
    plain.load_state_dict(contrast.state_dict())
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        given = torch.randn(2, 8, 64, generator=generator)
        index = torch.randint(5000, (8,), generator=generator)
        total = contrast(*given, index).total
        total.backward()
        os.environ["FASTKD_OPS"] = "crd=reference"
        torch.testing.assert_close(plain(*given, index).total, total, rtol=1e-5, atol=0)
        del os.environ["FASTKD_OPS"]
    numbers.update(contrast.bank.view(torch.uint8).numpy().tobytes())

libraries = [device for device in ("cpu", "cuda") if not compiled.obstacle(device)]
for device in libraries:
    compiled.load(device)  # CUDA: loads, where torch has CUDA, without a GPU
assert "+cu" not in found or torch.version.cuda is None or "cuda" in libraries, compiled.obstacle("cuda")
python = ".".join(map(str, sys.version_info[:2]))
told = f"{', '.join(libraries)} loaded, banks {numbers.hexdigest()[:16]}"
print(f"fastkd {found}, Python {python}, torch {torch.__version__}: {told}")

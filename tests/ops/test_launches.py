"""Every kernel is launched on the device of its tensors, whichever one is the current one."""

import pytest
from helpers.launches import in_cuda, in_python, launches
from helpers.places import ROOT

FOUND = launches()


def test_the_launches_are_found():
    for folder in ("augment", "crd", "distill_loss", "row_loss"):
        assert any(one.file.startswith(f"fastkd/ops/{folder}/") for one in FOUND), folder
    written = sum(path.read_text().count("<<<") for path in (ROOT / "csrc").iterdir())
    assert sum(one.file.startswith("csrc/") for one in FOUND) == written > 0


@pytest.mark.parametrize("launch", FOUND, ids=lambda one: f"{one.file}:{one.function}")
def test_a_launch_is_under_its_tensors_device(launch):
    assert launch.guarded, f"{launch.file}:{launch.line}: no device_of, or DeviceGuard, around {launch.function}"


PYTHON = """
def outer(x):
    with torch.cuda.device_of(x):
        inner(x)
        kernel[(1,)](x)

def inner(x):
    (a if x else b)[(2,)](x)

def bare(x):
    y = FORMS[x](1)
    kernel[(3,)](x)

def sometimes(x):
    kernel[(4,)](x)

def calls_it(x):
    sometimes(x)
    with device_of(x):
        sometimes(x)
"""


def test_what_is_guarded_in_python():
    found = {one.function: one.guarded for one in in_python(PYTHON, "x.py")}
    assert found == {"outer": True, "inner": True, "bare": False, "sometimes": False}


CUDA = """
template <typename T>
void launch(const Pass& pass, cudaStream_t stream) {
  gather<T><<<1, 2, 0, stream>>>(pass);
}

void guarded(Tensor x) {
  const DeviceGuard guard(x.get_device_index());
  launch<float>(pass, stream);
  finish<<<1, 2, 0, stream>>>(pass);
}

void bare(Tensor x) {
  draw<<<1, 2, 0, stream>>>(x);
  const DeviceGuard guard(x.get_device_index());
}
"""


def test_what_is_guarded_in_cuda():
    found = {one.function: one.guarded for one in in_cuda(CUDA, "x.cu")}
    assert found == {"launch": True, "guarded": True, "bare": False}

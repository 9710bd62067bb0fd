"""Memory stays flat: fifty epochs of a small folder, measured in a process of its own, its workers included."""

import subprocess
import sys

import pytest
from helpers.image_folders import LOADERS, write_folder
from helpers.subprocesses import with_paths

CODE = """
import gc, os, sys
import torch
from helpers.feeding import evaluation_of, training_of
from fastkd.data import Augmentation, open_dataset

def resident_bytes(epoch):
    if epoch in (9, 49):
        gc.collect()
    workers = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    return sum(int(open(f"/proc/{process}/statm").read().split()[1]) * 4096 for process in ("self", *workers))

torch.set_num_threads(1)
kind, workers = sys.argv[2], int(sys.argv[3])
held = kind == "resident"
data = open_dataset(f"imagefolder:{sys.argv[1]}", image_size=32, resident=held, limit_train=None, threads=1)
how = {"image_size": 32, "workers": workers, "loader": "torchvision" if held else kind}
augmentation = Augmentation(crop="pad" if held else "resized")
train = training_of(data, batch_size=16, augmentation=augmentation, seed=0, **how)
test = evaluation_of(data, batch_size=16, **how)
zero, sizes = torch.tensor(0), []
for epoch in range(50):
    for source in (train, test):
        for raw in source.loader.epoch(epoch):
            source.prepare(raw, zero, zero + epoch)
    sizes.append(resident_bytes(epoch))
print(*sizes)
"""


@pytest.mark.parametrize(
    "kind, workers",
    [
        pytest.param("resident", 0, marks=pytest.mark.slow),
        pytest.param("torchvision", 0, marks=pytest.mark.slow),
        ("torchvision", 1),
        ("dali", 1),
    ],
)
def test_flat_over_fifty_epochs(tmp_path, kind, workers):
    if kind == "dali" and LOADERS[1].marks[0].args[0]:
        pytest.skip("DALI is not installed")
    root = write_folder(tmp_path, size=(120, 90), per_class=24, tests=8, ending="jpg")
    command = [sys.executable, "-c", CODE, str(root), kind, str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, env=with_paths())
    assert done.returncode == 0, done.stderr
    sizes = [int(word) / 2**20 for word in done.stdout.split()]
    assert len(sizes) == 50
    print(f"{kind}: {sizes[0]:.1f} MiB after 1, {sizes[9]:.1f} after 10, {sizes[-1]:.1f} MiB after 50 epochs")
    # Fifty epochs have 2,400 images of 32 KB decoded: a leak of one copy of each would be 75 MB.
    assert sizes[-1] - sizes[9] < 4, sizes

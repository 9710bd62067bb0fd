"""Digests of what runs leave, to show that a change of the house changes no number.

    python tests/helpers/fingerprints.py OUT.json [OTHER.json]

trains the digits recipe whole, and in tiny form every row of `METHODS`, every recipe and the switches of a training:
each is stopped after every step and resumed until it is finished. Weights files count byte for byte, the log by its
losses and counts. Two trees are compared by running this same file with either first on the path, the second time with
the first one's OUT.json as OTHER.json.
"""

import hashlib
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path

# An editable installation finds what the tree on the path lacks in the tree that it was made from.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from fastkd import train  # noqa: E402
from fastkd.methods import METHODS  # noqa: E402


def _module(*names: str):
    """The first of these that there is: modules move."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(" or ".join(names))


Step = _module("fastkd.training.step", "fastkd.step").Step
interrupts = _module("fastkd.support.interrupt", "fastkd.interrupt")

TIMES = {
    *("seconds", "starting_seconds", "images_per_second", "data_time", "data_share", "memory", "ranks"),
    *("metrics_bytes", "identity", "grad_norm", "grad_norm_max"),  # which trees before them do not say
}
SHORT = "--seeds 1 --threads 1"
TINY = f"{SHORT} --limit-train 128 --batch-size 64 --epochs 1"
SMALL = "--teacher-net resnet8x2 --student resnet8"
SWITCHES = {
    "sftn branches": "--branch resnet8 --branch-blocks 1 --sftn.kl reverse --sftn.kl-weight 2",
    "adam": "--optimizer adam --lr 0.001 --warmup-epochs 1 --drop-last off",
    "ema": "--ema 0.9 --clip-norm 1.0 --accumulate 4",
    "batch": "--batch-size 48 --drop-last off --rotation 15 --flip on --crop-padding 2",
    "fold": "--fold on --nesterov on --schedule multistep --milestones 1 --epochs 2",
    "bfloat16": "--precision bfloat16",
    "two seeds": "--seeds 2 --seed 7 --keep-epochs 1",
    "rco restart": "--method rco --rco.anchors 2 --rco.restart on --epochs 2",
}


def method_cases():
    """Every row of `METHODS`."""
    special = {"none": "none+fitnet", "aekd_f": "aekd+aekd_f"}
    own = {"crd": "--crd.negatives 64", "rco": "--epochs 4"}
    for name, method in METHODS.items():
        line = f"{TINY} --control off --method {special.get(name, name)} --student resnet8 {own.get(name, '')}"
        if method.teachers_needed[0]:
            line += f" --teacher-net {'resnet8' if name == 'fsp' else 'resnet8x2'}"
            line += "" if method.among_peers else " --teacher-training standard"
        yield f"method {name}", f"digits {line}"
    for name in ("aveg", "aekd+aekd_f", "kdcl"):
        pair = "--control off --teacher-net resnet8x2+resnet8 --student resnet8"
        yield f"two teachers {name}", f"digits {TINY} {pair} --method {name}"


def recipe_cases(data: Path):
    """Every recipe, on made-up data."""
    cifar = f"--limit-train 32 --batch-size 16 --epochs 1 {SHORT}"
    files = f"--limit-train 16 --batch-size 8 --epochs 1 --loader torchvision --workers 1 {SHORT}"
    for name in ("cifar100-sftn", "cifar100-simkd", "cifar100-tfkd", "cifar100-dekd"):
        yield name, f"{name} --data cifar100:{data / 'cifar100'} {cifar}"
    yield "cifar10-tfkd", f"cifar10-tfkd --data cifar10:{data / 'cifar10'} {cifar}"
    for name in ("tiny-tfkd", "tiny-dekd"):
        yield name, f"{name} --data tiny-imagenet:{data / 'tiny'} {files}"
    light = "--pair resnet8x4/resnet8"  # features of a deep untrained teacher overflow
    for name, pair in (("imagenet-sftn", ""), ("imagenet-simkd", light), ("imagenet-tfkd", "")):
        yield name, f"{name} --data imagefolder:{data / 'folder'} --image-size 64 {pair} {files}"
    for name, line in (
        ("tfkd self", "cifar100-tfkd --pair tf_mobilenet_v2/tf_mobilenet_v2 --method tfkd_self"),
        ("sftn joint", "cifar100-sftn --pair resnet8x4/resnet8 --method at"),
    ):
        yield name, f"{line} --data cifar100:{data / 'cifar100'} {cifar}"


def write_data(root: Path) -> None:
    rng = np.random.default_rng(0)

    def records(file: Path, count: int, label_bytes: int, classes: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        table = rng.integers(0, 256, (count, label_bytes + 3072), dtype=np.uint8)
        table[:, label_bytes - 1] = np.arange(count) % classes
        table.tofile(file)

    records(root / "cifar100" / "train.bin", 64, 2, 100)
    records(root / "cifar100" / "test.bin", 20, 2, 100)
    for number in range(1, 6):
        records(root / "cifar10" / f"data_batch_{number}.bin", 20, 1, 10)
    records(root / "cifar10" / "test_batch.bin", 20, 1, 10)

    def picture(file: Path, width: int, height: int) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((width, height), Image.Resampling.BICUBIC).save(file, quality=92)

    lines = []
    for name in ("n01", "n02"):
        for number in range(12):
            picture(root / "tiny" / "train" / name / "images" / f"{name}_{number}.JPEG", 64, 64)
            picture(root / "folder" / "train" / name / f"{number}.jpg", *rng.integers(70, 120, 2).tolist())
        for number in range(4):
            picture(root / "tiny" / "val" / "images" / f"{name}_{number}.JPEG", 64, 64)
            picture(root / "folder" / "val" / name / f"{number}.jpg", *rng.integers(70, 120, 2).tolist())
            lines.append(f"{name}_{number}.JPEG\t{name}\t0\t0\t63\t63")
    (root / "tiny" / "wnids.txt").write_text("n01\nn02\n")
    (root / "tiny" / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")


def one_step_a_session(arguments: list[str], folder: Path) -> int:
    """Runs the command until it is finished, each session asked to stop after its first step; returns their number."""
    plain_step, plain_interrupt = Step.__call__, interrupts.Interrupt
    current = []

    class Kept(plain_interrupt):
        def __init__(self):
            super().__init__()
            current[:] = [self]

    def counted(step, raw):
        current[0].requested = "SIGTERM"
        return plain_step(step, raw)

    Step.__call__, interrupts.Interrupt = counted, Kept
    try:
        code, sessions = train.main([*arguments, "--run", str(folder)]), 1
        while code == 130:
            code, sessions = train.main(["--resume", str(folder)]), sessions + 1
    finally:
        Step.__call__, interrupts.Interrupt = plain_step, plain_interrupt
    assert code == 0, f"{arguments} ended with {code}"
    return sessions


def _without_times(value):
    if isinstance(value, dict):
        return {name: _without_times(item) for name, item in value.items() if name not in TIMES}
    return value


def fingerprint(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with open(path, "rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    for path in sorted(folder.rglob("metrics.jsonl")):
        records = [_without_times(json.loads(line)) for line in path.read_text().splitlines()]
        found[str(path.relative_to(folder))] = hashlib.sha256(json.dumps(records).encode()).hexdigest()
    for path in sorted(folder.rglob("results.json")):
        results = json.dumps(_without_times(json.loads(path.read_text())), sort_keys=True)
        results = results.replace(str(folder.parent), "HERE")
        found[str(path.relative_to(folder))] = hashlib.sha256(results.encode()).hexdigest()
    return found


def main(out: Path, other: Path | None = None) -> int:
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_data(root / "data")
        assert train.main(["digits", *SHORT.split(), "--run", str(root / "digits")]) == 0
        found["digits whole"] = fingerprint(root / "digits")
        cases = dict(method_cases()) | {name: f"digits {TINY} {SMALL} {line}" for name, line in SWITCHES.items()}
        cases |= dict(recipe_cases(root / "data"))
        cases["loaded"] = f"digits {TINY} --student resnet8 --teacher {root / 'digits'}"
        for number, (name, line) in enumerate(cases.items()):
            started, folder = time.monotonic(), root / f"run{number}"
            sessions = one_step_a_session(line.split(), folder)
            found[name] = fingerprint(folder)
            print(f"{name}: {sessions} sessions, {time.monotonic() - started:.1f} s", flush=True)
    out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    before = json.loads(other.read_text()) if other else found
    differing = [name for name in sorted(before.keys() | found.keys()) if before.get(name) != found.get(name)]
    files = sum(len(files) for files in found.values())
    print(f"{len(found)} trainings, {files} files" + (f", {len(differing)} differ: {differing}" if other else ""))
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))

"""Every method's loss at the papers' shapes: python -m benchmarks.methods [--quick] [--only nst rkd …]

Forward and backward of the loss alone, on random outputs of the pair's shapes: `ours` is the class of `METHODS`,
`reference` the form one writes down first (`plain_methods.py`: broadcast tensors, masks, loops), where there is one.
Totals and the gradients of everything the student gives are compared before anything is timed. A reference that does
not fit on the device is reported as such. The bank of CRD has a benchmark of its own.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.crd import extra_bytes
from benchmarks.plain_methods import PLAIN
from benchmarks.timing import Record, Timing, commit, device_name, interleaved, record_file, versions, write_json
from fastkd import networks
from fastkd.data import Batch
from fastkd.methods import METHODS, Context, Method
from fastkd.networks.base import Output, output_shapes


class Case(NamedTuple):
    name: str
    teacher: str
    student: str
    image_size: int
    classes: int
    batch: int

    def __str__(self) -> str:
        return f"{self.name}: {self.teacher} to {self.student}, B={self.batch}"


CIFAR = Case("CIFAR-100", "resnet32x4", "resnet8x4", 32, 100, 64)
CIFAR_8 = CIFAR._replace(name="CIFAR-100, small batch", batch=8)
IMAGENET = Case("ImageNet", "torchvision_resnet50", "torchvision_resnet34", 224, 1000, 64)

SETTINGS: dict[str, dict[str, Any]] = {
    "ab": {"weight": 1.0},  # else these two have no part in the student's own training
    "fsp": {"weight": 1.0},
    "aekd_f": {"idle_epochs": 0},
    "tfkd_reg": {"alpha": 0.1},
}
TEACHERS = {"aveg": 3, "aekd": 3, "aekd_f": 3}
"""As in SimKD's Table 6; the others have one, or none."""
LEFT_OUT = {"none": "has no loss", "crd": "see benchmarks.crd"}


class Given(NamedTuple):
    """One method on one set of random outputs."""

    method: Method
    student: Output
    teachers: tuple[Output, ...]
    batch: Batch

    def leaves(self) -> list[Tensor]:
        own = self.student
        return [own.logits, own.stem, *own.features, own.final_map, own.embedding, *(own.preacts or ())]


def random_output(shapes: Output, batch: int, device: str, *, student: bool) -> Output:
    def like(shape: Tensor, *, positive: bool = False) -> Tensor:
        value = torch.randn(batch, *shape.shape[1:], device=device)
        return (value.relu() if positive else value).requires_grad_(student)

    return Output(
        logits=like(shapes.logits),
        stem=like(shapes.stem, positive=True),
        features=tuple(like(feature, positive=True) for feature in shapes.features),
        final_map=like(shapes.final_map, positive=True),
        embedding=like(shapes.embedding, positive=True),
        preacts=tuple(like(feature) for feature in shapes.features),
    )


def given(name: str, case: Case, device: str) -> Given:
    """Raises UserError for a pair that the method does not serve."""
    torch.manual_seed(0)
    kind = METHODS[name]
    student = networks.build(case.student, num_classes=case.classes)
    teachers = tuple(networks.build(case.teacher, num_classes=case.classes) for _ in range(TEACHERS.get(name, 1)))
    labels = torch.arange(1000) % case.classes
    context = Context(
        student=student,
        teachers=teachers,
        student_shapes=output_shapes(student, case.image_size),
        teacher_shapes=tuple(output_shapes(teacher, case.image_size) for teacher in teachers),
        classes=case.classes,
        samples=len(labels),
        labels=labels,
        batch_size=case.batch,
        steps_per_epoch=100,
        seed=0,
    )
    method = kind(kind.Settings(**SETTINGS.get(name, {})), context).to(device)
    method.begin_epoch(100)  # behind every warm-up
    images = case.batch * method.views.count
    batch = Batch(
        images=torch.empty(method.views.count, case.batch, 3, 0, 0, device=device),
        labels=torch.randint(case.classes, (case.batch,), device=device),
        index=torch.arange(case.batch, device=device),
        step=torch.tensor(10_000, device=device),
        epoch=torch.tensor(100, device=device),
    )
    own = random_output(context.student_shapes, images, device, student=True)
    others = tuple(random_output(shapes, images, device, student=False) for shapes in context.teacher_shapes)
    return Given(method, own, others, batch)


def contenders(name: str, of: Given) -> dict[str, Callable[[], list[Tensor | None]]]:
    """Each gives the total and the gradients of what the student gives, and of what the method trains."""
    wanted = [*of.leaves(), *(p for p in of.method.parameters() if p.requires_grad)]

    def run(total: Tensor) -> list[Tensor | None]:
        return [total.detach(), *torch.autograd.grad(total, wanted, allow_unused=True)]

    calls = {"ours": lambda: run(of.method(of.student, of.teachers, of.batch).total)}
    if name in PLAIN:
        calls["reference"] = lambda: run(PLAIN[name](of.method, of.student, of.teachers, of.batch))
    return calls


def agree(ours: Sequence[Tensor | None], plain: Sequence[Tensor | None]) -> bool:
    """Each within a thousandth of its norm; a gradient that is not there is zero."""
    for one, other in zip(ours, plain, strict=True):
        present = one if one is not None else other
        if present is None:
            continue
        first, second = (torch.zeros_like(present) if x is None else x for x in (one, other))
        if not (first - second).norm() <= 1e-3 * second.norm() + 1e-9:
            return False
    return True


def measure(name: str, case: Case, device: str, repetitions: int) -> list[Record]:
    of = given(name, case, device)
    calls = contenders(name, of)
    checked = dict.fromkeys(calls, False)
    left_out = ""
    try:
        if "reference" in calls:
            good = agree(calls["ours"](), calls["reference"]())
            checked = dict.fromkeys(calls, good)
            if not good:
                left_out = "the reference gives another result: not timed"
        memory = {which: extra_bytes(call, device) for which, call in calls.items()} if not left_out else {}
    except torch.OutOfMemoryError:
        memory, left_out = {}, "the reference does not fit on the device"
    if left_out:
        calls.pop("reference")
        memory = {"ours": extra_bytes(calls["ours"], device)}
    timings = interleaved({which: [call] for which, call in calls.items()}, repetitions, device)
    show(name, timings, memory, left_out)
    return [
        Record(
            "methods",
            which,
            f"{name}, {case}",
            device_name(device),
            timing.median_s,
            timing.p20_s,
            timing.p80_s,
            timing.cpu_s,
            memory.get(which),
            checked[which],
            versions(),
            commit(),
        )
        for which, timing in timings.items()
    ]


def show(name: str, timings: dict[str, Timing], memory: dict[str, int | None], left_out: str) -> None:
    line = f"{name:10}"
    for which in ("ours", "reference"):
        timing, extra = timings.get(which), memory.get(which)
        line += f"{1e3 * timing.median_s:11.3f}" if timing else " " * 11
        line += f"{extra / 1e6:11.1f}" if extra is not None else " " * 11
    if "reference" in timings:
        line += f"{timings['reference'].median_s / timings['ours'].median_s:9.1f}x"
    print(line + ("" if not left_out else f"   {left_out}"), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="CIFAR's shape alone (8 images without a GPU), fewer repetitions"
    )
    parser.add_argument("--only", nargs="+", choices=sorted(METHODS.keys() - LEFT_OUT.keys()), help="these methods")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=record_file, help="write the records there")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    cases = [CIFAR, IMAGENET] if on_gpu and not options.quick else [CIFAR if on_gpu or not options.quick else CIFAR_8]
    repetitions = 20 if on_gpu and options.quick else 50 if on_gpu else 5
    found: list[Record] = []
    for case in cases:
        print(f"\n{case}, {device_name(options.device)}")
        print(f"{'':10}{'ours ms':>11}{'extra MB':>11}{'reference':>11}{'extra MB':>11}{'ratio':>10}")
        for name in METHODS:
            if name in LEFT_OUT or (options.only and name not in options.only):
                continue
            try:
                found += measure(name, case, options.device, repetitions)
            except ValueError as refused:  # of UserError: the pair does not suit the method
                print(f"{name:10} {refused}")
            if options.json:  # after every method, so that one that fails loses nothing
                write_json(found, options.json)


if __name__ == "__main__":
    main()

"""What a step takes on many GPUs, simulated from measured pieces: python -m benchmarks.scale

    python -m benchmarks.scale --compute .120 --batch 128 --network torchvision_resnet50 --decoded 9000 --read 2e9
    python -m benchmarks.scale --step results/training_step-cpu.json "digits wrn_16_2/resnet8 kd B=64" fastkd --batch 64
    python -m benchmarks.scale --check      the simulation beside steps of two processes of this machine

The pieces are options, or records of the other benchmarks: seconds of a step on one GPU, gradients in bytes, images a
second that a machine decodes, bytes a second that the store of the images gives. The simulation adds what the
processes say to each other, and names what binds: the piece that would shorten the step most if it took no time.

Assumed, and printed beside each table:
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.scale_check import Check, checks
from benchmarks.timing import Record, commit, record_file, versions, write_json
from fastkd import networks

ASSUMED = (
    "a batch a process, the same on every one: weak scaling; no process is slower than another",
    "gradients are reduced by rings, inside each machine and then between machines, where each GPU of a machine takes"
    " its part: 2(n-1)/n of the bytes over each link, 2(n-1) latencies a message",
    "the stated share of the compute hides communication; what is left over stands behind it",
    "reading and decoding go on beside the step and are as far ahead as they have to be: the slowest of them decides",
    "decoding is the machine's: its processes share the cores; the store is everybody's, each machine has a line to it",
)
PIECES = ("compute", "communication", "decoding", "the store")
LAYOUTS = ((1, 1), (1, 2), (1, 8), (2, 8), (4, 8), (8, 8), (32, 8))


class Link(NamedTuple):
    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """What was measured, or is supposed."""

    compute_s: float
    """Seconds of a step on one GPU that has its images and tells nobody."""
    batch: int
    """Images of a process in a step."""
    gradient_bytes: float = 0.0
    messages: int = 1
    """Messages that the gradients are reduced in."""
    hidden: float = 0.5
    """The share of the compute that communication may stand beside: the backward pass but for its last part."""
    decoded_per_s: float = float("inf")
    """Images that all cores of a machine decode in a second."""
    image_bytes: float = 0.0
    """Bytes of an image in the store."""
    calls: float = 0.0
    """Calls of the store for an image."""
    call_s: float = 0.0
    """Seconds until the store answers one."""
    readers: int = 1
    """Calls that a process has under way at once."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    machines: int
    gpus: int
    """GPUs of a machine."""
    inside: Link
    """Between two GPUs of a machine."""
    between: Link
    """Between two machines, for all GPUs of one together."""
    line_bytes_per_s: float = float("inf")
    """From the store to one machine."""
    store_bytes_per_s: float = float("inf")
    """From the store to all of them."""


class Step(NamedTuple):
    seconds: float
    images_per_s: float
    """Of all processes."""
    parts: dict[str, float]
    """Seconds of each piece by itself; of the communication what nothing hides."""
    binds: str


def ring_s(size: float, members: int, link: Link, messages: int = 1) -> float:
    """Seconds in which so many members sum `size` bytes in a ring."""
    if members == 1 or not size:
        return 0.0
    if not link.bytes_per_s:
        return float("inf")
    return 2 * (members - 1) * (size / members / link.bytes_per_s + messages * link.latency_s)


def simulated(pieces: Pieces, cluster: Cluster) -> Step:
    """A step in the steady state; `ASSUMED` says under which assumptions."""
    told = ring_s(pieces.gradient_bytes, cluster.gpus, cluster.inside, pieces.messages)
    told += ring_s(pieces.gradient_bytes, cluster.machines, cluster.between, pieces.messages)
    of_machine = cluster.gpus * pieces.batch
    read = of_machine * pieces.image_bytes
    parts = {
        "compute": pieces.compute_s,
        "communication": max(0.0, told - pieces.hidden * pieces.compute_s),
        "decoding": of_machine / pieces.decoded_per_s,
        "the store": max(
            _over(read, cluster.line_bytes_per_s),
            _over(read * cluster.machines, cluster.store_bytes_per_s),
            pieces.batch * pieces.calls * pieces.call_s / pieces.readers,
        ),
    }
    seconds = _step(parts)
    binds = min(PIECES, key=lambda piece: _step(parts | {piece: 0.0}))
    return Step(seconds, cluster.machines * of_machine / seconds, parts, binds)


def _over(amount: float, rate: float) -> float:
    """Seconds; nothing is there at once, whatever the rate."""
    return 0.0 if not amount else amount / rate if rate else float("inf")


def _step(parts: dict[str, float]) -> float:
    return max(parts["compute"] + parts["communication"], parts["decoding"], parts["the store"])


def main() -> None:
    options = _arguments().parse_args()
    checking = options.check or options.quick
    records = checked(quick=options.quick) if checking else shown(_pieces(options), options)
    if options.json:
        write_json(records, options.json)


def _arguments() -> argparse.ArgumentParser:
    about = f"{__doc__}\n" + "\n".join(f"- {line}" for line in ASSUMED)
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="beside steps of two processes of this machine")
    parser.add_argument("--quick", action="store_true", help="--check with fewer steps")
    parser.add_argument("--json", type=record_file, help="write the records to this file")
    measured = parser.add_argument_group("measured pieces")
    measured.add_argument(
        "--step", nargs=3, metavar=("FILE", "CASE", "CONTENDER"), help="a record in place of --compute"
    )
    measured.add_argument("--compute", type=float, help="seconds of a step on one GPU")
    measured.add_argument("--batch", type=int, default=128, help="images of a process (128)")
    measured.add_argument("--network", help="a network, for the size of its gradients in float32")
    measured.add_argument("--gradients", type=float, help="bytes of the gradients, in place of --network")
    measured.add_argument("--messages", type=int, default=5, help="messages that they are reduced in (5)")
    measured.add_argument("--hidden", type=float, default=0.5, help="share of the compute that hides them (.5)")
    measured.add_argument("--decoded", type=float, default=float("inf"), help="images a machine decodes in a second")
    measured.add_argument("--image-bytes", type=float, default=110e3, help="bytes of an image in the store (110,000)")
    measured.add_argument("--call", type=float, nargs=3, metavar=("COUNT", "SECONDS", "READERS"), default=(0, 0, 1),
                          help="calls for an image, seconds of one, calls under way at once")  # fmt: skip
    supposed = parser.add_argument_group("the cluster; the links are data sheets' figures, not measurements")
    supposed.add_argument("--inside", type=float, nargs=2, default=(4e11, 5e-6), help="bytes/s and seconds (4e11 5e-6)")
    supposed.add_argument("--between", type=float, nargs=2, default=(5e10, 1e-5), help="likewise (5e10 1e-5)")
    supposed.add_argument("--line", type=float, default=float("inf"), help="bytes/s from the store to a machine")
    supposed.add_argument("--read", type=float, default=float("inf"), help="bytes/s from the store to all of them")
    return parser


def _pieces(options: argparse.Namespace) -> Pieces:
    compute_s = recorded(*options.step) if options.step else options.compute
    if compute_s is None:
        raise SystemExit("benchmarks: --compute SECONDS, --step FILE CASE CONTENDER or --check says what a step takes")
    gradients = options.gradients
    if gradients is None:
        network = networks.build(options.network, num_classes=1000) if options.network else None
        gradients = 4.0 * sum(weight.numel() for weight in network.parameters()) if network else 0.0
    calls, call_s, readers = options.call
    return Pieces(
        compute_s=compute_s, batch=options.batch, gradient_bytes=gradients, messages=options.messages,
        hidden=options.hidden, decoded_per_s=options.decoded, image_bytes=options.image_bytes, calls=calls,
        call_s=call_s, readers=int(readers),
    )  # fmt: skip


def recorded(file: str, case: str, contender: str) -> float:
    """The median of a record in a file, or in one of results/."""
    path = Path(file) if Path(file).exists() else Path(__file__).parent / file
    records = json.loads(path.read_text())
    found = [one["median_s"] for one in records if (one["case"], one["contender"]) == (case, contender)]
    if len(found) != 1:
        there = ", ".join(sorted({f"{one['case']!r} {one['contender']}" for one in records}))
        raise SystemExit(f"benchmarks: {path} has no record {case!r} of {contender}: it has {there}")
    return found[0]


def shown(pieces: Pieces, options: argparse.Namespace) -> list[Record]:
    """A table over layouts."""
    print(f"{pieces}")
    print(f"inside {Link(*options.inside)}, between {Link(*options.between)}")
    print("\n".join(f"- {line}" for line in ASSUMED))
    print(
        f"{'machines x GPUs':>16}{'step':>12}{'images/s':>12}{'of linear':>10}  " + "".join(f"{p:>15}" for p in PIECES)
    )
    records, alone = [], None
    for machines, gpus in LAYOUTS:
        links = {"inside": Link(*options.inside), "between": Link(*options.between)}
        store = {"line_bytes_per_s": options.line, "store_bytes_per_s": options.read}
        step = simulated(pieces, Cluster(machines=machines, gpus=gpus, **links, **store))
        alone = alone or step.images_per_s
        share = step.images_per_s / alone / machines / gpus
        parts = "".join(f"{step.parts[piece] * 1e3:12.1f} ms" for piece in PIECES)
        print(f"{machines:>10} x {gpus:<3}{step.seconds * 1e3:9.1f} ms{step.images_per_s:12,.0f}{share:10.0%}  {parts}"
              f"   {step.binds} binds")  # fmt: skip
        case = f"a step on {machines} x {gpus} GPUs, {step.binds} binds"
        records.append(_record("simulated", case, step.seconds, checked=False))
    return records


def predicted(check: Check) -> Step:
    """Two processes of this machine: one thread each, which communication takes from the compute."""
    pieces = Pieces(
        compute_s=check.compute_s, batch=check.batch, gradient_bytes=1.0, hidden=0.0, calls=1.0,
        call_s=check.read_s / check.batch,
    )  # fmt: skip
    # What the two say to each other was measured whole: a link that takes as long for a byte.
    link = Link(1 / check.reduce_s, 0.0)
    return simulated(pieces, Cluster(machines=1, gpus=2, inside=link, between=link))


def checked(*, quick: bool) -> list[Record]:
    """The simulation beside the real thing."""
    records = []
    print("two processes of one thread each (gloo), medians; pieces measured by themselves, both processes at once")
    for check in checks(quick=quick):
        step = predicted(check)
        error = step.seconds / check.step_s - 1
        print(
            f"  {check.name:34} compute {check.compute_s * 1e3:7.2f} ms, reducing {check.gradient_bytes / 1e6:6.2f} MB "
            f"{check.reduce_s * 1e3:6.2f} ms, reading {check.read_s * 1e3:6.2f} ms: predicted "
            f"{step.seconds * 1e3:7.2f} ms ({step.binds} binds), measured {check.step_s * 1e3:7.2f}, "
            f"error {error:+.0%}",
            flush=True,
        )
        records.append(_record("measured", check.name, check.step_s, checked=True))
        records.append(_record("simulated", check.name, step.seconds, checked=True))
    return records


def _record(contender: str, case: str, seconds: float, *, checked: bool) -> Record:
    how = (seconds, seconds, seconds, seconds, None, checked, versions(), commit())
    return Record("scale", contender, case, "cpu, 2 processes of 1 thread" if checked else "simulated", *how)


if __name__ == "__main__":
    main()

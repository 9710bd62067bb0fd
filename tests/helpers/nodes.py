"""Two machines in one: network namespaces that a veth pair joins, with torchrun's agent in each.

They have what faults need, an address, a cable and a name of their own, and share the rest: files, processes, cores.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from helpers.processes import ENVIRONMENT, ROOT

PORT = 29400
AGENTS_SECONDS = 6
"""How long agents wait for further nodes, which torchrun does for thirty seconds by default."""


def why_not() -> str:
    """Why namespaces cannot be made here; "" where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "unshare", "hostname"):
        if shutil.which(tool) is None:
            return f"there is no program {tool}"
    name = f"fastkd-try-{os.getpid()}"
    made = _ip("netns", "add", name)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    paired = _ip("-n", name, "link", "add", "one", "type", "veth", "peer", "name", "other")
    _ip("netns", "del", name)
    return f"no veth pair can be made: {paired.stderr.strip()}" if paired.returncode else ""


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True)


def _done(*words: str) -> None:
    result = _ip(*words)
    assert result.returncode == 0, f"ip {' '.join(words)}: {result.stderr}"


class Node:
    """One of the two: number 0 hosts the rendezvous. What its processes say is in `log`."""

    def __init__(self, number: int, folder: Path):
        self.number = number
        self.namespace = f"fastkd-{os.getpid()}-{number}"
        self.cable, self.address = f"veth{number}", f"10.77.0.{number + 1}"
        self.log = folder / f"node-{number}.log"
        self.agent: subprocess.Popen[bytes] | None = None
        self.started: set[int] = set()

    def start(self, program: list[str], nodes: str, restarts: int = 3, **environment: str) -> None:
        """Starts torchrun's agent with one process; nodes: MIN:MAX."""
        host = f"is_host={1 - self.number},last_call_timeout={AGENTS_SECONDS},join_timeout=120"
        words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "1"]
        words += ["--max-restarts", str(restarts), "--rdzv-backend", "c10d", "--rdzv-id", "faults"]
        words += ["--rdzv-endpoint", f"10.77.0.1:{PORT}", "--rdzv-conf", host, "--local-addr", self.address]
        named = ["unshare", "--uts", "sh", "-c", f'hostname node-{self.number} && exec "$@"', "sh"]
        own = {"GLOO_SOCKET_IFNAME": self.cable, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", **environment}
        with self.log.open("ab") as log:
            self.agent = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *named, *words, *program],
                cwd=ROOT,
                env=ENVIRONMENT | own,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def worker(self) -> int:
        """The process that trains: a child of the agent."""
        assert self.agent is not None
        while True:
            found = subprocess.run(["pgrep", "-P", str(self.agent.pid)], capture_output=True, text=True).stdout.split()
            if found:
                self.started |= {*map(int, found)}
                return int(found[0])
            assert self.agent.poll() is None, self.said()[-3000:]
            time.sleep(0.05)

    def lose(self) -> None:
        """The machine is gone, with all that ran on it."""
        assert self.agent is not None
        workers = subprocess.run(["pgrep", "-P", str(self.agent.pid)], capture_output=True, text=True).stdout.split()
        for process in (self.agent.pid, *map(int, workers)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.agent.wait()

    def finish(self, seconds: float = 240) -> int:
        """The agent's code, when it has ended by itself."""
        assert self.agent is not None
        return self.agent.wait(timeout=seconds)

    def plug(self, state: str) -> None:
        """Takes the cable out (down) or puts it in (up)."""
        _done("-n", self.namespace, "link", "set", self.cable, state)


@contextlib.contextmanager
def two_nodes(folder: Path) -> Iterator[tuple[Node, Node]]:
    """Two nodes with a cable between them; afterwards nothing is left of them, nor of what ran there."""
    nodes = Node(0, folder), Node(1, folder)
    try:
        for node in nodes:
            _done("netns", "add", node.namespace)
            _done("-n", node.namespace, "link", "set", "lo", "up")
        first, second = nodes
        cable = ("type", "veth", "peer", "name", second.cable, "netns", second.namespace)
        _done("-n", first.namespace, "link", "add", first.cable, *cable)
        for node in nodes:
            _done("-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", node.cable)
            node.plug("up")
        yield nodes
    finally:
        for node in nodes:
            for process in _ip("netns", "pids", node.namespace).stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            if node.agent is not None:
                node.agent.wait()
            _ip("netns", "del", node.namespace)


def wait_until(condition, node: Node, seconds: float = 120) -> None:
    """Waits for something that a node's processes do."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, node.said()[-4000:]
        time.sleep(0.05)

"""fastkd: a training engine for knowledge distillation. Nothing happens at import."""

__version__ = "0.1.0"


def load_student(run: str, *, logits: bool = False, trust: bool = False):  # naming the type would import torch
    """The trained student of a run folder, as a `fastkd.networks.Network` in eval mode on the CPU.

    It takes normalised images [B,3,S,S] to an `Output`, whose `.logits` are [B,K].
    logits: as a module that gives those alone, for whoever wants a tensor (argmax, torch.jit.trace, a service).
    trust: import the code outside of fastkd that its files name, if they do, and say what; else that is an error.
    """
    from pathlib import Path

    from fastkd.run import load_network
    from fastkd.run.trust import trust as import_named

    if trust:
        import_named(Path(run), print)
    student = load_network(run, "student")
    if not logits:
        return student
    from fastkd.run.export import Logits

    return Logits(student).eval()

"""fastkd: a training engine for knowledge distillation. Nothing happens at import."""

__version__ = "0.1.0"


def load_student(run: str, *, trust: bool = False):  # the type is not named: that would import torch
    """The trained student of a run folder, as a `fastkd.networks.Network` in eval mode on the CPU.

    trust: import the code outside of fastkd that its files name, if they do, and say what; else that is an error.
    """
    from pathlib import Path

    from fastkd.run import load_network
    from fastkd.run.trust import trust as import_named

    if trust:
        import_named(Path(run), print)
    return load_network(run, "student")

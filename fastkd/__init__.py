"""fastkd: a training engine for knowledge distillation. Nothing happens at import."""

__version__ = "0.1.0"


def load_student(run: str):  # the type is not named: that would import torch
    """The trained student of a run folder, as a `fastkd.networks.Network` in eval mode on the CPU."""
    from fastkd.run import load_network

    return load_network(run, "student")

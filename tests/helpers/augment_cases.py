"""What kernel and reference are compared on."""

import itertools

import torch

from fastkd.ops.augment import How, Inputs, turns_table

SETTINGS = [
    {"padding": padding, "flip": flip, "quarter_turns": quarters, "views": views, "rotation": rotation}
    for padding, flip, (quarters, views), rotation in itertools.product(
        (0, 2), (False, True), ((False, 1), (False, 3), (True, 4)), (0.0, 20.0)
    )
]


def make_inputs(
    settings, size=(9, 9), images=7, batch=5, epoch=3, seed=0, device="cpu", key=(11, 0xDEADBEEF), dtype=torch.float32
):
    """Random images, and settings that are a row of `SETTINGS`."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (images, *size, 3), dtype=torch.uint8, generator=generator)
    rows = torch.randint(images, (settings["views"], batch), generator=generator)
    index = torch.randint(1_300_000, (batch,), generator=generator)
    turns = turns_table(settings["rotation"]) if settings["rotation"] else None
    tensors = [pixels, rows, index, torch.tensor(epoch), turns, torch.ones(3), torch.zeros(3)]
    placed = [None if tensor is None else tensor.to(device) for tensor in tensors]
    how = {name: settings[name] for name in ("padding", "flip", "quarter_turns")}
    return Inputs(*placed, How(*key, **how, dtype=dtype))

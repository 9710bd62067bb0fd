"""The augmentation kernel."""

import json

from fastkd.ops.augment import kernel
from helpers.compiled_ahead import compiled

TYPES = {
    "images_ptr": "*u8",
    "rows_ptr": "*i64",
    "index_ptr": "*i64",
    "epoch_ptr": "*i64",
    "turns_ptr": "*i64",
    "scale_ptr": "*fp32",
    "shift_ptr": "*fp32",
    "B": "i32",
    "key_low": "i64",
    "key_high": "i64",
}
CASES = {
    "cifar": {"H": 32, "W": 32, "PADDING": 4, "FLIP": True, "QUARTER_TURNS": False, "TURN": False},
    "sskd": {"H": 32, "W": 32, "PADDING": 4, "FLIP": True, "QUARTER_TURNS": True, "TURN": False},
    "tfkd": {"H": 64, "W": 64, "PADDING": 8, "FLIP": True, "QUARTER_TURNS": False, "TURN": True},
    "imagenet": {"H": 224, "W": 224, "PADDING": 0, "FLIP": True, "QUARTER_TURNS": False, "TURN": False},
}

RUNS = [(case, "bf16", architecture) for case in ("sskd", "tfkd") for architecture in (80, 90, 100)]
RUNS += [("cifar", "fp32", 90), ("imagenet", "bf16", 90)]


def augment(case: str, out: str, architecture: int) -> dict:
    sizes = {"ANGLES": kernel.ANGLES, "FIXED": kernel.FIXED, "STREAM": kernel.STREAM, "BLOCK": kernel.BLOCK}
    types, options = TYPES | {"out_ptr": f"*{out}"}, {"num_warps": kernel.WARPS}
    record = compiled(kernel.augment_kernel, types, CASES[case] | sizes, options, architecture)
    return {"case": case, "out": out} | record


if __name__ == "__main__":
    for run in RUNS:
        print(json.dumps(augment(*run)), flush=True)

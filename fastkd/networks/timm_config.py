"""What timm wants to know of a model that it made, to make it again from a folder."""

from typing import Any

from fastkd.networks.naming import is_outside, parsed
from fastkd.networks.timm_adapter import arguments, imported_timm

_KEPT = ("fixed_input_size", "first_conv", "classifier")
"""What of timm's own description of an architecture holds whatever it was trained on."""


def is_timms(name: str) -> bool:
    return is_outside(name) and parsed(name).source == "timm"


def timm_config(name: str, image_size: int) -> dict[str, Any]:
    """The entries `architecture`, `model_args` and `pretrained_cfg` of a config.json that `timm.create_model` reads.

    They hold what follows from the network's name; what its weights are for is to be added to `pretrained_cfg`.
    Raises UserError where timm is missing.
    """
    spec = parsed(name)
    known = imported_timm().get_pretrained_cfg(spec.name).to_dict()
    return {
        "architecture": spec.name.partition(".")[0],
        "model_args": arguments(spec, image_size),
        "pretrained_cfg": {"custom_load": False} | {key: known[key] for key in _KEPT if known.get(key) is not None},
    }

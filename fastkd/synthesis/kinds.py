"""Which class makes the images of each kind of synthesis."""

from fastkd.synthesis.base import MadeFor, Synthesis
from fastkd.synthesis.fresh import FreshSynthesis
from fastkd.synthesis.pooled import PooledSynthesis
from fastkd.synthesis.settings import SynthesisSettings


def synthesis_of(settings: SynthesisSettings, made_for: MadeFor) -> Synthesis:
    """What makes images as the settings say."""
    return (PooledSynthesis if settings.has_pool else FreshSynthesis)(settings, made_for)

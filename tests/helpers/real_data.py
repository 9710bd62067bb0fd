"""Real images, where they lie beside the checkout; nothing of the project depends on them."""

import pytest

from helpers.places import ROOT

REAL = ROOT.parent / "shared" / "data"

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images: there is no folder {REAL}")

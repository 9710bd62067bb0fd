"""Real images, where they lie beside the checkout; nothing of the project depends on them."""

from pathlib import Path

import pytest

REAL = Path(__file__).parents[2] / "shared" / "data"

needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images: there is no folder {REAL}")

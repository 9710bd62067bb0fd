import pytest
from helpers.image_folders import write_folder


@pytest.fixture
def root(tmp_path):
    """16 training and 8 test images of all shapes, of two classes."""
    return write_folder(tmp_path, size=None, ending="jpg", per_class=8, tests=4)


@pytest.fixture
def image(root):
    return root / "train" / "ant" / "3.jpg"

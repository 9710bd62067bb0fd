import pytest

pytest.register_assert_rewrite("helpers.loader_contract")  # its assertions are those of the modules that inherit it

from helpers.image_folders import write_folder  # noqa: E402


@pytest.fixture
def root(tmp_path):
    """16 training and 8 test images of all shapes, of two classes."""
    return write_folder(tmp_path, size=None, ending="jpg", per_class=8, tests=4)


@pytest.fixture
def image(root):
    return root / "train" / "ant" / "3.jpg"


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """26 training and 14 test images of all shapes, for tests that change none of them."""
    return write_folder(tmp_path_factory.mktemp("photographs"), size=None, per_class=13, tests=7, ending="jpg")

"""Image folders, resident and streamed."""

import numpy as np
import pytest
import torch
from PIL import Image
from real_data import REAL, needs_real_data

from fastkd.data import Augmentation, evaluation_source, open_dataset, training_source
from fastkd.data.streaming import crop_boxes
from fastkd.errors import UserError

OPTIONS = {"image_size": 8, "resident": True, "limit_train": None, "threads": 2}


def write_folder(root, size=(8, 8), per_class=5, classes=("ant", "bee")):
    rng = np.random.default_rng(0)
    for part, count in (("train", per_class), ("val", 2)):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def open_folder(root, **options):
    return open_dataset(f"imagefolder:{root}", **(OPTIONS | options))


def test_images_of_the_right_size_are_kept_as_they_are(tmp_path):
    data = open_folder(write_folder(tmp_path))
    with Image.open(tmp_path / "train" / "bee" / "2.png") as image:
        expected = torch.from_numpy(np.array(image))
    assert torch.equal(data.train.images[7], expected)
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    assert data.classes == ("ant", "bee")


def test_other_sizes_and_modes_are_resized_cropped_and_converted(tmp_path):
    root = write_folder(tmp_path, size=(20, 12))
    with Image.open(root / "train" / "ant" / "0.png") as image:
        image.convert("L").save(root / "train" / "ant" / "0.png")
    data = open_folder(root)
    assert data.train.images.shape == (10, 8, 8, 3)
    grey = data.train.images[0]
    assert torch.equal(grey[..., 0], grey[..., 1])
    assert not torch.equal(data.train.images[1][..., 0], data.train.images[1][..., 1])


def source(data, workers=0, **options):
    augmentation = Augmentation(crop="resized")
    settings = {"image_size": 8, "batch_size": 4, "seed": 3, "workers": workers, "augmentation": augmentation}
    return training_source(data, **(settings | options))


def epoch_of(found, epoch=0, start=0):
    return [(raw.index, raw.images) for raw in found.loader.epoch(epoch, start)]


def same(left, right):
    return len(left) == len(right) and all(
        torch.equal(a, b) for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True)
    )


def test_streamed_batches_do_not_depend_on_the_workers(tmp_path):
    data = open_folder(write_folder(tmp_path, size=(30, 20)), resident=False)
    alone = epoch_of(source(data))
    assert same(alone, epoch_of(source(data, workers=2)))
    assert same(alone[1:], epoch_of(source(data), start=1))
    assert not same(alone, epoch_of(source(data), epoch=1))
    assert alone[0][1].shape == (1, 4, 8, 8, 3)


def test_streamed_evaluation_takes_the_centre_of_every_image_once(tmp_path):
    data = open_folder(write_folder(tmp_path, size=(30, 20)), resident=False)
    found = evaluation_source(data, image_size=8, batch_size=3)
    raws = epoch_of(found)
    assert torch.cat([index for index, _ in raws]).tolist() == [0, 1, 2, 3]
    with Image.open(tmp_path / "val" / "ant" / "1.png") as image:
        from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

        expected = pil_to_tensor(center_crop(resize(image, [9]), [8])).permute(1, 2, 0)
    assert torch.equal(raws[0][1][0, 1], expected)


def test_crops_have_the_stated_areas_and_aspects():
    count = 4000
    sizes = torch.tensor([[500, 400]]).expand(count, 2)
    boxes = crop_boxes(sizes, torch.arange(count), 0, 1, Augmentation(crop="resized", area=(0.08, 1.0))).double()
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes >= 0).all() and (boxes[:, 2] <= 500).all() and (boxes[:, 3] <= 400).all()
    whole = (width < 500) & (height < 400)  # the others are clipped
    aspect = (width / height)[whole]
    assert aspect.min() > 0.73 and aspect.max() < 1.36
    area = width * height / 200_000
    assert area.min() > 0.075 and abs(area.mean() - 0.54) < 0.03


class TestMistakes:
    def test_no_train_folder(self, tmp_path):
        with pytest.raises(UserError, match="has no folders 'train' and 'val'"):
            open_folder(tmp_path)

    def test_empty_class_folder(self, tmp_path):
        (write_folder(tmp_path) / "train" / "cat").mkdir()
        with pytest.raises(UserError, match="the class folder .*cat has no images"):
            open_folder(tmp_path)

    def test_class_that_is_only_tested(self, tmp_path):
        (write_folder(tmp_path) / "val" / "cat").mkdir()
        with pytest.raises(UserError, match="has a class 'cat' that .*train lacks"):
            open_folder(tmp_path)

    @pytest.mark.parametrize("content", (b"", b"no picture", None), ids=("empty", "text", "truncated"))
    def test_corrupt_image(self, tmp_path, content):
        file = write_folder(tmp_path) / "train" / "bee" / "1.png"
        file.write_bytes(file.read_bytes()[:80] if content is None else content)
        with pytest.raises(UserError, match=r"cannot read the image .*bee.1\.png"):
            open_folder(tmp_path)

    def test_resized_crops_of_bytes(self):
        data = open_dataset("digits", **OPTIONS)
        with pytest.raises(UserError, match="random-resized crops need image files"):
            source(data)


@needs_real_data
def test_real_tiny_imagenet_folder():
    data = open_dataset(f"imagefolder:{REAL / 'tiny-imagenet-20'}", **(OPTIONS | {"image_size": 64}))
    assert (len(data.train), len(data.test), len(data.classes)) == (5000, 1000, 20)
    assert data.train.images.shape[1:] == (64, 64, 3)
    assert torch.bincount(data.test.labels).tolist() == [50] * 20


@needs_real_data
def test_real_photographs_stream(tmp_path):
    classes = sorted(path for path in (REAL / "imagenet-sample").iterdir() if path.is_dir())[:6]
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        for folder in classes:
            (tmp_path / part / folder.name).symlink_to(folder)
    data = open_folder(tmp_path, resident=False, image_size=64)
    (index, images), *_ = epoch_of(source(data, image_size=64, batch_size=6))
    assert sorted(index.tolist()) == list(range(6))
    assert images.shape == (1, 6, 64, 64, 3)

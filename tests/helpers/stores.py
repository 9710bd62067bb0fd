"""The folder of one teacher's rows, small: what it says of itself, and how it is opened."""

from fastkd.stored import Circumstances, Key, RowFormat, Store

KEY = Key(
    network="resnet8",
    weights="0" * 64,
    folded=False,
    precision="float32",
    layout="contiguous",
    data="1" * 64,
    samples=20,
    image_size=8,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    decoder="",
    augmentation={"crop": "pad", "flip": True},
    augmentation_version=1,
    data_seed=0,
)
ROW = RowFormat(outputs=("logits",), classes=10, embedding=64)
HERE = Circumstances(
    device="cpu",
    torch="2.11",
    instruction_set="AVX2",
    threads=1,
    rows_per_forward=32,
    tf32=False,
    compile="off",
)


def opened(folder, key=KEY, row=ROW, here=HERE, **options):
    return Store.opened(folder / "teacher", key, row, here, **options)

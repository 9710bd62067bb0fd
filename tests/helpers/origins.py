"""The images of a folder in every other keeping that fastkd reads, in the same order."""

import csv
import io
import json
import os
import tarfile

from PIL import Image


def files_of(root):
    """(part, class, path) of every image in the folder, in the order that fastkd reads it."""
    for part in ("train", "val"):
        for name in sorted(os.listdir(root / part)):
            for file in sorted(os.listdir(root / part / name)):
                yield part, name, root / part / name / file


def as_csv(root):
    """A list beside the folders `train` and `val`, in no order."""
    lines = [[str(path.relative_to(root)), name, part] for part, name, path in files_of(root)]
    with open(root / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "split"], *reversed(lines)])
    return f"csv:{root / 'list.csv'}"


def as_tar(root, folder, labels="folder", shards=2):
    """Shards of each part, dealt out in turn; labels: folder, cls or json."""
    folder.mkdir(exist_ok=True)
    classes = sorted({name for _, name, _ in files_of(root)})
    for part in ("train", "val"):
        own = [(name, path) for each, name, path in files_of(root) if each == part]
        for shard in range(shards):
            with tarfile.open(folder / f"birds-{part}-{shard:06}.tar", "w") as archive:
                for number, (name, path) in enumerate(own[shard::shards]):
                    if labels == "folder":
                        archive.add(path, f"{name}/{path.name}")
                        continue
                    stem = f"{classes.index(name)}-{path.stem}-{shard}{number}"
                    _add(archive, f"{stem}{path.suffix}", path.read_bytes())
                    told = str(classes.index(name)) if labels == "cls" else json.dumps({"species": name})
                    _add(archive, f"{stem}.{labels}", told.encode())
    return f"tar:{folder}/birds-{{train,val}}-*.tar"


def _add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def as_saved(root, folder, rows=3):
    """What Hugging Face's `save_to_disk` writes, in files of a few rows."""
    import pyarrow as arrow

    classes = sorted({name for _, name, _ in files_of(root)})
    features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    for part, split in (("train", "train"), ("val", "test")):
        own = [(name, path) for each, name, path in files_of(root) if each == part]
        (folder / split).mkdir(parents=True)
        files = []
        for first in range(0, len(own), rows):
            some = own[first : first + rows]
            table = arrow.table(
                {
                    "image": [{"bytes": path.read_bytes(), "path": path.name} for _, path in some],
                    "label": arrow.array([classes.index(name) for name, _ in some], arrow.int64()),
                }
            )
            files.append(f"data-{first:05}.arrow")
            with (
                arrow.OSFile(str(folder / split / files[-1]), "wb") as sink,
                arrow.ipc.new_stream(sink, table.schema) as writer,
            ):
                writer.write_table(table)
        (folder / split / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}))
        (folder / split / "dataset_info.json").write_text(json.dumps({"features": features}))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return f"hf:{folder}"


class Items:
    """A map-style Dataset of PIL's images."""

    def __init__(self, root, part):
        self.files = [(name, path) for each, name, path in files_of(root) if each == part]
        self.classes = sorted({name for name, _ in self.files})

    def __len__(self):
        return len(self.files)

    def __getitem__(self, place):
        name, path = self.files[place]
        with Image.open(path) as image:
            return image.convert("RGB"), self.classes.index(name)

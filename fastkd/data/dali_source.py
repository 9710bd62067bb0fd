"""What DALI is told of each batch: files or their contents, and what to cut out of them."""

import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastkd.data.decoding import BadImage
from fastkd.data.paths import Paths
from fastkd.data.streaming import PixelPlan
from fastkd.support.errors import UserError

_MOST_REWRITTEN = 4 << 30  # bytes in a temporary folder, of pictures that Pillow reads and writes again for DALI


class BatchSource:
    """Feeds DALI, which calls it with the number of a batch."""

    def __init__(self, plan: PixelPlan):
        self.plan, self.epoch = plan, 0
        self.batches: list[Tensor] = []
        self.bad: dict[int, str] = {}
        """{row number: what is wrong}, of this epoch alone: a resumed training knows nothing of earlier ones."""
        self.odd = set(np.flatnonzero(~plan.split.plain).tolist())
        """Row numbers of the images that Pillow reads and writes again for DALI."""
        rewritten = int(plan.split.sizes[~plan.split.plain].astype(np.int64).prod(1).sum()) * 3
        if rewritten > _MOST_REWRITTEN:
            raise UserError(
                f"{len(self.odd):,} images are neither JPEG nor PNG of 8 bits, and would take {rewritten / 2**30:,.0f} "
                "GiB as DALI could read them: --loader torchvision reads them as they are"
            )
        self.folder: Path | None = None

    def begin(self, epoch: int) -> None:
        self.epoch, self.bad = epoch, {}

    def usable(self, index_B: Tensor) -> Tensor:
        """The batch without the images that failed: others stand in for them, but not in an evaluation."""
        if not self.bad:
            return index_B
        if self.plan.augmentation is None:
            return torch.tensor([place for place in index_B.tolist() if place not in self.bad], dtype=torch.int64)
        return torch.tensor([self._stand_in(place) for place in index_B.tolist()])

    def _stand_in(self, place: int) -> int:
        if place not in self.bad:
            return place
        found = next((other for other in self.plan.replacements(place) if other not in self.bad), None)
        if found is None:
            raise UserError(f"nothing can take the place of {self.plan.split.records[place]}: too many images fail")
        return found

    def examine(self, place: int) -> str:
        """What is wrong with the image, as the other loader sees it; "" if nothing."""
        try:
            pixels = self.plan.split.records.pixels(place)
        except BadImage as error:
            return str(error)
        width, height = self.plan.split.sizes[place]
        if pixels.shape[:2] != (height, width):
            return f"has {pixels.shape[1]} x {pixels.shape[0]} pixels now, {width} x {height} when scanned"
        return ""

    def __call__(self, iteration: int) -> tuple[np.ndarray | list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        """Paths [N,L] or contents; starts and shapes (or sizes and corners) [N,2] as (rows, columns); row numbers."""
        if iteration >= len(self.batches):
            raise StopIteration
        index_B, plan = self.batches[iteration], self.plan
        if plan.random_boxes:
            boxes = plan.boxes(index_B, self.epoch).reshape(-1, 4)
            first, second = boxes[:, 1::-1], boxes[:, :1:-1]
        else:
            first, second = (found[:, ::-1] for found in plan.centres(index_B))
        places = np.tile(index_B.numpy(), plan.images)
        return self._contents(places), np.ascontiguousarray(first), np.ascontiguousarray(second), places

    @property
    def gives_paths(self) -> bool:
        """Whether DALI itself reads the files."""
        return isinstance(self.plan.split.records, Paths)

    def _contents(self, places: np.ndarray) -> np.ndarray | list[np.ndarray]:
        records = self.plan.split.records
        return self._paths(records, places) if isinstance(records, Paths) else list(map(self._encoded, places.tolist()))

    def _encoded(self, place: int) -> np.ndarray:
        """What a file holds; nothing that DALI can read where it cannot be read."""
        records = self.plan.split.records
        try:
            return _as_ppm(records.pixels(place)) if place in self.odd else records.encoded(place)
        except BadImage:
            return np.zeros(1, np.uint8)

    def _paths(self, records: Paths, places: np.ndarray) -> np.ndarray:
        paths = records.padded(places)
        for row, place in enumerate(places.tolist() if self.odd else ()):
            if place in self.odd:
                path = np.frombuffer(self._converted(place), np.uint8)
                missing = len(path) + 1 - paths.shape[1]
                if missing > 0:
                    paths = np.pad(paths, ((0, 0), (0, missing)))
                paths[row] = 0
                paths[row, : len(path)] = path
        return paths

    def _converted(self, place: int) -> bytes:
        """The path of a copy that DALI can read; of the image itself if Pillow fails, so that DALI fails on it, too."""
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="fastkd-"))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        file = self.folder / f"{place}.ppm"
        if not file.exists():
            records = self.plan.split.records
            try:
                file.write_bytes(_as_ppm(records.pixels(place)).data)
            except BadImage:
                return records[place].encode(errors="surrogateescape")
        return str(file).encode()


def _as_ppm(pixels_HWC: Tensor) -> np.ndarray:
    """[bytes] uint8: a file that every decoder reads to the same pixels."""
    head = b"P6 %d %d 255\n" % (pixels_HWC.shape[1], pixels_HWC.shape[0])
    return np.concatenate((np.frombuffer(head, np.uint8), pixels_HWC.numpy().reshape(-1)))

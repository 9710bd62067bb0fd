"""A row of a store: what one teacher says of one image in one epoch, as 32-bit words.

Every field begins at a whole word, so that a row that was gathered is read in place, by views.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.networks.base import Output
from fastkd.ops.sparse import SparseTeacher, largest_logits, normalised, tail_of
from fastkd.stored.settings import Precision
from fastkd.support.errors import UserError
from fastkd.support.ranges import Images, Temperature, Width, whole

Kept = Literal["logits", "embedding"]
KEPT: tuple[Kept, ...] = ("logits", "embedding")
"""The outputs of a network that a store can hold: those that are a row of numbers."""

_SMALL = 1 << 15  # so many classes have indices of 16 bits


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """What a row holds, in this order: for each view the logits, then the embedding."""

    outputs: tuple[Kept, ...]
    classes: Images
    embedding: Width
    """Numbers of the teacher's embedding."""
    views: Annotated[int, whole(1, 64)] = 1
    quarter_turns: bool = False
    """Whether view v of four is turned by v·90°."""
    strong: bool = False
    """Whether views other than the first are augmented strongly."""
    type: Precision = "float32"
    top: Width | None = None
    """How many logits are kept of each row, the label's among them; None: all."""
    temperature: Temperature | None = None
    """The temperature at which the others' log-sum-exp is kept; None where all logits are."""

    def __post_init__(self) -> None:
        if self.top is not None and not self.top < self.classes:
            raise UserError(f"--store-top is below the {self.classes} classes there are, got {self.top}")
        if "logits" in self.outputs and (self.top is None) != (self.temperature is None):
            raise UserError("a row has the largest logits and the temperature of their tail, or neither")

    @property
    def words(self) -> int:
        """32-bit words of a row."""
        return self.views * sum(part.words for part in self._parts)

    @property
    def bytes(self) -> int:
        return 4 * self.words

    @property
    def of_first_view(self) -> "RowFormat":
        """The format of the words that a row begins with: those of its plain view."""
        return replace(self, views=1, quarter_turns=False, strong=False)

    @property
    def views_in_words(self) -> str:
        how = " at quarter turns" if self.quarter_turns else " weak and strong" if self.strong else ""
        return f"{self.views} view{'s' * (self.views > 1)}{how}"

    def lacks(self, wanted: "RowFormat") -> str:
        """What rows of this format have not, or have otherwise, of what rows of `wanted` have; "" where nothing.

        Rows of several views have the plain one, which is the same whatever the others are.
        """
        missing = [name for name in wanted.outputs if name not in self.outputs]
        if missing:
            return f"it holds no {missing[0]}"
        if wanted.views > 1 and self.views_in_words != wanted.views_in_words:
            return f"it holds {self.views_in_words}, not {wanted.views_in_words}"
        names = ("classes", "type", *(("top", "temperature") if "logits" in wanted.outputs else ()))
        names = (*names, *(("embedding",) if "embedding" in wanted.outputs else ()))
        for name in names:
            if getattr(self, name) != getattr(wanted, name):
                return f"its {_WORDS[name]} is {getattr(self, name)}, not {getattr(wanted, name)}"
        return ""

    def packed(self, outputs: Output, labels_B: Tensor) -> Tensor:
        """[B,words] int32: the rows of B images out of a network's outputs for all views, [V·B, …] view by view."""
        count, columns = len(labels_B), []
        for view in range(self.views):
            of_view = slice(view * count, (view + 1) * count)
            for name in self.outputs:
                whole = getattr(outputs, name)[of_view].to(torch.float32)
                sparse = name == "logits" and self.top is not None
                columns += self._sparse(whole, labels_B) if sparse else [_as_words(whole.to(_dtype(self.type)))]
        return torch.cat(columns, 1)

    def unpacked(self, words_BW: Tensor, views: int) -> Output:
        """What the rows hold of their first `views` views, as the outputs [views·B, …] of a network.

        What they do not hold is empty. Where `top` logits are kept, `logits` is a `SparseTeacher`.
        """
        taken = [self._taken(words_BW, view) for view in range(views)]
        empty = words_BW.new_empty(len(words_BW), 0, dtype=torch.float32)
        joined = {name: _joined([view[name] for view in taken]) for name in self.outputs}
        logits, embedding = joined.get("logits", empty), joined.get("embedding", empty)
        return Output(logits, empty, (), empty, embedding)  # pyright: ignore[reportArgumentType] - it may be sparse

    @property
    def _parts(self) -> "list[_Part]":
        """The parts of one view."""
        own, parts = _dtype(self.type), []
        for name in self.outputs:
            if name == "embedding":
                parts.append(_Part(own, self.embedding))
            elif self.top is None:
                parts.append(_Part(own, self.classes))
            else:
                parts += [_Part(own, self.top), _Part(self._index_type, self.top), _Part(torch.float32, 1)]
        return parts

    @property
    def _index_type(self) -> torch.dtype:
        return torch.int16 if self.classes <= _SMALL else torch.int32

    def _sparse(self, logits_BK: Tensor, labels_B: Tensor) -> list[Tensor]:
        assert self.top is not None and self.temperature is not None
        indices = largest_logits(logits_BK, labels_B, self.top)
        tail = tail_of(logits_BK, indices, self.temperature)
        values = logits_BK.gather(1, indices).to(_dtype(self.type))
        return [_as_words(part) for part in (values, indices.to(self._index_type), tail[:, None])]

    def _taken(self, words_BW: Tensor, view: int) -> dict[str, Tensor | SparseTeacher]:
        first, parts, found = view * (self.words // self.views), iter(self._parts), {}

        def following() -> Tensor:
            nonlocal first
            part = next(parts)
            own = words_BW[:, first : first + part.words].view(part.dtype)[:, : part.count]
            first += part.words
            return own

        for name in self.outputs:
            if name == "logits" and self.temperature is not None:
                values, indices, tail = following(), following(), following()
                found[name] = normalised(indices.long(), values.float(), tail[:, 0], self.temperature)
            else:
                found[name] = following().float()
        return found


class _Part(NamedTuple):
    dtype: torch.dtype
    count: int

    @property
    def words(self) -> int:
        return -(-self.count * self.dtype.itemsize // 4)


_WORDS = {
    "classes": "number of classes",
    "type": "type",
    "top": "number of kept logits",
    "temperature": "tail's temperature",
    "embedding": "embedding's width",
}


def _dtype(name: Precision) -> torch.dtype:
    return getattr(torch, name)


def _as_words(values_BN: Tensor) -> Tensor:
    """[B,words] int32: the bytes of each row, filled up with zeros to a whole word."""
    short = -values_BN.shape[1] * values_BN.itemsize % 4 // values_BN.itemsize
    return F.pad(values_BN, (0, short)).contiguous().view(torch.int32)


def _joined(parts: Sequence[Tensor | SparseTeacher]) -> Tensor | SparseTeacher:
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], SparseTeacher):
        return SparseTeacher(*(torch.cat(of_all) for of_all in zip(*parts, strict=True)))
    return torch.cat([part for part in parts if isinstance(part, Tensor)])

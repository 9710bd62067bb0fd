"""Stored teachers: what a frozen teacher says of every training image, kept, so that it is paid once.

A store is a folder of one teacher's rows, `[epoch][image] → row`: crops and flips are a function of (data seed, epoch,
image), so that nothing but the row need be kept, and students with other batches, orders and seeds read the same ones.

settings.py   the options of a training with a store
row.py        what a row holds, and its bytes
key.py        what rows mean, and what their last bits depend on
epochs.py     the two files of one epoch
store.py      the folder
"""

from fastkd.stored.key import Circumstances, Key
from fastkd.stored.row import RowFormat
from fastkd.stored.settings import Storing
from fastkd.stored.store import Store

__all__ = ["Circumstances", "Key", "RowFormat", "Store", "Storing"]

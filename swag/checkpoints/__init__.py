"""Checkpoints on disk: fitted into a posterior, written out of one; never unpickled, never all in memory."""

from swag.checkpoints.fit import fit_checkpoints
from swag.checkpoints.names import layout_of_checkpoint
from swag.checkpoints.paths import expand, natural_key
from swag.checkpoints.reader import Checkpoint, open_checkpoint
from swag.checkpoints.write import write_checkpoint

__all__ = [
    "Checkpoint",
    "expand",
    "fit_checkpoints",
    "layout_of_checkpoint",
    "natural_key",
    "open_checkpoint",
    "write_checkpoint",
]

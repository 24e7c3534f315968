"""Folders of checkpoints: fitted into a posterior, and written out of one; never unpickled, never all in memory."""

from swag.checkpoints.fit import fit_checkpoints
from swag.checkpoints.paths import expand
from swag.checkpoints.reader import Checkpoint, open_checkpoint
from swag.checkpoints.write import write_checkpoint

__all__ = ["Checkpoint", "expand", "fit_checkpoints", "open_checkpoint", "write_checkpoint"]

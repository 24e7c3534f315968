"""The one pass over a probability array that every classification score is computed in.

Rows come in chunks that stay in the processor's cache, so the array is read from memory once however many
scores are asked for; a chunk is checked (sums, signs, NaN) as it comes, and computes only what is asked of it.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch

from swag.metrics.inputs import as_labels, as_probs, explain_rows, sum_tolerance, working

CHUNK_ELEMENTS = 1 << 18  # 1 MiB of float32: in the second-level cache of two cores
DEVICE_CHUNK_ELEMENTS = 1 << 26  # an accelerator has no such cache, and each chunk costs it a wait

# A non-negative float is ordered as its bits are when read as an integer, and integer maxima are twice as fast.
BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


class Chunk:
    """Some rows of probabilities, checked, with what can be said of each row.

    Args:
        probs: (n, C) float32 or float64, contiguous.
        labels: (n,) int64 in 0..C−1.
        tolerance: how far a row may sum from 1.
    """

    def __init__(self, probs: torch.Tensor, labels: torch.Tensor, tolerance: float) -> None:
        self.probs = probs
        self.labels = labels
        self.tolerance = tolerance
        self.sums = probs.sum(1)
        self.bits = probs.view(BITS[probs.dtype])
        self.has_sign_bit = int(self.bits.amin()) < 0

    @property
    def is_valid(self) -> bool:
        """Whether every row is non-negative and sums to 1 within the tolerance (NaN is neither)."""
        lowest, highest = torch.aminmax(self.sums)
        if not (float(lowest) >= 1 - self.tolerance and float(highest) <= 1 + self.tolerance):
            return False
        return not self.has_sign_bit or float(self.probs.amin()) >= 0  # −0.0 has a sign bit, and is no error

    @cached_property
    def confidence(self) -> torch.Tensor:
        """(n,) max_c p_c, in the precision of `probs`."""
        if self.has_sign_bit:
            return self.probs.amax(1)
        return self.bits.amax(1).view(self.probs.dtype)

    @cached_property
    def p_true(self) -> torch.Tensor:
        """(n,) the probability given to the label."""
        return self.probs.gather(1, self.labels.unsqueeze(1)).squeeze(1)

    @cached_property
    def correct(self) -> torch.Tensor:
        """(n,) bool: the label is the FIRST maximum, so a tie counts once."""
        correct = self.p_true == self.confidence
        # Two classes can share the maximum only where twice the maximum fits into the row's sum.
        candidates = (correct & (self.confidence <= self.sums * 0.5001)).nonzero().squeeze(1)
        if len(candidates) == 0:
            return correct
        rows = self.probs.index_select(0, candidates)
        labels = self.labels.index_select(0, candidates).unsqueeze(1)
        rows.scatter_(1, labels, -1.0)
        tied = rows.amax(1) == self.confidence.index_select(0, candidates)
        candidates, rows, labels = candidates[tied], rows[tied], labels[tied]
        if len(candidates):
            highest = rows.amax(1, keepdim=True)
            first_other = (rows == highest).int().argmax(1, keepdim=True)
            correct[candidates] = (labels < first_other).squeeze(1)
        return correct

    @cached_property
    def nll(self) -> torch.Tensor:
        """(n,) −ln p_true in nats, +∞ where p_true is 0."""
        return -self.p_true.log()

    @cached_property
    def brier(self) -> torch.Tensor:
        """(n,) Σ_c (p_c − 1[c = label])² = Σ_c p_c² − 2 p_true + 1, float64."""
        squares = torch.linalg.vector_norm(self.probs, dim=1).double().square_()
        return (squares + (1 - 2 * self.p_true.double())).clamp_min_(0)


def sweep(probs: Any, labels: Any) -> Iterator[Chunk]:
    """The rows in chunks, each checked before it is handed out.

    Args:
        probs: (N, C) probabilities, tensor or array; half types are worked on in float32.
        labels: (N,) integer class indices.

    Yields:
        Chunks of rows, in order.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.
    """
    tensor = as_probs(probs)
    targets = as_labels(labels, len(tensor), tensor.shape[1], tensor.device)
    tolerance = sum_tolerance(tensor.dtype)
    for start, stop in chunk_bounds(tensor):
        chunk = Chunk(working(tensor[start:stop]).contiguous(), targets[start:stop], tolerance)
        if not chunk.is_valid:
            raise explain_rows("probs", tensor)
        yield chunk


def chunk_bounds(tensor: torch.Tensor) -> Iterator[tuple[int, int]]:
    """First and last-plus-one row of each chunk of an array (N, …)."""
    elements = CHUNK_ELEMENTS if tensor.device.type == "cpu" else DEVICE_CHUNK_ELEMENTS
    n = tensor.shape[0]
    size = max(1, elements * n // tensor.numel())
    for start in range(0, n, size):
        yield start, min(start + size, n)


def check_probs(probs: Any, name: str = "probs") -> torch.Tensor:
    """The probabilities (N, C) as a tensor, every row checked; for scores that need no labels.

    Raises:
        InputError: the shape or dtype is wrong, or a row is not a distribution.
    """
    tensor = as_probs(probs, name)
    check_rows(name, tensor)
    return tensor


def check_rows(name: str, tensor: torch.Tensor) -> None:
    """Refuses an array (…, C) of which a row is not a distribution."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    tolerance = sum_tolerance(tensor.dtype)
    for start, stop in chunk_bounds(rows):
        part = working(rows[start:stop])
        lowest, highest = torch.aminmax(part.sum(1))
        if not (float(part.amin()) >= 0 and float(lowest) >= 1 - tolerance and float(highest) <= 1 + tolerance):
            raise explain_rows(name, rows)

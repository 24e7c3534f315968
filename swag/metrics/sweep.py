"""The one pass over a probability array that every classification score is computed in.

The array is read in chunks that stay in the processor's cache while they are reduced to a few numbers a row,
so memory is read once however many scores are asked for; rows are handed out in blocks, so what is done with
those numbers costs few calls. Sums and signs of the rows are checked on the way, not in a pass of their own.
"""

from collections.abc import Iterator
from enum import Flag
from functools import cached_property
from typing import Any

import torch

from swag.metrics.distributions import as_probs, explain_rows, sum_tolerance
from swag.metrics.inputs import as_labels, working

CHUNK_ELEMENTS = 1 << 17  # a thread: ½ MiB of float32, in a core's second-level cache
BLOCK_ROWS = 1 << 17
DEVICE_ELEMENTS = 1 << 26  # an accelerator has no such cache, and each block costs it a wait

# Non-negative floats are ordered as their bits read as integers, and integer maxima are twice as fast.
BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


class Need(Flag):
    """What a score needs of each row, beside its sum and the probability of its label."""

    LABEL = 0
    SQUARES = 1
    TOP = 3  # with the squares, which tell quickly that most rows have no tie


class Rows:
    """A block of rows, reduced to a few numbers each.

    Attributes:
        labels: (n,) int64.
        p_true: (n,) the probability given to the label.
        confidence: (n,) max_c p_c; only with TOP.
    """

    def __init__(self, block: torch.Tensor, labels: torch.Tensor, need: Need) -> None:
        n = len(block)
        dtype = working(block[:0]).dtype
        self.labels = labels
        self._block = block
        self._sums = block.new_empty(n, dtype=dtype)
        self._norm = block.new_empty(n, dtype=dtype)
        self.p_true = block.new_empty(n, dtype=dtype)
        self.confidence = block.new_empty(n, dtype=dtype)
        top, p_true = self.confidence.view(BITS[dtype]), self.p_true.unsqueeze(1)
        ones = block.new_ones(block.shape[1], dtype=dtype)
        lowest = []
        for start, stop in chunk_bounds(block):
            part = working(block[start:stop]).contiguous()
            bits = part.view(BITS[dtype])
            torch.mv(part, ones, out=self._sums[start:stop])  # sums rows faster than torch.sum
            lowest.append(bits.amin())
            torch.gather(part, 1, labels[start:stop].unsqueeze(1), out=p_true[start:stop])
            if Need.TOP in need:
                torch.amax(bits, 1, out=top[start:stop])
            if Need.SQUARES in need:
                torch.linalg.vector_norm(part, dim=1, out=self._norm[start:stop])
        self._has_sign_bit = int(torch.stack(lowest).amin()) < 0

    @property
    def are_valid(self) -> bool:
        """Whether every row is non-negative and sums to 1 within the tolerance (NaN is neither)."""
        tolerance = sum_tolerance(self._block.dtype)
        lowest, highest = torch.aminmax(self._sums)
        if not (float(lowest) >= 1 - tolerance and float(highest) <= 1 + tolerance):
            return False
        # −0.0 has a sign bit too, and is no error.
        return not self._has_sign_bit or float(self._block.amin()) >= 0

    @cached_property
    def correct(self) -> torch.Tensor:
        """(n,) bool: the label is the FIRST maximum, so a tie counts once; only with TOP."""
        correct = self.p_true == self.confidence
        # Two classes can share the maximum only where twice the maximum fits into the row's sum, and twice
        # its square into the sum of squares.
        can_tie = (self.confidence <= 0.5001 * self._sums) & (self.confidence <= 0.7072 * self._norm)
        candidates = (correct & can_tie).nonzero().squeeze(1)
        if len(candidates):
            rows = working(self._block.index_select(0, candidates))
            labels = self.labels.index_select(0, candidates).unsqueeze(1)
            correct[candidates] = are_first_maxima(rows, labels, self.confidence.index_select(0, candidates))
        return correct

    @cached_property
    def nll(self) -> torch.Tensor:
        """(n,) −ln p_true in nats, +∞ where p_true is 0."""
        return self.p_true.log().neg_()

    @property
    def brier_sum(self) -> float:
        """Σ over the rows of `brier`; only with SQUARES."""
        squares = self._norm.double()
        return float(squares @ squares - 2 * self.p_true.sum(dtype=torch.float64)) + len(squares)

    @cached_property
    def brier(self) -> torch.Tensor:
        """(n,) Σ_c (p_c − 1[c = label])² = Σ_c p_c² − 2 p_true + 1, float64; only with SQUARES."""
        return (self._norm.double().square_() + 1 - 2 * self.p_true.double()).clamp_min_(0)


def are_first_maxima(rows: torch.Tensor, labels: torch.Tensor, highest: torch.Tensor) -> torch.Tensor:
    """Whether no class before the label reaches the row's maximum, given that the label does.

    Args:
        rows: (n, C) probabilities; overwritten.
        labels: (n, 1) class indices whose probability is the row's maximum.
        highest: (n,) that maximum.

    Returns:
        (n,) bool.
    """
    rows.scatter_(1, labels, -1.0)
    first = torch.ones_like(highest, dtype=torch.bool)
    tied = (rows.amax(1) == highest).nonzero().squeeze(1)
    if len(tied):
        reaches = rows.index_select(0, tied) == highest.index_select(0, tied).unsqueeze(1)
        first[tied] = labels.index_select(0, tied).squeeze(1) < reaches.int().argmax(1)
    return first


def sweep(probs: Any, labels: Any, need: Need) -> Iterator[Rows]:
    """The rows in blocks, each checked before it is handed out.

    Args:
        probs: (N, C) probabilities, tensor or array; half types are worked on in float32.
        labels: (N,) integer class indices.
        need: what to compute of each row.

    Yields:
        Blocks of rows, in order.

    Raises:
        InputError: shapes, dtypes or labels are wrong, or a row is not a distribution.
    """
    tensor = as_probs(probs)
    targets = as_labels(labels, len(tensor), tensor.shape[1], tensor.device)
    size = BLOCK_ROWS if tensor.device.type == "cpu" else max(1, DEVICE_ELEMENTS // tensor.shape[1])
    for start in range(0, len(tensor), size):
        rows = Rows(tensor[start : start + size], targets[start : start + size], need)
        if not rows.are_valid:
            raise explain_rows("probs", tensor)
        yield rows


def chunk_bounds(tensor: torch.Tensor) -> Iterator[tuple[int, int]]:
    """First and last-plus-one row of each chunk of an array (N, …)."""
    on_cpu = tensor.device.type == "cpu"
    elements = CHUNK_ELEMENTS * torch.get_num_threads() if on_cpu else DEVICE_ELEMENTS
    n = tensor.shape[0]
    size = max(1, elements * n // tensor.numel())
    for start in range(0, n, size):
        yield start, min(start + size, n)


def check_probs(probs: Any, name: str = "probs", dims: int = 2) -> torch.Tensor:
    """Probabilities as a tensor, every row checked; for scores that need no labels.

    Args:
        probs: (N, C), or (S, N, C) where `dims` is 3.
        name: the argument's name, for the error.
        dims: how many dimensions it must have.

    Raises:
        InputError: the shape or dtype is wrong, or a row is not a distribution.
    """
    tensor = as_probs(probs, name, dims)
    rows = tensor.reshape(-1, tensor.shape[-1])
    tolerance = sum_tolerance(tensor.dtype)
    for start, stop in chunk_bounds(rows):
        part = working(rows[start:stop])
        lowest, highest = torch.aminmax(part.sum(1))
        if not (
            float(part.amin()) >= 0 and float(lowest) >= 1 - tolerance and float(highest) <= 1 + tolerance
        ):
            raise explain_rows(name, rows)
    return tensor

r"""Bootstrap kernels: resampling weights as matrices, statistics as matrix products. They know only arrays.

A resample of N rows is a vector of counts w ~ Multinomial(N; 1/N, …, 1/N). Weights come in chunks of shape
(c, N), one row a resample; the same (seed, stream) gives the same weights again, so every method, metric and
score meets the same resamples and differences between them are paired. c·N is bounded, so memory does not
grow with the number of resamples.

With unit weights in float64 each kernel equals the function of the same name in `swag.metrics`. Counts are
whole numbers, so float32 holds them exactly; sums of other quantities are taken in float64.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Weights = npt.NDArray[np.floating[Any]]

_CHUNK_ELEMENTS = 1_000_000


def weight_chunks(
    n_rows: int, n_replicates: int, seed: int, *, stream: int = 0, size: int | None = None
) -> Iterator[Weights]:
    r"""Multinomial bootstrap weights, in chunks of replicates.

    Args:
        n_rows: N, rows to resample.
        n_replicates: R, resamples in all.
        seed: Any integer ≥ 0. The global generators are not touched.
        stream: Sets resampled independently of each other (test rows, each out-of-distribution set) take
            different streams.
        size: Replicates a chunk, by default as many as keep c·N near a million. It does not change the
            weights.

    Yields:
        (c, N) float32 arrays of counts, each row summing to N; the c add up to R.

    Example:
        >>> chunks = list(weight_chunks(5, 20, seed=0))
        >>> sum(len(chunk) for chunk in chunks), float(chunks[0].sum(axis=1).max())
        (20, 5.0)
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, stream]))
    size = size or chunk_size(n_rows)
    for start in range(0, n_replicates, size):
        c = min(size, n_replicates - start)
        drawn = generator.integers(0, n_rows, size=(c, n_rows))
        drawn += n_rows * np.arange(c)[:, None]
        yield np.bincount(drawn.ravel(), minlength=c * n_rows).reshape(c, n_rows).astype(np.float32)


def chunk_size(n_rows: int) -> int:
    """Replicates a chunk for weights of `n_rows` rows."""
    return max(1, _CHUNK_ELEMENTS // n_rows)


def weighted_means(contributions: Array, weights: Weights) -> Array:
    r"""Means of row contributions: Σ_i w_ri x_ki / Σ_i w_ri.

    Args:
        contributions: (K, N), finite or +∞ (an NLL whose true class had probability 0).
        weights: (c, N).

    Returns:
        (K, c); +∞ where a row with an infinite contribution was drawn.
    """
    from scipy.sparse import csr_array

    # A sparse product although the rows are dense: BLAS threads beside torch's can be a hundred times slower,
    # and the sums would depend on their number.
    w = np.ascontiguousarray(weights.T, dtype=np.float64)
    total = w.sum(axis=0)
    infinite = np.isposinf(contributions)
    means = np.asarray(csr_array(np.where(infinite, 0.0, contributions)) @ w) / total
    if infinite.any():
        means[np.asarray(csr_array(infinite.astype(np.float64)) @ w) > 0] = np.inf
    return means


def bin_sums(values: Array, bins: npt.NDArray[np.intp], n_bins: int, weights: Weights) -> Array:
    r"""Weighted sums of a row quantity within bins, for M methods that bin the rows differently.

    Args:
        values: (M, N).
        bins: (M, N) integers in [0, n_bins).
        n_bins: B.
        weights: (c, N).

    Returns:
        (M, B, c): Σ_{i: bins_mi = b} w_ri v_mi.
    """
    from scipy.sparse import csr_array

    m, n = values.shape
    rows = (bins + np.arange(m)[:, None] * n_bins).ravel()
    columns = np.broadcast_to(np.arange(n), (m, n)).ravel()
    matrix = csr_array((values.ravel(), (rows, columns)), shape=(m * n_bins, n))
    w = np.ascontiguousarray(weights.T, dtype=np.float64)
    return np.asarray(matrix @ w).reshape(m, n_bins, -1)


@dataclasses.dataclass(frozen=True, eq=False)
class Acceptance:
    """Rows in the order in which a confidence accepts them, found once for all resamples.

    Attributes:
        order: (N,) most confident first.
        ends: (G,) last place of each run of equal confidence; None where all N differ.
        errors: (N,) 0 or 1, in that order.
        harmonic: (N + 1,) H_k = Σ_{j ≤ k} 1/j.
    """

    order: npt.NDArray[np.intp]
    ends: npt.NDArray[np.intp] | None
    errors: Array
    harmonic: Array

    @classmethod
    def of(cls, errors: Array, confidence: Array) -> "Acceptance":
        """From errors (N,) and confidence (N,)."""
        order = np.argsort(-confidence, kind="stable")
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, len(order) + 1))])
        return cls(order, _ends_of_ties(confidence[order]), errors[order], harmonic)


def aurc(rows: Acceptance, weights: Weights) -> Array:
    r"""Area under the risk–coverage curve: the mean over k of the error rate among the k most confident rows.

    Rows of equal confidence count with the mean error of their tie, and so do the copies of a row drawn more
    than once. A tie of W rows, E of them wrong, that ends after B rows, A of them wrong, adds
    Σ_{B−W < j ≤ B} (A − (B − j) E/W) / j = E + (A − B E/W)(H_B − H_{B−W}).

    Args:
        rows: The method's order.
        weights: (c, N).

    Returns:
        (c,).
    """
    w = np.take(weights, rows.order, axis=1)
    rate = rows.errors.astype(w.dtype)
    covered, wrong = np.cumsum(w, axis=1), np.cumsum(w * rate, axis=1)
    if rows.ends is not None:
        covered, wrong = np.take(covered, rows.ends, axis=1), np.take(wrong, rows.ends, axis=1)
        size, errors = (np.diff(sums, axis=1, prepend=0) for sums in (covered, wrong))
        rate = np.divide(errors, size, out=np.zeros_like(size), where=size > 0)
    harmonic = np.take(rows.harmonic, covered.astype(np.int32), mode="clip")
    harmonic[:, 1:] -= harmonic[:, :-1].copy()
    total = wrong[:, -1] + np.einsum("cn,cn->c", wrong - covered * rate, harmonic, dtype=np.float64)
    return np.asarray(total / covered[:, -1], dtype=np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """Test rows and out-of-distribution rows in the order of one score, found once for all resamples.

    Attributes:
        order_in: (N,) test rows, highest score first.
        order_out: (N′,) out-of-distribution rows, highest score first.
        above: (N′,) for each of these, in that order, how many test rows score higher.
        reached: (N′,) how many score at least as high.
        last: (N′,) the last place of equal score; None without ties.
    """

    order_in: npt.NDArray[np.intp]
    order_out: npt.NDArray[np.intp]
    above: npt.NDArray[np.intp]
    reached: npt.NDArray[np.intp]
    last: npt.NDArray[np.intp] | None

    @classmethod
    def of(cls, scores_in: Array, scores_out: Array) -> "Ranking":
        """From scores (N,) and (N′,), higher = more out-of-distribution."""
        order_in, order_out = (np.argsort(-scores, kind="stable") for scores in (scores_in, scores_out))
        ascending, s = -scores_in[order_in], -scores_out[order_out]
        above, reached = (np.searchsorted(ascending, s, side) for side in ("left", "right"))
        return cls(order_in, order_out, above, reached, _last_of_ties(s))


def detection(ranking: Ranking, weights_in: Weights, weights_out: Weights) -> dict[str, Array]:
    r"""AUROC, AUPR and FPR at 95 % TPR of one score; out-of-distribution rows are the positives.

    Args:
        ranking: The score's order.
        weights_in: (c, N).
        weights_out: (c, N′).

    Returns:
        "auroc", "aupr", "fpr95", each (c,). Ties count one half in the AUROC; AUPR is average precision.
    """
    counts = np.zeros((len(weights_in), weights_in.shape[1] + 1), weights_in.dtype)
    np.cumsum(np.take(weights_in, ranking.order_in, axis=1), axis=1, out=counts[:, 1:])
    w = np.take(weights_out, ranking.order_out, axis=1)
    true, false = _at(np.cumsum(w, axis=1), ranking.last), np.take(counts, ranking.reached, axis=1)
    positives, negatives = (weights.sum(axis=1, dtype=np.float64) for weights in (weights_out, weights_in))
    beaten = 2 * np.einsum("cn,cn->c", w, false, dtype=np.float64)
    if (ranking.above != ranking.reached).any():
        ties = np.take(counts, ranking.above, axis=1) - false
        beaten += np.einsum("cn,cn->c", w, ties, dtype=np.float64)
    first = (true < (0.95 * positives - 1e-3).astype(w.dtype)[:, None]).sum(axis=1)
    fpr95 = false[np.arange(len(w)), first] / negatives
    flagged = np.maximum(np.add(true, false, out=false), 1e-30, out=false)
    aupr = np.einsum("cn,cn->c", w, np.divide(true, flagged, out=flagged), dtype=np.float64) / positives
    return {"auroc": 1.0 - beaten / (2 * positives * negatives), "aupr": aupr, "fpr95": fpr95}


def _ends_of_ties(values: Array) -> npt.NDArray[np.intp] | None:
    """Index of the last of each run of equal elements in a sorted array (N,); None if all differ."""
    differs = np.append(values[1:] != values[:-1], True)
    return None if differs.all() else np.flatnonzero(differs)


def _last_of_ties(values: Array) -> npt.NDArray[np.intp] | None:
    """For each element of a sorted array (N,), the index of the last one equal to it; None if all differ."""
    ends = _ends_of_ties(values)
    return None if ends is None else np.repeat(ends, np.diff(ends, prepend=-1))


def _at(sums: Weights, index: npt.NDArray[np.intp] | None) -> Weights:
    return sums if index is None else np.take(sums, index, axis=1)

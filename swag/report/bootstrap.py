r"""Bootstrap kernels: resampling weights as matrices, statistics as matrix products. They know only arrays.

A resample of N rows is a vector of counts w ~ Multinomial(N; 1/N, …, 1/N). Weights come in chunks of shape (N, c),
one column a replicate; the same (seed, stream) gives the same weights again, so every method, metric and score
meets the same resamples and differences between them are paired. N·c is bounded, so memory does not grow with the
number of replicates.

With unit weights each kernel equals the function of the same name in `swag.metrics`.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_CHUNK_ELEMENTS = 1_500_000


def weight_chunks(n_rows: int, n_replicates: int, seed: int, *, stream: int = 0) -> Iterator[Array]:
    r"""Multinomial bootstrap weights, in chunks of replicates.

    Args:
        n_rows: N, rows to resample.
        n_replicates: R, resamples in all.
        seed: Any integer ≥ 0. The global generators are not touched.
        stream: Sets resampled independently of each other (test rows, each out-of-distribution set) take
            different streams.

    Yields:
        (N, c) float64 arrays of counts, each column summing to N; the c add up to R.

    Example:
        >>> chunks = list(weight_chunks(5, 20, seed=0))
        >>> sum(chunk.shape[1] for chunk in chunks), float(chunks[0].sum(axis=0).max())
        (20, 5.0)
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, stream]))
    size = max(1, _CHUNK_ELEMENTS // n_rows)
    for start in range(0, n_replicates, size):
        c = min(size, n_replicates - start)
        drawn = generator.integers(0, n_rows, size=(c, n_rows)) * c
        drawn += np.arange(c)[:, None]
        yield np.bincount(drawn.ravel(), minlength=n_rows * c).reshape(n_rows, c).astype(np.float64)


def weighted_means(contributions: Array, weights: Array) -> Array:
    r"""Means of row contributions: Σ_i w_ir x_ki / Σ_i w_ir.

    Args:
        contributions: (K, N), finite or +∞ (an NLL whose true class had probability 0).
        weights: (N, c).

    Returns:
        (K, c); +∞ where a row with an infinite contribution was drawn.
    """
    infinite = np.isposinf(contributions)
    total = weights.sum(axis=0)
    if not infinite.any():
        return contributions @ weights / total
    means = np.where(infinite, 0.0, contributions) @ weights / total
    means[infinite.astype(np.float64) @ weights > 0] = np.inf
    return means


def bin_sums(values: Array, bins: npt.NDArray[np.intp], n_bins: int, weights: Array) -> Array:
    r"""Weighted sums of a row quantity within bins, for M methods that bin the rows differently.

    Args:
        values: (M, N).
        bins: (M, N) integers in [0, n_bins).
        n_bins: B.
        weights: (N, c).

    Returns:
        (M, B, c): Σ_{i: bins_mi = b} w_ir v_mi.
    """
    from scipy.sparse import csr_array

    m, n = values.shape
    rows = (bins + np.arange(m)[:, None] * n_bins).ravel()
    columns = np.broadcast_to(np.arange(n), (m, n)).ravel()
    matrix = csr_array((values.ravel(), (rows, columns)), shape=(m * n_bins, n))
    return np.asarray(matrix @ weights).reshape(m, n_bins, -1)


def ece(gap_sums: Array, total: Array | float) -> Array:
    r"""Expected calibration error from bin sums of (correct − confidence): Σ_b |g_b| / Σ w.

    Args:
        gap_sums: (M, B, c), from `bin_sums`.
        total: (c,) Σ_i w_ir.

    Returns:
        (M, c).
    """
    return np.abs(gap_sums).sum(axis=1) / total


def aurc(errors: Array, confidence: Array, weights: Array) -> Array:
    r"""Area under the risk–coverage curve: the mean over k of the error rate among the k most confident rows.

    A row drawn w times counts as w neighbouring rows. Rows of equal confidence are accepted together,
    each at the error rate they end with.

    Args:
        errors: (N,) 0 or 1.
        confidence: (N,).
        weights: (N, c).

    Returns:
        (c,).
    """
    order = np.argsort(-confidence, kind="stable")
    w = weights[order]
    last = _last_of_ties(confidence[order])
    covered = np.cumsum(w, axis=0)[last]
    wrong = np.cumsum(w * errors[order][:, None], axis=0)[last]
    risk = np.divide(wrong, covered, out=np.zeros_like(wrong), where=covered > 0)
    return (risk * np.diff(covered, axis=0, prepend=0.0)).sum(axis=0) / covered[-1]


def detection(
    scores_in: Array, scores_out: Array, weights_in: Array, weights_out: Array
) -> dict[str, Array]:
    r"""AUROC, AUPR and FPR at 95 % TPR of one score; out-of-distribution rows are the positives.

    Args:
        scores_in: (N,) higher = more out-of-distribution.
        scores_out: (N′,).
        weights_in: (N, c).
        weights_out: (N′, c).

    Returns:
        "auroc", "aupr", "fpr95", each (c,). Ties count one half in the AUROC; AUPR is average precision.
    """
    scores = np.concatenate([scores_in, scores_out])
    order = np.argsort(-scores, kind="stable")
    last = _last_of_ties(scores[order])
    is_out = order >= len(scores_in)
    c = weights_in.shape[1]
    w = np.zeros((len(scores), c))
    w[is_out] = weights_out[order[is_out] - len(scores_in)]
    true_positives = np.cumsum(w, axis=0)[last]
    w[:] = 0.0
    w[~is_out] = weights_in[order[~is_out]]
    false_positives = np.cumsum(w, axis=0)[last]
    positives, negatives = true_positives[-1], false_positives[-1]
    new_positives = np.diff(true_positives, axis=0, prepend=0.0)
    new_negatives = np.diff(false_positives, axis=0, prepend=0.0)
    auroc = (new_negatives * (true_positives - 0.5 * np.diff(true_positives, axis=0, prepend=0.0))).sum(axis=0)
    flagged = true_positives + false_positives
    precision = np.divide(true_positives, flagged, out=np.zeros_like(flagged), where=flagged > 0)
    reached = (true_positives >= 0.95 * positives - 1e-9).argmax(axis=0)
    return {
        "auroc": auroc / (positives * negatives),
        "aupr": (new_positives * precision).sum(axis=0) / positives,
        "fpr95": false_positives[reached, np.arange(c)] / negatives,
    }


def _last_of_ties(values: Array) -> npt.NDArray[np.intp]:
    """Index of the last element of each run of equal values in a sorted array."""
    return np.flatnonzero(np.append(values[1:] != values[:-1], True))

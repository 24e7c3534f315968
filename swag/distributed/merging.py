"""What ranks found, put together exactly: rows after rows, members with members, scores added up.

Results are small beside a model, so every rank gets all of them and adds them up in rank order: the same
bits on every rank, and those of one process that does it by hand.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from swag.arguments import tensor_of
from swag.distributed.ranks import Ranks
from swag.errors import InputError
from swag.metrics.streaming import StreamingClassification
from swag.metrics.streaming_regression import StreamingRegression
from swag.predictive import CategoricalPredictive, GaussianPredictive, PointwisePredictive

P = TypeVar("P", CategoricalPredictive, GaussianPredictive, PointwisePredictive)
Scores = TypeVar("Scores", StreamingClassification, StreamingRegression)

# What a predictive keeps a row of for each member, with the rows in the second dimension.
_OF_MEMBERS = {"members", "_means", "_variances"}
_N_SAMPLES, _INDICES = "n_samples", "indices"


def gather_rows(predictive: P, indices: Tensor | None = None, *, group: dist.ProcessGroup | None = None) -> P:
    """The predictive of all ranks' rows, on every rank; collective.

    Args:
        predictive: of this rank's rows, all from equally many members.
        indices: (N,) int64, the rows' numbers in the whole set. The result is in their order, and a row that
            several ranks have (a `DistributedSampler` repeats some to make ranks equal) is there once. None:
            in rank order.
        group: the processes; None for all.

    Raises:
        InputError: on all ranks: indices that do not fit, or ranks that average differently.

    >>> rows = CategoricalPredictive.from_logits(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    >>> gather_rows(rows, torch.tensor([1, 0])).probs.argmax(1).tolist()
    [0, 1]
    """
    ranks = Ranks(group)

    def make() -> dict[str, Tensor]:
        if indices is not None and (indices.shape != (predictive.n_rows,) or indices.is_floating_point()):
            raise InputError(
                f"indices: got shape {tuple(indices.shape)}; pass (N={predictive.n_rows},) int64"
            )
        found = _tensors(predictive)
        return found if indices is None else {**found, _INDICES: indices.long()}

    mine = ranks.alike(
        "predictive",
        make,
        lambda found: [type(predictive).__name__, f"n_samples={predictive.n_samples}", *sorted(found)],
    )
    found = ranks.exchange(mine)
    whole = type(predictive).concatenate([_rebuilt(predictive, theirs) for theirs in found])
    if indices is None:
        return whole
    numbers = torch.cat([theirs[_INDICES] for theirs in found])
    order = numbers.argsort(stable=True)
    fresh = torch.ones(len(order), dtype=torch.bool, device="cpu")
    fresh[1:] = numbers[order][1:] != numbers[order][:-1]
    return _rows(whole, order[fresh])


def merge_members(predictive: P, *, group: dist.ProcessGroup | None = None) -> P:
    """The predictive of all ranks' members for the same rows, on every rank; collective.

    For workers that have members of their own, as in MultiSWAG: weighted by their numbers of members.

    Args:
        predictive: of the same rows on every rank.
        group: the processes; None for all.

    Raises:
        InputError: on all ranks: other rows or classes.
    """
    ranks = Ranks(group)
    mine = ranks.alike(
        "predictive",
        lambda: _tensors(predictive),
        lambda found: [type(predictive).__name__, f"{predictive.n_rows} rows", *sorted(found)],
    )
    parts: list[Any] = [_rebuilt(predictive, theirs) for theirs in ranks.exchange(mine)]
    total = parts[0]
    for part in parts[1:]:
        total = _merged(total, part) if isinstance(part, GaussianPredictive) else total.merge(part)
    return total


def merge_scores(scores: Scores, *, group: dist.ProcessGroup | None = None) -> Scores:
    """Streaming scores of all ranks' rows, on every rank; collective, some hundred bytes.

    The same bits as `merge` in rank order. `scores` itself is unchanged.

    Raises:
        InputError: on all ranks: made with other bins or levels.

    >>> scores = StreamingClassification()
    >>> scores.update(torch.tensor([[0.8, 0.2]]), torch.tensor([0]))
    >>> merge_scores(scores).compute().accuracy
    1.0
    """
    ranks = Ranks(group)
    state = scores.state_dict()
    settings = {
        name: state[name] for name in ("n_bins", "level") if name in state
    }  # the rest are counts and sums
    ranks.alike("scores", lambda: settings, lambda own: [type(scores).__name__, *map(str, own.items())])
    tensors = {name: _tensor(value) for name, value in state.items()}
    total = type(scores)(**settings)
    for theirs in ranks.exchange(tensors):
        own = type(scores)(**settings)
        kinds = {name: type(value) for name, value in state.items()}
        own.load_state_dict(
            {name: t if kinds[name] is Tensor else kinds[name](t.item()) for name, t in theirs.items()}
        )
        total.merge(own)
    return total


def _tensor(value: Any) -> Tensor:
    return (
        torch.tensor(value, dtype=torch.float64, device="cpu")
        if isinstance(value, float)
        else tensor_of(value)
    )


def _tensors(
    predictive: CategoricalPredictive | GaussianPredictive | PointwisePredictive,
) -> dict[str, Tensor]:
    found = {name: value for name, value in vars(predictive).items() if isinstance(value, Tensor)}
    return {**found, _N_SAMPLES: torch.tensor(predictive.n_samples, device="cpu")}


def _rebuilt(like: P, tensors: dict[str, Tensor]) -> P:
    values = {name: None for name in vars(like)} | {
        name: value for name, value in tensors.items() if name not in (_N_SAMPLES, _INDICES)
    }
    return _made(like, {**values, _N_SAMPLES: int(tensors[_N_SAMPLES])})


def _rows(predictive: P, rows: Tensor) -> P:
    values = {
        name: value.index_select(1 if name in _OF_MEMBERS else 0, rows)
        if isinstance(value, Tensor)
        else value
        for name, value in vars(predictive).items()
    }
    return _made(predictive, values)


def _made(like: P, values: dict[str, Any]) -> P:
    made = type(like).__new__(type(like))
    for name, value in values.items():
        object.__setattr__(made, name, value)  # one of the two is frozen
    return made


def _merged(one: GaussianPredictive, other: GaussianPredictive) -> GaussianPredictive:
    """Both sets of members: moments weighted by their numbers, as Chan's formula has it."""
    a, b = one.n_samples, other.n_samples
    n, shift = a + b, other.mean - one.mean
    kept = "_means" in vars(one) and one._means is not None and other._means is not None
    return _made(
        one,
        {
            "n_samples": n,
            "mean": one.mean + shift * (b / n),
            "aleatoric": one.aleatoric + (other.aleatoric - one.aleatoric) * (b / n),
            "epistemic": (a * one.epistemic + b * other.epistemic + shift.square() * (a * b / n)) / n,
            "_means": torch.cat([one.member_means, other.member_means]) if kept else None,
            "_variances": torch.cat([one.member_variances, other.member_variances]) if kept else None,
        },
    )

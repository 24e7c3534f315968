"""Losses and errors of many weight vectors, each with batch-norm statistics of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from swag.batches import Forward, check_loader, is_iterator, length
from swag.batchnorm import BatchNormPolicy, ExactBatchNorm
from swag.draws import Source, layers_to_refresh
from swag.errors import InputError
from swag.forwarding import Forwarding
from swag.geometry.targets import Targets, targets_of
from swag.parameters import Layout
from swag.posterior import Empirical
from swag.progress import track
from swag.shadow import Shadow
from swag.strategy import Strategy

# Weight vectors scored in one go: as many as take half a gigabyte in float32, at most this many.
_MOST, _WEIGHTS = 32, 1 << 27


def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the first maximum of logits (N, C) is not the label (N,), else 0: (N,); its mean is the error.

    >>> misclassified(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])).tolist()
    [0.0, 1.0]
    """
    return (logits.argmax(1) != labels).to(torch.float32)


@final
@dataclass(frozen=True)
class Measure:
    """Something that is averaged over the rows of a data set.

    Args:
        function: function(outputs, targets) → one value a row (N,), or their mean as a scalar; such as
            `misclassified` or `F.cross_entropy`.
        loader: batches of (inputs, targets). It is read again and again, so it should neither shuffle nor
            augment: every point of a picture must see the same rows. Measures with the same loader share its
            forward passes.
    """

    function: Callable[[Any, Any], Tensor]
    loader: Iterable[Any]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InputError(
                f"function: got a {type(self.function).__name__}; pass function(outputs, targets)"
            )
        check_loader("loader", self.loader)
        check_rereadable("loader", self.loader)


def check_rereadable(name: str, loader: Iterable[Any]) -> None:
    """Raises InputError for an iterator: another pass would find nothing."""
    if is_iterator(loader):
        raise InputError(
            f"{name}: is an iterator, which can be read once; pass a DataLoader or a list of batches"
        )


@final
class Scorer:
    r"""Scores weight vectors: each measure is the mean of function(outputs, targets) over its loader's rows.

    Batch-norm layers get, for each vector, the statistics that `refresh_batchnorm_` gives; `bn_loader` is
    read once for all vectors of a chunk, batches outside, vectors inside. The model is copied, never touched.

    Args:
        model: the architecture, and the values of what a layout does not cover.
        measures: by name.
        bn_loader: training batches for the batch-norm statistics, in a fixed order, without augmentation;
            needed where the model has batch norm.
        batchnorm: as in `Ensemble`.
        forward: forward(model, batch) → outputs; by default the first element of a tuple, a dict by keyword.
        targets: targets(batch); by default the second element of a tuple, a dict's "labels".
        autocast: as in `Ensemble`.
        strategy: as in `Ensemble`: `Vmapped(chunk)` runs several vectors at once, which pays for small
            nets without convolutions (the batch-norm pass goes one by one in any case).
        chunk: weight vectors in memory together; by default half a gigabyte of them, at most 32.

    Raises:
        InputError: no measures, batch norm without `bn_loader`, a loader that can be read once only.

    >>> x, y = torch.eye(2), torch.tensor([0, 1])
    >>> scorer = Scorer(nn.Linear(2, 2, bias=False), {"error": Measure(misclassified, [(x, y)])})
    >>> scorer(torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]]))["error"].tolist()
    [0.0, 1.0]
    """

    def __init__(
        self,
        model: nn.Module,
        measures: Mapping[str, Measure],
        *,
        bn_loader: Iterable[Any] | None = None,
        batchnorm: BatchNormPolicy | None = None,
        forward: Forward | None = None,
        targets: Targets | None = None,
        autocast: torch.dtype | None = None,
        strategy: Strategy | None = None,
        chunk: int | None = None,
    ) -> None:
        if not isinstance(measures, Mapping) or len(measures) == 0:
            raise InputError(f"measures: got {measures!r:.80}; pass Measure(function, loader) by name")
        for name, measure in measures.items():
            if not isinstance(measure, Measure):
                raise InputError(
                    f"measures: {name!r} is a {type(measure).__name__}; pass Measure(function, loader)"
                )
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, Integral) or chunk < 1):
            raise InputError(f"chunk: got {chunk!r}; pass an integer of at least 1")
        self.measures: dict[str, Measure] = dict(measures)
        self._policy = batchnorm if batchnorm is not None else ExactBatchNorm()
        self._refreshed = layers_to_refresh(model, self._policy, bn_loader)
        if self._refreshed and bn_loader is not None:
            check_loader("bn_loader", bn_loader)
            check_rereadable("bn_loader", bn_loader)
        self._model, self._bn_loader = model, bn_loader
        self._forward, self._targets = forward, targets or targets_of
        self._autocast, self._strategy, self._chunk = autocast, strategy, chunk

    @property
    def names(self) -> tuple[str, ...]:
        """The measures."""
        return tuple(self.measures)

    def chunk_for(self, size: int) -> int:
        """How many weight vectors of D = size are scored together."""
        return self._chunk or max(1, min(_MOST, _WEIGHTS // size))

    def __call__(self, thetas: Tensor, layout: Layout | None = None) -> dict[str, NDArray[np.float64]]:
        """Every measure of every weight vector.

        Args:
            thetas: (S, D).
            layout: what D is made of; by default the model's trainable parameters.

        Returns:
            (S,) by measure, float64; NaN or infinite where a function gave that.

        Raises:
            InputError: D differs, a function returned something else, weights that are not finite.
        """
        points = Empirical(thetas)
        layout = self._layout_for(points, layout)
        parts = [self._score(layout, piece) for piece in points.samples.split(self.chunk_for(layout.size))]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.measures}

    def _layout_for(self, points: Empirical, layout: Layout | None) -> Layout:
        layout = layout or Layout.of(self._model)
        size = points.samples.shape[1]
        if layout.size != size:
            raise InputError(
                f"thetas: D={size}, the model's trainable parameters are D={layout.size}; pass the layout "
                "that the weights belong to, or the model they come from"
            )
        return layout

    def _score(self, layout: Layout, thetas: Tensor) -> dict[str, NDArray[np.float64]]:
        source = Source(Empirical(thetas), 0, self._policy, self._refreshed, self._bn_loader)
        # A fresh copy of the model each time: a functional call under vmap leaves batched tensors behind in
        # modules that the model has under two names.
        members = source.first(Shadow(self._model, layout), len(thetas))
        forwarding = Forwarding(members, self._forward, autocast=self._autocast, strategy=self._strategy)
        source.refresh_(members, forwarding)
        sums = {name: np.zeros(len(thetas)) for name in self.measures}
        for loader, names in self._by_loader():
            rows = 0
            for batch in track(loader, ", ".join(names), total=length(loader)):
                rows += self._add(forwarding, batch, names, sums)
            if rows == 0:
                raise InputError(f"measures: the loader of {names[0]!r} gave no rows; pass one with data")
            for name in names:
                sums[name] /= rows
        return sums

    def _by_loader(self) -> list[tuple[Iterable[Any], list[str]]]:
        """Each loader once, with the measures that read it."""
        groups: dict[int, tuple[Iterable[Any], list[str]]] = {}
        for name, measure in self.measures.items():
            groups.setdefault(id(measure.loader), (measure.loader, []))[1].append(name)
        return list(groups.values())

    def _add(
        self,
        forwarding: Forwarding,
        batch: Any,
        names: list[str],
        sums: dict[str, NDArray[np.float64]],
    ) -> int:
        """Adds a batch's values, summed over rows, for every member; returns the rows."""
        targets = self._targets(batch)
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        rows = 0

        def consume(outputs: Tensor) -> None:
            nonlocal rows
            rows = len(outputs)
            aimed = targets.to(outputs.device) if isinstance(targets, Tensor) else targets
            for name in names:
                found[name].append(_row_sum(name, self.measures[name].function(outputs, aimed), rows))

        forwarding.each(batch, consume)
        for name, values in found.items():
            sums[name] += torch.stack(values).cpu().numpy()
        return rows


def _row_sum(name: str, value: Any, rows: int) -> Tensor:
    """Σ over rows of a measure's values, float64, without waiting for the device."""
    if isinstance(value, Tensor) and value.shape == (rows,):
        return value.double().sum()
    if isinstance(value, Tensor) and value.ndim == 0:
        return value.double() * rows
    came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise InputError(
        f"measures: {name!r} returned {came} for {rows} rows; return one value a row (N,), or their mean ()"
    )

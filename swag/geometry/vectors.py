"""Points of weight space as people have them (models, posteriors, vectors) as vectors of one layout."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from swag.errors import InputError
from swag.parameters import Layout, named_parameters
from swag.posterior import Posterior
from swag.selection import Select

# A model's weights, a posterior's mean, or θ (D,) itself.
Point = nn.Module | Posterior | Tensor


def as_vectors(
    points: Mapping[str, Point], *, layout: Layout | None = None, select: Select = None
) -> tuple[list[Tensor], Layout | None]:
    """Each point as θ (D,) of its own memory, of one dtype (float32, float64) and device; and the layout.

    Args:
        points: models, posteriors (their means) or vectors, by the name that an error should give them.
        layout: of the vectors; by default that of the first posterior or model among the points.
        select: which of a model's parameters are meant, where the layout comes from a model.

    Raises:
        InputError: a point of another kind, architectures that differ, values that are not finite.
    """
    if layout is None:
        layouts_there = (getattr(p, "layout", None) for p in points.values() if _is_posterior(p))
        layout = next((known for known in layouts_there if known is not None), None)
    models = {name: point for name, point in points.items() if isinstance(point, nn.Module)}
    layouts = {name: Layout.of(model, select) for name, model in models.items()} if layout is None else {}
    for name, own in layouts.items():
        first = next(iter(layouts))
        difference = layouts[first].first_difference(own)
        if difference is not None:
            raise InputError(
                f"{name}: its architecture differs from that of {first} ({difference}): pass models of one "
                "architecture"
            )
    layout = layout or next(iter(layouts.values()), None)
    for name in list(models)[1:]:
        assert layout is not None
        _check_rest_alike(models, next(iter(models)), name, layout)
    vectors = {name: _vector(name, point, layout) for name, point in points.items()}
    first_name, first_vector = next(iter(vectors.items()))
    # Directions and lengths want float32 at least, whatever the weights come in.
    dtype = torch.promote_types(first_vector.dtype, torch.float32)
    for name, vector in vectors.items():
        if vector.numel() != first_vector.numel():
            raise InputError(
                f"{name}: has D={vector.numel()} weights, {first_name} has {first_vector.numel()}: pass "
                "points of one architecture"
            )
        dtype = torch.promote_types(dtype, vector.dtype)
    return [vector.to(first_vector.device, dtype) for vector in vectors.values()], layout


def _check_rest_alike(models: Mapping[str, nn.Module], first: str, second: str, layout: Layout) -> None:
    """Raises InputError where parameters outside the layout differ between two of the models."""
    others = dict(named_parameters(models[second]))
    for name, parameter in named_parameters(models[first]):
        if name in layout.names:
            continue
        other = others.get(name)
        if other is None or other.shape != parameter.shape:
            raise InputError(
                f"{second}: has no parameter '{name}' as {first} has; pass models of one architecture"
            )
        if not torch.equal(parameter.detach().cpu(), other.detach().cpu()):
            raise InputError(
                f"{second}: its parameter '{name}' is not selected (frozen, or left out by select=) and "
                f"differs from that of {first}, so weights between them would be no such models: select it "
                "or copy it over"
            )


def _is_posterior(point: Point) -> bool:
    return not isinstance(point, nn.Module | Tensor) and callable(getattr(point, "sample", None))


def _vector(name: str, point: Point, layout: Layout | None) -> Tensor:
    if isinstance(point, nn.Module):
        assert layout is not None
        try:
            vector = layout.flatten(point)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    elif isinstance(point, Tensor):
        vector = point.detach().clone()
    elif _is_posterior(point):
        difference = layout.first_difference(point.layout) if layout and point.layout else None
        if difference is not None:
            raise InputError(f"{name}: its layout differs ({difference}): pass points of one architecture")
        vector = point.mean.detach().clone()
    else:
        raise InputError(
            f"{name}: got a {type(point).__name__}; pass a model, a posterior or a vector of weights (D,)"
        )
    if vector.ndim != 1 or vector.numel() == 0 or not vector.is_floating_point():
        raise InputError(
            f"{name}: got shape {tuple(vector.shape)} {vector.dtype}; pass floating-point weights (D,)"
        )
    if layout is not None and vector.numel() != layout.size:
        raise InputError(f"{name}: has {vector.numel()} weights, expected D={layout.size}")
    if not bool(vector.isfinite().all()):
        where = int((~vector.isfinite()).nonzero()[0, 0])
        place = f"parameter '{layout.name_at(where)}'" if layout else f"theta[{where}]"
        raise InputError(f"{name}: not finite at {place}; check the training it comes from")
    return vector

"""What the quantizers accept, and how a refused input is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor, nn

from swag import moments
from swag.errors import InputError
from swag.lowprecision.formats import Format
from swag.noise import take_seed

LONGEST_WORD = 16
# Bits of a significand: a code of more bits cannot be written in the dtype.
_SIGNIFICAND = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def check_word(name: str, wl: int, *, least: int = 1, most: int = LONGEST_WORD) -> int:
    """The word length as a plain int.

    Raises:
        InputError: not a whole number from `least` to `most`.
    """
    whole = isinstance(wl, int | Integral) and not isinstance(wl, bool)
    if not whole or not least <= wl <= most:
        raise InputError(f"{name}: got {wl!r}; pass a word length of {least} to {most} bits")
    return int(wl)


def check_tensor(x: Tensor, wl: int) -> None:
    """Raises InputError for what is no real floating-point tensor, or cannot hold codes of wl bits."""
    if not isinstance(x, Tensor):
        raise InputError(f"x: got a {type(x).__name__}; pass a floating-point tensor")
    if x.dtype not in _SIGNIFICAND:
        raise InputError(
            f"x: got dtype {x.dtype}; only real floating-point tensors can be rounded to a grid: convert it "
            "with x.float(), or leave it out"
        )
    if wl > _SIGNIFICAND[x.dtype]:
        raise InputError(
            f"x: {x.dtype} has {_SIGNIFICAND[x.dtype]} significant bits, too few for codes of {wl}; "
            "pass x.float()"
        )


def check_rounding(rounding: str) -> None:
    """Raises InputError for a rounding that is neither "stochastic" nor "nearest"."""
    if rounding not in ("stochastic", "nearest"):
        raise InputError(f"rounding: got {rounding!r}; pass 'stochastic' or 'nearest'")


def check_dim(dim: int | None, ndim: int) -> int | None:
    """The dimension counted from the front.

    Raises:
        InputError: the tensor has no such dimension.
    """
    if dim is None:
        return None
    whole = isinstance(dim, int | Integral) and not isinstance(dim, bool)
    if not whole or not -ndim <= dim < ndim:
        raise InputError(f"dim: got {dim!r} for a tensor of {ndim} dimensions; pass one of them, or None")
    return int(dim) % ndim


def seed_for(rounding: str, generator: torch.Generator | None) -> int | None:
    """One seed from the generator where the rounding is stochastic, None where it is to nearest."""
    check_rounding(rounding)
    return take_seed(generator) if rounding == "stochastic" else None


def make_for(
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer], model: nn.Module
) -> torch.optim.Optimizer:
    """The optimizer that the caller's function makes of the model's parameters.

    Raises:
        InputError: no function, or one that gives no optimizer, or one of another model's parameters: the
            caller's own model is not the one that is trained.
    """
    if not callable(make_optimizer):
        raise InputError(
            f"make_optimizer: got a {type(make_optimizer).__name__}; pass a function such as "
            "lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
        )
    made = make_optimizer(model.parameters())
    if not isinstance(made, torch.optim.Optimizer):
        raise InputError(f"make_optimizer: gave a {type(made).__name__}; it has to return a torch optimizer")
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in own for group in made.param_groups for parameter in group["params"]):
        raise InputError(
            "make_optimizer: gave an optimizer of none of the parameters that it was passed; a copy of the "
            "model is trained: use the argument, as in lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
        )
    return made


def check_weights(parameters: Mapping[int, Tensor], forms: Sequence[Format]) -> None:
    """Raises InputError that names the first parameter (by its place) that the formats cannot round."""
    for index, p in parameters.items() if forms else ():
        try:
            for form in forms:
                check_tensor(p, form.wl)
        except InputError as error:
            raise InputError(f"weights: parameter {index} (shape {tuple(p.shape)}): {error}") from None
        if moments.first_non_finite([p.detach()]) is not None:
            raise InputError(
                f"weights: parameter {index} (shape {tuple(p.shape)}) holds NaN or infinite values; nothing "
                "was changed: start from a model without them"
            )


def check_gradients(gradients: Mapping[int, Tensor], form: Format | None) -> None:
    """Raises InputError that names the first gradient (by its parameter's place) that cannot be used."""
    for index, gradient in gradients.items():
        if form is not None and gradient.is_sparse:
            raise InputError(
                f"gradients: that of parameter {index} is sparse; pass sparse=False to the embedding, or "
                "name the parameter in skip="
            )
    # Whether or not they are rounded: after the base optimizer's step it would be too late.
    bad = moments.first_non_finite([g._values() if g.is_sparse else g for g in gradients.values()])
    if bad is not None:
        index = list(gradients)[bad]
        raise InputError(
            f"gradients: that of parameter {index} (shape {tuple(gradients[index].shape)}) holds NaN or "
            "infinite values; nothing was changed: skip this step, or lower the learning rate"
        )


def refuse_nan(x: Tensor) -> None:
    """Raises InputError that counts the NaNs of x."""
    n = int(x.isnan().sum())
    raise InputError(
        f"x: holds {n} NaN{'s' if n > 1 else ''} of {x.numel():,} values; a NaN has no place on a grid: look "
        "for what made it (a learning rate too high, a division by zero)"
    )

"""Real integer inference on the CPU: layers that multiply int8 weights with uint8 activations.

By oneDNN's kernels in torch (`torch.ops.onednn`), the ones that torch's compiler emits for quantised graphs;
torch.ao.quantization, which wrapped them before, is deprecated. On processors with VNNI or AMX they multiply
four or more times as many numbers a cycle as float32 does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import cache
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from swag.batches import Forward, check_loader, feed
from swag.batchnorm import eval_mode
from swag.errors import InputError, StateError
from swag.lowprecision.formats import Format
from swag.lowprecision.integers import Integers, to_integers
from swag.lowprecision.layers import quantisable_layers
from swag.lowprecision.model import plain_copy, weight_quantizers
from swag.lowprecision.symmetric import SymmetricUniform
from swag.parameters import unwrap
from swag.progress import track

_LARGEST = 255


@cache
def has_int8() -> bool:
    """Whether this torch has the integer kernels: seen by multiplying two small matrices."""
    try:
        layer = nn.Linear(8, 8)
        small = Int8Layer(layer, to_integers(layer.weight, SymmetricUniform(8, dim=0)), -1.0, 1.0)
        return bool((small(torch.zeros(2, 8, device="cpu")) - layer.bias).abs().max() < 1e-3)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def int8_model(
    model: nn.Module,
    loader: Iterable[Any],
    form: Format | None = None,
    *,
    forward: Forward | None = None,
    skip: Iterable[str] = (),
) -> nn.Module:
    r"""A copy of the model for inference whose linear and 2-d convolutional layers compute in integers.

        output = s_x·s_w·Σ (q_x − z)·q_w + bias,   q_x = clamp(round(x/s_x) + z, 0, 255)

    with q_w (int8) and s_w of each output channel from `form`, and s_x, z of each layer such that the
    smallest and largest value that it saw in `loader` fit. Between the layers values are float32.

    Args:
        model: a float32 model on the CPU; it is not changed. Of one that `quantize_model` gave, the rounded
            weights with their grids are used where they have 8 bits or less.
        loader: some batches of training data, to see the activations' ranges. Later values beyond them are
            cut off, and a NaN, which integers cannot express, becomes some number.
        form: of the weights, 8 bits or less: one step for all of a weight, or one an output channel. By
            default `SymmetricUniform(8, dim=0)`; `BlockFloatingPoint(8, dim=0)` is exact for weights on
            that grid.
        forward: forward(model, batch) runs one batch.
        skip: names of modules to leave in float32.

    Returns:
        The copy, in eval mode. It has no gradients, and is neither trained nor saved: save integers with
        `save_integers`.

    Raises:
        InputError: no such layer, an empty loader, a format of more than 8 bits, a model not in float32 on
            the CPU, activations that are not finite.
        StateError: this torch has no integer kernels.

    >>> if has_int8():
    ...     small = int8_model(nn.Linear(8, 4), [torch.randn(16, 8)])
    ...     print(tuple(small(torch.randn(2, 8)).shape))
    ... else:
    ...     print((2, 4))
    (2, 4)
    """
    if not has_int8():
        raise StateError("int8_model: this torch has no oneDNN integer kernels; predict with the float model")
    form = SymmetricUniform(8, dim=0) if form is None else form
    if not isinstance(form, Format) or form.wl > 8:
        raise InputError(f"form: got {form!r}; pass a format of 8 bits or less")
    kept = weight_quantizers(unwrap(model))
    model = plain_copy(model)
    other = next((p for p in model.parameters() if p.dtype != torch.float32 or p.device.type != "cpu"), None)
    if other is not None:
        raise InputError(f"model: has {other.dtype} on {other.device}; pass a float32 model on the CPU")
    chosen = {
        name: layer
        for name, layer in quantisable_layers(model, skip=skip).items()
        if _computes_in_integers(layer)
    }
    if not chosen:
        raise InputError("model: has no linear or 2-d convolutional layer to compute in integers")
    ranges = _ranges(model, chosen, loader, forward)
    small = copy.deepcopy(model).eval()
    for name, layer in chosen.items():
        if name not in ranges:  # never reached
            continue
        own, steps = form, None
        quantizer = kept.get(f"{name}.weight" if name else "weight")
        if quantizer is not None and quantizer.form.wl <= 8:
            own, steps = quantizer.form, quantizer.steps
        integers = to_integers(cast(Tensor, layer.weight), own, steps)
        replacement = Int8Layer(layer, integers, *ranges[name])
        if not name:
            return replacement
        # Under all of its names.
        for other, module in list(model.named_modules(remove_duplicate=False)):
            if module is layer:
                parent, _, leaf = other.rpartition(".")
                setattr(small.get_submodule(parent), leaf, replacement)
    return small.requires_grad_(False)


@final
class Int8Layer(nn.Module):
    """A linear or 2-d convolutional layer on integers.

    Args:
        layer: nn.Linear or nn.Conv2d, for its bias and geometry.
        integers: its weight.
        low: the smallest input to expect.
        high: the largest.
    """

    def __init__(self, layer: nn.Module, integers: Integers, low: float, high: float) -> None:
        super().__init__()
        n_outputs = integers.shape[0]
        if integers.steps.numel() not in (1, n_outputs):
            raise InputError(
                f"form: gives {integers.steps.numel()} steps for {n_outputs} outputs; pass one with dim=0 or "
                "None"
            )
        # Zero has to be a code, which padding is.
        low, high = min(low, 0.0), max(high, 0.0)
        self._scale = (high - low) / _LARGEST or 1.0
        self._zero = round(-low / self._scale)
        self._offset = torch.tensor(self._zero + 0.5, device="cpu")
        self._steps = integers.steps.reshape(-1).expand(n_outputs).float().contiguous()
        self._zeros = torch.zeros(n_outputs, dtype=torch.int64, device="cpu")
        bias = cast(Tensor | None, layer.bias)
        self._bias = None if bias is None else bias.detach().clone()
        codes = integers.codes.view(integers.shape).contiguous()
        self._geometry: tuple[Any, ...] | None = None
        ops: Any = torch.ops.onednn
        if isinstance(layer, nn.Conv2d):
            self._geometry = (
                list(layer.stride),
                _padding(layer),
                list(layer.dilation),
                layer.groups,
            )
            self._packed = ops.qconv_prepack(codes, self._steps, self._scale, self._zero, *self._geometry)
        else:
            self._packed = ops.qlinear_prepack(codes, None)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, float32."""
        # The conversion to bytes cuts off, which after adding ½ rounds.
        shifted = torch.add(self._offset, x.detach(), alpha=1.0 / self._scale)
        codes = shifted.clamp_(0, _LARGEST).to(torch.uint8)
        weight = (codes, self._scale, self._zero, self._packed, self._steps, self._zeros, self._bias)
        ops: Any = torch.ops.onednn
        if self._geometry is not None and x.ndim == 3:  # one image, which torch's own layer takes too
            return self(x.unsqueeze(0)).squeeze(0)
        if self._geometry is None:
            return ops.qlinear_pointwise(*weight, 1.0, 0, torch.float32, "none", [], "")
        return ops.qconv2d_pointwise(*weight, *self._geometry, 1.0, 0, torch.float32, "none", [], "")

    def extra_repr(self) -> str:
        """Outputs, and the activations' grid."""
        return f"{len(self._steps)} outputs, input step {self._scale:.3g}, zero at {self._zero}"


def _computes_in_integers(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros" and _padding(layer) is not None
    return isinstance(layer, nn.Linear)


def _padding(layer: nn.Conv2d) -> list[int] | None:
    """Zeros at either side, by dimension; None where an even kernel's "same" needs more at one side."""
    if not isinstance(layer.padding, str):
        return list(layer.padding)
    around = [0, 0]
    if layer.padding == "same":
        around = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return None if any(total % 2 for total in around) else [total // 2 for total in around]


def _ranges(
    model: nn.Module, layers: dict[str, nn.Module], loader: Iterable[Any], forward: Forward | None
) -> dict[str, tuple[float, float]]:
    """The smallest and largest input of every layer that was reached."""
    check_loader("loader", loader)
    found: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["input"]
            low, high = (value.item() for value in torch.aminmax(x))
            if not (abs(low) < float("inf") and abs(high) < float("inf")):
                raise InputError(f"loader: the input of layer '{name}' holds NaN or infinite values")
            before = found.get(name, (low, high))
            found[name] = (min(before[0], low), max(before[1], high))

        return hook

    handles = [
        layer.register_forward_pre_hook(watch(name), with_kwargs=True) for name, layer in layers.items()
    ]
    run, n_batches = forward or feed, 0
    try:
        with torch.no_grad(), eval_mode(model):
            for batch in track(loader, "activation ranges"):
                run(model, batch)
                n_batches += 1
    finally:
        for handle in handles:
            handle.remove()
    if n_batches == 0:
        raise InputError("loader: gave no batch; pass some batches of training data")
    return found

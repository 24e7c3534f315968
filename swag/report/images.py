"""The most uncertain inputs, as small PNG pictures that lie inside the page."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from swag.errors import InputError
from swag.metrics.inputs import as_tensor
from swag.report.inputs import Labels
from swag.report.results import UncertainInput

Array = npt.NDArray[np.float64]

_MOST = 8
_SIDE = 96


def uncertain_inputs(
    images: Any, probs: Array, entropy: Array, labels: Labels, names: Sequence[str]
) -> tuple[UncertainInput, ...]:
    """The rows of highest predictive entropy; none without images.

    Args:
        images: (N, H, W), (N, C, H, W) or (N, H, W, C) with C of 1 or 3, any numeric range, or None.
        probs: (N, C).
        entropy: (N,).
        labels: (N,).
        names: One a class.

    Raises:
        InputError: another shape, or another number of rows.
    """
    if images is None:
        return ()
    pixels = as_tensor("images", images).cpu()
    if pixels.ndim not in (3, 4) or (pixels.ndim == 4 and not {pixels.shape[1], pixels.shape[3]} & {1, 3}):
        raise InputError(
            f"images has shape {tuple(pixels.shape)}; give (N, H, W), (N, 1 or 3, H, W) or (N, H, W, 1 or 3)"
        )
    if len(pixels) != len(probs):
        raise InputError(f"images has {len(pixels)} rows, the predictions {len(probs)}; give the same rows")
    if pixels.ndim == 4 and pixels.shape[1] in (1, 3):
        pixels = pixels.movedim(1, -1)
    rows = np.argsort(-entropy, kind="stable")[:_MOST]
    shown = pixels[rows.tolist()].double().numpy()
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    scaled = np.nan_to_num((shown - low) / (high - low if high > low else 1.0))
    return tuple(
        UncertainInput(
            row=int(row),
            label=names[labels[row]],
            prediction=names[int(probs[row].argmax())],
            confidence=float(probs[row].max()),
            entropy=float(entropy[row]),
            image=_data_uri(np.round(255 * picture).astype(np.uint8)),
        )
        for row, picture in zip(rows, scaled, strict=True)
    )


def _data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    picture = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)
    if max(picture.size) > _SIDE:
        picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

r"""Low precision: training with numbers of a few bits, and averages that make up for it.

    fixed_point, block_floating_point, symmetric_uniform     tensors rounded to a grid
    FixedPoint, BlockFloatingPoint, SymmetricUniform         the same as formats: what to round to
    quantize_model, LowPrecisionOptimizer, low_precision     SWALP: any model, any optimizer
    sqwa                                                     SQWA's five phases, to a model of 2 bits
    save_integers, load_integers, int8_model                 what is left to ship

The average of a low-precision run is an ordinary `swag.Collector`'s, in full precision; `.swag()` of it gives
SWAG. Sources: Yang et al. 2019 (SWALP), arXiv:1904.11943; Shin, Boo & Sung 2020 (SQWA), arXiv:2002.00343.
"""

from swag.lowprecision.block import BlockFloatingPoint, block_floating_point
from swag.lowprecision.export import Sizes, load_integers, save_integers
from swag.lowprecision.fixed import FixedPoint, fixed_point
from swag.lowprecision.formats import Format
from swag.lowprecision.int8 import has_int8, int8_model
from swag.lowprecision.integers import Integers, pack, to_integers, unpack
from swag.lowprecision.kernel import compiled_kernel
from swag.lowprecision.model import plain_copy, quantize_model
from swag.lowprecision.optimizer import LowPrecisionOptimizer
from swag.lowprecision.quantizer import Quantizer, WeightQuantizer
from swag.lowprecision.recipe import SQWA, sqwa
from swag.lowprecision.symmetric import SymmetricUniform, symmetric_steps, symmetric_uniform
from swag.lowprecision.training import Precision, low_precision

__all__ = [
    "SQWA",
    "BlockFloatingPoint",
    "FixedPoint",
    "Format",
    "Integers",
    "LowPrecisionOptimizer",
    "Precision",
    "Quantizer",
    "Sizes",
    "SymmetricUniform",
    "WeightQuantizer",
    "block_floating_point",
    "compiled_kernel",
    "fixed_point",
    "has_int8",
    "int8_model",
    "load_integers",
    "low_precision",
    "pack",
    "plain_copy",
    "quantize_model",
    "save_integers",
    "sqwa",
    "symmetric_steps",
    "symmetric_uniform",
    "to_integers",
    "unpack",
]

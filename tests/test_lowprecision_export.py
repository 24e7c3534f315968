"""Integer weights on disk: exact, packed, tied tensors once, damage named; and computing with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from swag.errors import FileError, InputError, StateError
from swag.lowprecision import (
    BlockFloatingPoint,
    FixedPoint,
    Format,
    SymmetricUniform,
    has_int8,
    int8,
    int8_model,
    load_integers,
    pack,
    plain_copy,
    quantize_model,
    save_integers,
    to_integers,
    unpack,
)
from swag.tensorfile import TensorFile, write_tensors
from tests.cases import CASES, Case, Tied, features
from tests.runs import seeded

FORMATS: list[Format] = [
    SymmetricUniform(2, dim=0),
    SymmetricUniform(5),
    BlockFloatingPoint(3, block=7),
    BlockFloatingPoint(8, dim=0),
    BlockFloatingPoint(12, dim=1),
    FixedPoint(6, 4),
    FixedPoint(16, 14),
]


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=2, bias=False),
        nn.Flatten(),
        nn.Linear(12 * 4, 5),
    ).eval()


def images(n: int = 8) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=seeded(2))


# --- codes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_integers_are_the_rounded_tensor(form: Format) -> None:
    x = torch.randn(6, 5, 3, generator=seeded())
    integers = to_integers(x, form)
    assert torch.equal(integers.dequantize(), form.to_nearest()(x))
    assert form.codes[0] <= integers.codes.min() and integers.codes.max() <= form.codes[1]
    # On the grid already, nothing is lost however the tensor came there.
    if not isinstance(form, SymmetricUniform):
        q = form(x, generator=seeded(1))
        assert torch.equal(to_integers(q, form).dequantize(), q)


@pytest.mark.parametrize("bits", range(1, 17))
def test_packing_keeps_every_bit(bits: int) -> None:
    for n in (0, 1, 7, 1001):
        codes = torch.randint(1 << bits, (n,), generator=seeded(n))
        stream = pack(codes, bits)
        assert stream.numel() == -(-n * bits // 8) and stream.dtype == torch.uint8
        assert torch.equal(unpack(stream, bits, n), codes.int())
        value = int.from_bytes(bytes(stream.tolist()), "little")
        assert [value >> (bits * i) & ((1 << bits) - 1) for i in range(n)] == codes.tolist()
    with pytest.raises(InputError, match="stream: got"):
        unpack(stream[1:], bits, n)


# --- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_a_file_gives_the_rounded_model(form: Format, tmp_path: Path) -> None:
    model = network()
    path = tmp_path / "w.safetensors"
    sizes = save_integers(path, model, form)
    n = sum(model[i].weight.numel() for i in (0, 3, 5))
    assert sizes.file == path.stat().st_size
    assert sizes.codes >= n * form.wl // 8
    other = network()
    other.load_state_dict(load_integers(path))
    rounded = form.to_nearest()
    for name, value in other.state_dict().items():
        expected = dict(model.state_dict())[name]
        quantised = name in ("0.weight", "3.weight", "5.weight")
        assert torch.equal(value, rounded(expected) if quantised else expected), name


def test_two_bits_take_a_sixteenth(tmp_path: Path) -> None:
    model = nn.Linear(512, 256, bias=False)
    sizes = save_integers(tmp_path / "w.safetensors", model, SymmetricUniform(2))
    assert sizes.codes == 512 * 256 * 2 // 8
    assert sizes.unquantized == 512 * 256 * 4
    assert sizes.file < sizes.unquantized / 15
    assert "times smaller" in str(sizes)


def test_a_quantised_model_keeps_its_grid(tmp_path: Path) -> None:
    """Trained weights on a kept grid are written with that grid, not with one fitted anew."""
    model = quantize_model(network(), weights=SymmetricUniform(2, dim=0), keep_grid=True, skip=["5"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    save_integers(tmp_path / "w.safetensors", model)
    state = load_integers(tmp_path / "w.safetensors")
    for name, value in plain_copy(model).state_dict().items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_odd_models_round_trip(case: Case, tmp_path: Path) -> None:
    model = case.build()
    try:
        save_integers(tmp_path / "w.safetensors", model, BlockFloatingPoint(8, dim=0))
    except InputError as error:
        assert "no layer to quantise" in str(error)
        return
    other = case.build(seed=1)
    other.load_state_dict(load_integers(tmp_path / "w.safetensors"))
    for name, value in model.state_dict().items():
        scale = value.abs().max().float() if value.numel() else 0.0
        assert ((other.state_dict()[name] - value).abs() <= 0.01 * scale + 1e-30).all(), name


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    save_integers(tmp_path / "w.safetensors", Tied(), FixedPoint(8, 6))
    with TensorFile(tmp_path / "w.safetensors") as file:
        assert len([name for name in file.specs if "weight" in name and "steps" not in name]) == 2
    state = load_integers(tmp_path / "w.safetensors")
    assert torch.equal(state["encoder.weight"], state["decoder.weight"])


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_integers(path, network(), SymmetricUniform(3, dim=0))
    content = path.read_bytes()
    for damaged in (content[:-1], content[:40], b"", content + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"w.safetensors: not a whole safetensors file"):
            load_integers(path)
    path.write_bytes(content)
    with TensorFile(path) as file:
        tensors = {name: file.read(name) for name in file.specs}
        metadata = dict(file.metadata)
    header = json.loads(metadata["integers"])

    def changed(**entry: object) -> None:
        own = json.loads(json.dumps(header))
        own["tensors"]["0.weight"].update(entry)
        write_tensors(path, tensors, {**metadata, "integers": json.dumps(own)})
        with pytest.raises(FileError, match="not a whole file of integer weights"):
            load_integers(path)

    changed(wl=4)
    changed(wl=10**9)
    changed(wl="3")
    changed(low=5)
    changed(shape=[10**9, 10**9])
    changed(arranged=[8, 3, 3, 2])
    changed(shape=[-8, -3, 3, 3])
    changed(dtype="int8")
    changed(dtype="nn")
    for broken in ("{", "[]", '{"version": 2, "tensors": {}, "tied": {}}', '{"version": 1}'):
        write_tensors(path, tensors, {**metadata, "integers": broken})
        with pytest.raises(FileError, match="not a whole file of integer weights"):
            load_integers(path)
    write_tensors(path, tensors, {"kind": "other"})
    with pytest.raises(FileError, match="holds 'other', not integer weights"):
        load_integers(path)
    with pytest.raises(FileError, match="no such file"):
        load_integers(tmp_path / "missing.safetensors")


def test_an_error_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match="form: got None for a model without quantised weights"):
        save_integers(path, network())
    with pytest.raises(InputError, match="model: has no layer to quantise"):
        save_integers(path, nn.BatchNorm1d(3), FixedPoint(8, 4))
    model = network()
    with torch.no_grad():
        model[5].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        save_integers(path, model, FixedPoint(8, 4))
    with pytest.raises(FileError, match="cannot be written"):
        save_integers(tmp_path / "no" / "w.safetensors", network(), FixedPoint(8, 4))
    assert not list(tmp_path.iterdir())


# --- integer inference -----------------------------------------------------------------------------------

needs_int8 = pytest.mark.skipif(not has_int8(), reason="this torch has no integer kernels")


@needs_int8
@pytest.mark.parametrize("form", [None, BlockFloatingPoint(8, dim=0), FixedPoint(8, 8)], ids=str)
def test_integer_layers_compute_what_rounded_floats_do(form: Format | None) -> None:
    """Against the same layers in float64 on the codes' values: equal to float32's rounding."""
    model = network()
    small = int8_model(model, [images(64)], form)
    form = form or SymmetricUniform(8, dim=0)
    x = images()
    for layer, integer in zip(model, small, strict=True):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            codes = (x.double() / integer._scale + integer._zero + 0.5).floor().clamp(0, 255) - integer._zero
            weight = form.to_nearest()(layer.weight).double()
            bias = None if layer.bias is None else layer.bias.double()
            if isinstance(layer, nn.Linear):
                expected = nn.functional.linear(codes * integer._scale, weight, bias)
            else:
                expected = nn.functional.conv2d(
                    codes * integer._scale,
                    weight,
                    bias,
                    layer.stride,
                    layer.padding,
                    layer.dilation,
                    layer.groups,
                )
            got = integer(x)
            # A value at half a step may be rounded either way: by one step of one input.
            worst = integer._scale * weight.abs().max()
            assert (got - expected).abs().max() <= worst + 1e-4
            assert (got - expected).abs().mean() <= 1e-3 * expected.abs().mean()
        x = layer(x)


@needs_int8
def test_integer_inference_is_near_the_floats_and_leaves_the_model() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = int8_model(model, images(64).split(16))
    expected = model(images(200))
    assert (small(images(200)) - expected).abs().mean() < 0.03 * expected.abs().mean()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model[0]._forward_pre_hooks
    assert not any(p.requires_grad for p in small.parameters())
    alone = int8_model(nn.Linear(4, 2), [torch.ones(1, 4)])
    assert alone(torch.zeros(3, 4)).shape == (3, 2)


@needs_int8
def test_integer_inference_of_a_quantised_model_uses_its_grid() -> None:
    lowbit = quantize_model(network(), weights=SymmetricUniform(2, dim=0), keep_grid=True)
    small = int8_model(lowbit, [images(64)])
    assert (small(images()) - lowbit(images())).abs().mean() < 0.03 * lowbit(images()).abs().mean()


@needs_int8
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("padding,kernel,dilation", [("same", 3, 2), ("valid", 3, 1), ("same", 4, 1)])
def test_paddings_by_name(padding: str, kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, kernel, padding=padding, dilation=dilation), nn.Conv2d(8, 2, 1)
    ).eval()
    small = int8_model(model, [images(64)])
    # An even kernel's needs one zero more at one side, and stays in float.
    assert isinstance(small[0], int8.Int8Layer) == (kernel == 3)
    expected = model(images())
    assert (small(images()) - expected).abs().mean() < 0.05 * expected.abs().mean()
    torch.testing.assert_close(small(images()[0]), small(images()[:1])[0])  # one image alone


@needs_int8
def test_a_layer_with_two_names_is_one() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), layer).eval()
    small = int8_model(model, [features(64)])
    assert isinstance(small[0], int8.Int8Layer) and small[2] is small[0]
    expected = model(features())
    assert (small(features()) - expected).abs().mean() < 0.05 * expected.abs().mean()


@needs_int8
def test_bad_input_to_integer_inference() -> None:
    with pytest.raises(InputError, match=r"form: got .*; pass a format of 8 bits or less"):
        int8_model(network(), [images()], BlockFloatingPoint(9))
    with pytest.raises(InputError, match=r"model: has torch.float64 on cpu; pass a float32 model"):
        int8_model(network().double(), [images().double()])
    with pytest.raises(InputError, match="loader: is empty"):
        int8_model(network(), [])
    with pytest.raises(InputError, match="loader: gave no batch"):
        int8_model(network(), iter([]))
    with pytest.raises(InputError, match="the input of layer '0' holds NaN"):
        int8_model(network(), [images() * torch.nan])
    with pytest.raises(InputError, match=r"form: gives \d steps for \d+ outputs"):
        int8_model(network(), [images()], BlockFloatingPoint(8, dim=1))
    with pytest.raises(InputError, match="model: has no linear or 2-d convolutional layer"):
        int8_model(nn.Embedding(3, 2), [torch.tensor([0])])


def test_without_kernels_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "has_int8", lambda: False)
    with pytest.raises(StateError, match="int8_model: this torch has no oneDNN integer kernels"):
        int8_model(network(), [images()])


def test_features_run_through_a_loaded_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    save_integers(tmp_path / "w.safetensors", model, BlockFloatingPoint(8, dim=0))
    other = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    other.load_state_dict(load_integers(tmp_path / "w.safetensors"))
    torch.testing.assert_close(other(features()), model(features()), atol=0.05, rtol=0)

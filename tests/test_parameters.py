"""Parameter order: from odd models to one flat vector and back, by name."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from swag.errors import InputError
from swag.parameters import Layout, named_parameters, unwrap
from tests import oracles
from tests.cases import CASES, WRAPPERS, Case, Empties, Tied, compiled_part, features, lazy, plain

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_order_is_that_of_the_trainable_parameters(case: Case) -> None:
    model = case.build()
    layout = Layout.of(model)
    expected = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert list(layout.names) == expected
    theta = layout.flatten(model)
    np.testing.assert_array_equal(theta.double().numpy(), oracles.flat(model, expected))
    assert theta.dtype == (torch.float64 if case.name == "mixed_dtypes" else torch.float32)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_writing_reproduces_a_model_bit_for_bit(case: Case) -> None:
    source, target = case.build(seed=1), case.build(seed=2)
    layout = Layout.of(source)
    strides = [parameter.stride() for parameter in target.parameters()]
    buffers = {name: buffer.clone() for name, buffer in target.named_buffers()}
    untouched = {n: p.clone() for n, p in target.named_parameters() if not p.requires_grad}
    layout.write_(target, layout.flatten(source))
    for (name, got), expected in zip(target.named_parameters(), source.parameters(), strict=True):
        if name not in untouched:
            assert torch.equal(got, expected), name
    assert [parameter.stride() for parameter in target.parameters()] == strides
    for name, before in untouched.items():
        assert torch.equal(target.get_parameter(name), before)
    for name, buffer in target.named_buffers():
        assert torch.equal(buffer, buffers[name])
    if not untouched:
        source.eval()
        torch.testing.assert_close(target.eval()(features()), source(features()), rtol=0, atol=0)


def test_a_shared_tensor_counts_once_at_its_first_name() -> None:
    model = Tied()
    layout = Layout.of(model)
    assert layout.names == ("encoder.weight", "decoder.bias", "head.weight", "head.bias")
    theta = torch.zeros(layout.size)
    layout.write_(model, theta)
    assert not model.decoder.weight.any() and model.decoder.weight is model.encoder.weight


def test_an_alias_name_is_found_where_sharing_differs() -> None:
    """A layout of separate tensors reads a model that ties them, under each name."""
    separate = Tied()
    separate.decoder.weight = nn.Parameter(separate.encoder.weight.detach().clone())
    tied = Tied()
    layout = Layout.of(separate)
    assert "decoder.weight" in layout.names
    theta = layout.unflatten(layout.flatten(tied))
    assert torch.equal(theta["decoder.weight"], theta["encoder.weight"])


@pytest.mark.parametrize(
    ("select", "names"),
    [
        (None, ["2.weight", "2.bias"]),
        (lambda name, parameter: True, ["0.weight", "0.bias", "2.weight", "2.bias"]),
        (lambda name, parameter: parameter.ndim == 2, ["0.weight", "2.weight"]),
        (["0"], ["0.weight", "0.bias"]),
        (["2.bias", "0.weight"], ["0.weight", "2.bias"]),
        (["*.bias"], ["0.bias", "2.bias"]),
        (("2",), ["2.weight", "2.bias"]),
        (iter(["2"]), ["2.weight", "2.bias"]),
    ],
    ids=["default", "all", "predicate", "module", "names", "glob", "tuple", "iterator"],
)
def test_select(select, names) -> None:
    """An explicit selection overrides requires_grad; the order stays the model's."""
    model = plain()
    model[0].requires_grad_(False)
    assert list(Layout.of(model, select).names) == names


@pytest.mark.parametrize("outer", WRAPPERS)
def test_wrappers_do_not_show(outer: str, process_group: None) -> None:
    model = plain()
    wrapped = WRAPPERS[outer](model)
    layout = Layout.of(wrapped)
    assert layout == Layout.of(plain())
    # AveragedModel holds a copy of the model, the others the model itself.
    inside = wrapped.module if outer == "AveragedModel" else model
    assert unwrap(wrapped) is inside
    theta = torch.arange(layout.size, dtype=torch.float32)
    layout.write_(wrapped, theta)
    assert torch.equal(layout.flatten(inside), theta)
    assert torch.equal(layout.flatten(wrapped), theta)


def test_a_compiled_submodule_does_not_show() -> None:
    model = compiled_part()
    assert next(name for name, _ in model.named_parameters()) == "0._orig_mod.weight"
    assert Layout.of(model) == Layout.of(plain())
    assert [name for name, _ in named_parameters(model)] == list(Layout.of(plain()).names)
    assert Layout.of(model, ["0"]).names == ("0.weight", "0.bias")


@pytest.mark.parametrize("lead", [(), (4,)], ids=["one", "many"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_unflatten_gives_views(case: Case, lead: tuple[int, ...]) -> None:
    layout = Layout.of(case.build())
    theta = torch.randn(*lead, layout.size)
    for entry in layout.entries:
        tensor = layout.unflatten(theta)[entry.name]
        assert tuple(tensor.shape) == (*lead, *entry.shape)
        np.testing.assert_array_equal(
            tensor.reshape(*lead, -1).numpy(), theta.numpy()[..., entry.start : entry.stop]
        )
        tensor.fill_(7.0)
        assert (theta[..., entry.start : entry.stop] == 7.0).all()


def test_every_index_has_its_name() -> None:
    layout = Layout.of(Empties())
    for entry in layout.entries:
        for index in range(entry.start, entry.stop):
            assert layout.name_at(index) == entry.name


def test_flatten_casts_as_asked() -> None:
    model = plain().double()
    layout = Layout.of(model)
    assert layout.statistics_dtype == layout.flatten(model).dtype == torch.float64
    low = layout.flatten(model, dtype=torch.bfloat16)
    assert torch.equal(low, layout.flatten(model).bfloat16())
    assert Layout.of(plain().bfloat16()).statistics_dtype == torch.float32


def test_layouts_as_plain_data_and_their_differences() -> None:
    layout = Layout.of(Tied())
    again = Layout.from_list(json.loads(json.dumps(layout.to_list())))
    assert again == layout and hash(again) == hash(layout)
    assert layout.first_difference(again) is None
    assert "('head" not in repr(layout) and "D=99" in repr(layout)
    other = Layout.of(plain())
    assert layout.first_difference(other) == "'encoder.weight' (8, 8) against '0.weight' (4, 8)"
    shorter = Layout.from_list(layout.to_list()[:-1])
    assert layout.first_difference(shorter) == "4 parameters against 3"


class Odd(nn.Module):
    """One parameter of any dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.odd = nn.Parameter(torch.ones(3, dtype=dtype), requires_grad=dtype.is_complex)


@pytest.mark.parametrize(
    ("model", "select", "message"),
    [
        (lazy, None, r"model: parameter '0\.weight' belongs to a lazy module .* run one forward pass"),
        (
            lambda: plain().requires_grad_(False),
            None,
            r"select: none of the model's 4 parameters .* unfreeze",
        ),
        (plain, [], r"select: none of the model's 4 parameters is selected"),
        (nn.Identity, None, r"select: none of the model's 0 parameters is selected"),
        (plain, lambda name, parameter: False, r"select: none of the model's 4"),
        (plain, ["0", "layer9"], r"select: the pattern 'layer9' matches none .*0\.weight, 0\.bias"),
        (plain, "0", r"select: got the string '0'; pass a list of patterns, as in \['0'\]"),
        (plain, [0], r"select: got \[0\]; pass a list of names"),
        (plain, 3, r"select: got 3; pass a list of names"),
        (
            lambda: Odd(torch.complex64),
            None,
            r"select: parameter 'odd' has dtype torch\.complex64; .* leave it",
        ),
        (lambda: Odd(torch.int64), ["*"], r"select: parameter 'odd' has dtype torch\.int64"),
        (dict, None, r"model: got a dict; pass a torch\.nn\.Module"),
    ],
)
def test_bad_models_and_selections(model, select, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Layout.of(model(), select)


def test_a_lazy_model_works_after_one_forward_pass() -> None:
    model = lazy()
    model(features())
    assert Layout.of(model) == Layout.of(plain())


def test_another_model_is_refused_and_not_written() -> None:
    layout = Layout.of(plain())
    theta = torch.zeros(layout.size)
    narrow = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    missing = nn.Sequential(nn.Linear(8, 4), nn.Tanh())
    for model, message in [
        (
            narrow,
            r"model: parameter '2\.weight' has shape \(2, 4\), expected \(3, 4\): pass a model of the same",
        ),
        (
            missing,
            r"model: has no parameter '2\.weight' \(2 of 4 names are missing; it has 0\.weight, 0\.bias",
        ),
        (lazy(), r"model: parameter '0\.weight' belongs to a lazy module"),
        (None, r"model: got a NoneType"),
    ]:
        before = (
            None
            if model is None or model[0].weight.__class__ is not nn.Parameter
            else model[0].weight.clone()
        )
        for use in (layout.flatten, layout.tensors, lambda m: layout.write_(m, theta)):
            with pytest.raises(InputError, match=message):
                use(model)
        if before is not None:
            assert torch.equal(model[0].weight, before)


def test_vectors_of_another_length_are_refused() -> None:
    model = plain()
    layout = Layout.of(model)
    before = layout.flatten(model)
    for theta in (torch.zeros(50), torch.zeros(3, 52), torch.tensor(1.0)):
        with pytest.raises(InputError, match=r"theta: expected last dimension D=51, got shape"):
            layout.unflatten(theta)
    with pytest.raises(InputError, match=r"theta: expected shape \(51,\), got \(2, 51\): pass one sample"):
        layout.write_(model, torch.zeros(2, 51))
    with pytest.raises(InputError, match=r"theta: expected last dimension D=51"):
        layout.write_(model, torch.zeros(52))
    assert torch.equal(layout.flatten(model), before)


@pytest.mark.parametrize(
    "entries",
    [
        [{"name": "a", "shape": [2]}],
        [{"name": "a", "shape": "x", "dtype": "float32"}],
        [{"name": "a", "shape": [2], "dtype": "int64"}],
        [{"name": "a", "shape": [2], "dtype": "nn"}],
        [{"name": "a", "shape": [-2], "dtype": "float32"}],
        [{"name": "a", "shape": [2], "dtype": "float32"}] * 2,
        ["a"],
    ],
    ids=["no dtype", "bad shape", "integers", "no such dtype", "negative", "twice", "a string"],
)
def test_damaged_plain_data_is_refused(entries) -> None:
    with pytest.raises(InputError, match="layout: "):
        Layout.from_list(entries)


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
tensors = st.lists(st.tuples(shapes, st.sampled_from(DTYPES), st.booleans()), min_size=1, max_size=6)


class Anything(nn.Module):
    """Parameters of any shapes and dtypes; the flagged ones stored with reversed strides."""

    def __init__(self, specs: list[tuple[tuple[int, ...], torch.dtype, bool]], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for index, (shape, dtype, reversed_strides) in enumerate(specs):
            values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            if reversed_strides:
                backwards = tuple(reversed(range(len(shape))))
                values = values.permute(backwards).contiguous().permute(backwards)
            self.register_parameter(f"p{index}", nn.Parameter(values))


@given(specs=tensors)
def test_any_shapes_and_dtypes_make_the_round_trip(specs) -> None:
    source, target = Anything(specs, seed=1), Anything(specs, seed=2)
    layout = Layout.of(source)
    theta = layout.flatten(source)
    assert theta.shape == (layout.size,) == (sum(p.numel() for p in source.parameters()),)
    np.testing.assert_array_equal(theta.double().numpy(), oracles.flat(source, layout.names))
    for name, tensor in layout.unflatten(theta).items():
        assert torch.equal(tensor, source.get_parameter(name).to(theta.dtype))
    layout.write_(target, theta)
    for got, expected in zip(target.parameters(), source.parameters(), strict=True):
        assert got.dtype == expected.dtype and torch.equal(got, expected)
    assert Layout.from_list(json.loads(json.dumps(layout.to_list()))) == layout

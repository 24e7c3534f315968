"""Semi-supervised pieces against numbers worked out by hand: losses, ramps, heads, teacher, augmentation."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swag.errors import InputError
from swag.training import Step
from swag.training.semi_supervised import (
    Consistency,
    MeanTeacher,
    PiModel,
    Supervised,
    TwoHeads,
    Views,
    coupling_cost,
    flipped,
    labelled_cross_entropy,
    noisy,
    shifted,
    sigmoid_ramp,
    softmax_kl,
    softmax_mse,
)


def logits(*rows: list[float]) -> Tensor:
    """Logits whose softmax are these probabilities."""
    return torch.tensor(rows, dtype=torch.float64).log()


P = logits([0.7, 0.2, 0.1], [0.5, 0.25, 0.25])
Q = logits([0.6, 0.2, 0.2], [0.25, 0.5, 0.25])


def test_squared_distance_of_two_softmaxes() -> None:
    # Rows: .1² + 0 + .1² = .02 and .25² + .25² = .125; over three classes, the mean of two rows.
    assert softmax_mse(P, Q).item() == pytest.approx((0.02 / 3 + 0.125 / 3) / 2)


def test_kl_is_of_the_target_from_the_prediction() -> None:
    first = 0.6 * math.log(6 / 7) + 0.2 * math.log(2)
    second = 0.25 * math.log(1 / 2) + 0.5 * math.log(2)
    assert softmax_kl(P, Q).item() == pytest.approx((first + second) / 2)
    assert softmax_kl(Q, P).item() != pytest.approx(softmax_kl(P, Q).item())


def test_cross_entropy_is_divided_by_all_rows() -> None:
    four = torch.cat([P, Q])
    found = labelled_cross_entropy(four, torch.tensor([2, -1, 0, -1]))
    assert found.item() == pytest.approx(-(math.log(0.1) + math.log(0.6)) / 4)
    assert labelled_cross_entropy(four, torch.full((4,), -1)).item() == 0.0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), "got 3 for 3 classes"),
        (torch.tensor([-2, 0]), "got -2 for 3 classes"),
        (torch.tensor([0.0, 1.0]), "torch.int64"),
        (torch.tensor([0]), "for 1 labels"),
        ([0, 1], "got list"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        labelled_cross_entropy(P, labels)


@pytest.mark.parametrize("kind", [Supervised, PiModel, MeanTeacher])
def test_labels_are_looked_at_before_they_go_to_an_accelerator(kind) -> None:  # type: ignore[no-untyped-def]
    class Elsewhere(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.empty(len(x), 3, device="meta")  # a device on which nothing can be looked at

    model = Elsewhere(2, 3)
    method = kind(model) if kind is MeanTeacher else kind()
    x = torch.ones(2, 2)
    method.forward(model, (x, torch.tensor([2, -1])))
    with pytest.raises(InputError, match="labels: got 3 for 3 classes"):
        method.forward(model, (x, torch.tensor([3, -1])))
    method.forward(model.eval(), (x, "not looked at"))  # batch-norm statistics want inputs alone


def test_the_ramp_is_the_published_one() -> None:
    assert sigmoid_ramp(0, 5) == pytest.approx(math.exp(-5))
    assert sigmoid_ramp(1.5, 5) == pytest.approx(math.exp(-5 * 0.7**2))
    assert sigmoid_ramp(5, 5) == sigmoid_ramp(1e9, 5) == sigmoid_ramp(0, 0) == 1.0
    assert Consistency(weight=30, ramp=4).weight_at(1) == pytest.approx(30 * math.exp(-5 * 9 / 16))


def test_the_loss_is_the_sum_of_its_three_terms() -> None:
    labels = torch.tensor([0, -1])
    one = Consistency(weight=10, ramp=4).loss(Views(P, Q), labels, epoch=2.0)
    expected = -math.log(0.7) / 2 + 10 * math.exp(-5 / 4) * (0.02 + 0.125) / 6
    assert one.item() == pytest.approx(expected)
    second = P + 1.5  # the same softmax, other logits
    two = Consistency(weight=10, ramp=4, coupling=0.01).loss(Views(P, Q, second), labels, epoch=2.0)
    assert two.item() == pytest.approx(expected + 0.01 * 1.5**2)
    assert coupling_cost(P, second).item() == pytest.approx(1.5**2)
    kl = Consistency(weight=2, ramp=0, distance=softmax_kl).loss(Views(P, Q), labels, epoch=0.0)
    assert kl.item() == pytest.approx(-math.log(0.7) / 2 + 2 * softmax_kl(P, Q).item())


def test_the_second_head_is_held_to_the_target_and_to_the_first() -> None:
    first, second = P.clone().requires_grad_(), Q.clone().requires_grad_()
    target = Q.clone()
    Consistency(weight=10, ramp=0, coupling=0.0).loss(
        Views(first, target, second), torch.tensor([0, 0]), 0
    ).backward()
    # Consistency reaches the second head alone, which agrees with the target already.
    expected = (P.softmax(1) - F.one_hot(torch.tensor([0, 0]), 3)) / 2
    assert torch.allclose(first.grad, expected) and torch.allclose(second.grad, torch.zeros_like(Q))


def test_one_head_or_two_must_be_said() -> None:
    labels = torch.tensor([0, -1])
    with pytest.raises(InputError, match="coupling: is None, and the model gave two heads"):
        Consistency().loss(Views(P, Q, P), labels, 0)
    with pytest.raises(InputError, match=r"coupling: got 0\.01, and the model gave one head"):
        Consistency(coupling=0.01).loss(Views(P, Q), labels, 0)


@pytest.mark.parametrize(
    "bad", [{"weight": -1}, {"weight": float("nan")}, {"ramp": "5"}, {"coupling": -0.1}, {"distance": "mse"}]
)
def test_consistency_refuses_what_it_cannot_use(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        Consistency(**bad)  # type: ignore[arg-type]


def test_two_heads_predict_by_the_first_alone() -> None:
    model = TwoHeads(nn.Identity(), nn.Linear(2, 3), nn.Linear(2, 3))
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    first, second = model(x)
    assert torch.equal(first, model.labels(x)) and torch.equal(second, model.consistency(x))
    assert torch.equal(model.eval()(x), first)


def numbered(count: list[int]):  # type: ignore[no-untyped-def]
    """An augmentation that adds 1, 2, 3, … from call to call."""

    def augment(x: Tensor, generator: torch.Generator | None) -> Tensor:
        count[0] += 1
        return x + count[0]

    return augment


def linear() -> nn.Linear:
    model = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.1, -0.2], [0.3, 0.05]]))
    return model


def test_the_pi_model_looks_twice_and_holds_the_target_still() -> None:
    model, x = linear(), torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
    method = PiModel(Consistency(weight=3, ramp=0), augment=numbered([0]))
    labels = torch.tensor([1, -1])
    views = method.forward(model, (x, labels))
    assert torch.equal(views.target, model(x + 1)) and torch.equal(views.logits, model(x + 2))
    method.loss(views, labels).backward()
    w = model.weight.detach().clone().requires_grad_()
    fixed = (x + 1) @ model.weight.detach().T
    a = (x + 2) @ w.T
    by_hand = -a.log_softmax(1)[0, 1] / 2 + 3 * (a.softmax(1) - fixed.softmax(1)).square().sum() / 4
    by_hand.backward()
    assert torch.allclose(model.weight.grad, w.grad)
    assert torch.equal(method.forward(model.eval(), (x, labels)), model(x))  # one look, as it came


def test_labels_alone_are_augmented_in_training_only() -> None:
    model, x = linear(), torch.ones(2, 2, dtype=torch.float64)
    method, labels = Supervised(augment=numbered([0])), torch.tensor([1, -1])
    assert torch.equal(method.forward(model, (x, labels)), model(x + 1))
    assert torch.equal(method.forward(model.eval(), (x, labels)), model(x))
    found = method.loss(model(x), labels).item()
    assert found == pytest.approx(F.cross_entropy(model(x)[:1], labels[:1]).item() / 2)


def test_the_teacher_is_the_mean_of_the_past_and_then_an_ema() -> None:
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    nn.init.constant_(model.weight, 5.0)
    method = MeanTeacher(model, decay=0.75)
    weights = [5.0, 1.0, 2.0, 7.0, -3.0, 4.0]
    expected = 5.0
    for t, value in enumerate(weights[1:], start=1):
        nn.init.constant_(model.weight, value)
        method.after_step(Step(t, t / 10, model, optimizer))
        if t <= 3:
            expected = sum(weights[: t + 1]) / (t + 1)  # α = 1/2, 2/3, 3/4
        else:
            expected = 0.75 * expected + 0.25 * value
        assert method.teacher.weight.item() == pytest.approx(expected)
    assert not method.teacher.weight.requires_grad and model.weight.item() == 4.0


def test_the_target_is_the_teachers_in_the_students_modes() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.0))
    model[2].eval()
    method = MeanTeacher(model, Consistency(weight=1, ramp=0), augment=numbered([0]))
    with torch.no_grad():
        model[0].weight.mul_(2)
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    teacher_before = method.teacher[1].running_mean.clone()
    views = method.forward(model, (x, torch.zeros(8, dtype=torch.int64)))
    assert method.teacher[1].training and not method.teacher[2].training
    hidden = F.linear(x + 1, method.teacher[0].weight, method.teacher[0].bias)
    by_hand = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(views.target, by_hand, atol=1e-5) and not views.target.requires_grad
    assert not torch.equal(method.teacher[1].running_mean, teacher_before)  # statistics of its own
    assert views.logits.requires_grad and not torch.allclose(views.logits, views.target)
    assert torch.equal(method.forward(model.eval(), (x, x)), model(x))


def test_forty_steps_of_mean_teacher_are_those_of_a_plain_loop() -> None:
    """The published recipe written out: two heads, batch norm, ramp, teacher; all at once."""
    numbers = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
        model = TwoHeads(body, nn.Linear(6, 3), nn.Linear(6, 3)).double()
    method = MeanTeacher(model, Consistency(weight=100, ramp=5, coupling=0.01), decay=0.9)
    student, teacher = copy.deepcopy(model), copy.deepcopy(model)
    optimizer, other = (torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, student))
    for step in range(1, 41):  # four an epoch
        x = torch.randn(10, 4, generator=numbers, dtype=torch.float64)
        labels = torch.cat([torch.randint(3, (5,), generator=numbers), torch.full((5,), -1)])
        optimizer.zero_grad()
        method.loss(method.forward(model, (x, labels)), labels).backward()
        optimizer.step()
        method.after_step(Step(step, step / 4, model, optimizer))

        with torch.no_grad():
            target = teacher(x)[0].softmax(1)
        classes, consistent = student(x)
        weight = 100 * math.exp(-5 * (1 - min(1.0, (step - 1) / 4 / 5)) ** 2)
        loss = -classes.log_softmax(1)[torch.arange(5), labels[:5]].sum()
        loss = loss + weight * (consistent.softmax(1) - target).square().sum() / 3
        loss = (loss + 0.01 * (classes - consistent).square().sum() / 3) / 10
        other.zero_grad()
        loss.backward()
        other.step()
        alpha = min(1 - 1 / (step + 1), 0.9)
        with torch.no_grad():
            for mine, its in zip(teacher.parameters(), student.parameters(), strict=True):
                mine.mul_(alpha).add_((1 - alpha) * its)
    for found, expected in ((model, student), (method.teacher, teacher)):
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-8, atol=1e-10)


def test_a_teachers_state_goes_on_and_belongs_to_its_model() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    first = MeanTeacher(model, decay=0.9, generator=torch.Generator().manual_seed(1))
    first.after_step(Step(1, 0.5, model, optimizer))
    state = first.state_dict()
    other = MeanTeacher(model, decay=0.9, generator=torch.Generator().manual_seed(2))
    other.load_state_dict(state)
    for method in (first, other):
        nn.init.ones_(model[0].weight)
        method.after_step(Step(2, 1.0, model, optimizer))
    for name, value in first.teacher.state_dict().items():
        assert torch.equal(value, other.teacher.state_dict()[name])
    assert torch.equal(first.state_dict()["generator"], other.state_dict()["generator"])
    before = other.state_dict()
    with pytest.raises(InputError, match="pi_model"):
        other.load_state_dict(PiModel(generator=torch.Generator()).state_dict())
    with pytest.raises(InputError, match="another model"):
        other.load_state_dict({**state, "teacher": {"weight": torch.ones(1)}})
    assert torch.equal(before["teacher"]["0.weight"], other.state_dict()["teacher"]["0.weight"])
    with pytest.raises(InputError, match="generator"):
        MeanTeacher(model).load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeanTeacher(nn.Linear(1, 1), decay=1.0), "decay"),
        (lambda: MeanTeacher("model"), "model"),  # type: ignore[arg-type]
        (lambda: PiModel(100.0), "consistency"),  # type: ignore[arg-type]
        (lambda: PiModel(augment=nn.Identity), "augment"),  # type: ignore[arg-type]
        (lambda: Supervised(generator=0), "generator"),  # type: ignore[arg-type]
    ],
)
def test_methods_refuse_what_they_cannot_use(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=f"^{message}:"):
        make()


def test_an_augmentation_must_keep_the_rows_and_a_model_give_logits() -> None:
    batch = torch.ones(2, 2), torch.tensor([0, 1])
    with pytest.raises(InputError, match="augment: gave"):
        PiModel(augment=lambda x, generator: x[:1]).forward(nn.Linear(2, 2), batch)
    with pytest.raises(InputError, match="batch: begins with a dict"):
        PiModel().forward(nn.Linear(2, 2), ({}, batch[1]))
    lstm = nn.LSTM(2, 2)
    with pytest.raises(InputError, match="model: gave a tuple"):
        PiModel().forward(lstm, batch)


def test_shifts_are_uniform_and_reflect() -> None:
    x = torch.arange(25.0).view(1, 1, 5, 5).expand(900, 1, 5, 5)
    moved = shifted(x, 1, generator=torch.Generator().manual_seed(0))
    corners, counts = moved[:, 0, 1, 1].unique(return_counts=True)
    assert corners.tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]  # nine places, each seen in a ninth of the rows
    assert (counts - 100).abs().max() < 4.5 * math.sqrt(900 * 8 / 81)
    down_right = moved[moved[:, 0, 1, 1] == 0][0, 0]  # what was at (0, 0) is at (1, 1)
    assert down_right[0].tolist() == [6, 5, 6, 7, 8] and down_right[1].tolist() == [1, 0, 1, 2, 3]
    assert torch.equal(shifted(x, 0), x)


def test_mirrors_half_of_the_rows_and_noise_has_its_deviation() -> None:
    x = torch.arange(4.0).view(1, 1, 1, 4).expand(1000, 1, 1, 4)
    moved = flipped(x, generator=torch.Generator().manual_seed(0)).flatten(1)
    mirrored = (moved == torch.tensor([3.0, 2, 1, 0])).all(1)
    assert ((moved == torch.arange(4.0)).all(1) ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 500) < 4.5 * math.sqrt(250)
    loud = noisy(torch.full((200, 100), 2.0), 0.5, generator=torch.Generator().manual_seed(0)) - 2
    assert abs(loud.mean()) < 4.5 * 0.5 / math.sqrt(20_000)
    assert loud.std().item() == pytest.approx(0.5, rel=4.5 / math.sqrt(40_000))


@pytest.mark.parametrize(
    "augment", [lambda x, g: shifted(x, 1, generator=g), lambda x, g: flipped(x, generator=g)]
)
def test_augmentation_draws_from_its_generator_alone(augment) -> None:  # type: ignore[no-untyped-def]
    x = torch.arange(64.0).view(4, 1, 4, 4)
    world = torch.get_rng_state()
    first = augment(x, torch.Generator().manual_seed(3))
    assert torch.equal(first, augment(x, torch.Generator().manual_seed(3)))
    assert torch.equal(torch.get_rng_state(), world)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shifted(torch.ones(1, 1, 4, 4), 4), "pixels: got 4"),
        (lambda: shifted(torch.ones(4, 4), 1), "x: got shape"),
        (lambda: flipped(torch.ones(4, 4)), "x: got shape"),
        (lambda: noisy(torch.ones(4), -1.0), "std: got -1.0"),
        (lambda: noisy(torch.ones(4, dtype=torch.uint8), 1.0), "x: got torch.uint8"),
    ],
)
def test_augmentation_refuses_what_it_cannot_change(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        call()


def test_the_look_without_gradient_does_not_take_those_of_the_other_under_autocast() -> None:
    # Autocast keeps the weights it has cast: those of a look without gradients must not serve the next one.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        x, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, -1, -1, -1])
    method = PiModel(Consistency(weight=1, ramp=0))
    found = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            value = method.loss(method.forward(model, (x, labels)), labels)
        value.backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert (found[1] - found[0]).norm() < 0.02 * found[0].norm()

"""From what the caller hands in to `Results`: checks first, then every column, then the words about them."""

import platform
import re
from collections.abc import Mapping
from typing import Any

from swag.errors import InputError
from swag.metrics.inputs import as_count, as_level
from swag.report import classification as clf
from swag.report.columns import Column, tabulate
from swag.report.images import uncertain_inputs
from swag.report.inputs import (
    ClassProbabilities,
    check_methods,
    class_labels,
    class_probabilities,
    is_regression,
)
from swag.report.intervals import Array
from swag.report.ood import out_of_distribution
from swag.report.results import (
    Classification,
    OutOfDistribution,
    Results,
    Settings,
)
from swag.report.words import summary

INTERVALS_NOTE = (
    "Intervals come from resampling the test rows. They say how far another test set of this size "
    "would move a "
    "figure; they do not contain the differences between training runs. Each holds on its own, without a "
    "correction for their number."
)


def build(
    predictions: Any,
    labels: Any,
    *,
    ood: Any,
    baseline: str | None,
    validation: Any,
    validation_labels: Any,
    n_bins: int,
    n_bootstrap: int,
    level: float,
    seed: int,
    class_names: Any,
    images: Any,
    title: str,
    provenance: Mapping[str, Any] | None,
) -> Results:
    """All figures of a report; arguments as in `swag.Report`."""
    given = check_methods(predictions)
    settings = Settings(
        as_count("n_bins", n_bins),
        as_count("n_bootstrap", n_bootstrap, 2),
        as_level("level", level),
        as_count("seed", seed, 0),
    )
    base = _baseline(baseline, given)
    gaussian = [name for name, output in given.items() if is_regression(output)]
    if gaussian and len(gaussian) < len(given):
        others = [name for name in given if name not in gaussian]
        raise InputError(
            f"predictions: {gaussian} are Gaussian and {others} are class probabilities; "
            "make one report of each kind"
        )
    facts = {**_versions(), **{str(key): str(value) for key, value in (provenance or {}).items()}}
    if gaussian:
        unusable = {"ood": ood, "validation": validation, "class_names": class_names, "images": images}
        for name, value in unusable.items():
            if value is not None:
                raise InputError(
                    f"{name}: only for classification, but the predictions are Gaussian; leave it out"
                )
        from swag.report.regression import regression_results

        return regression_results(given, labels, base, settings, title, facts, INTERVALS_NOTE)

    outputs = {name: class_probabilities(output, f"predictions[{name!r}]") for name, output in given.items()}
    first = next(iter(outputs))
    n, n_classes = outputs[first].probs.shape
    for name, output in outputs.items():
        if output.probs.shape != (n, n_classes):
            raise InputError(
                f"predictions[{name!r}] has shape {tuple(output.probs.shape)}, "
                f"predictions[{first!r}] {(n, n_classes)}; every method must predict the same rows "
                "and classes"
            )
    y = class_labels(labels, n, n_classes)
    names = _class_names(class_names, n_classes)
    if (validation is None) != (validation_labels is None):
        raise InputError(
            "validation: needs validation_labels, and these need validation; pass both or neither"
        )
    nlls: dict[str, Array] = {}
    temperatures: dict[str, float] = {}
    if validation is not None:
        nlls, temperatures = clf.temperature_nll(
            outputs, y, check_methods(validation, "validation"), validation_labels
        )
    found = clf.columns(outputs, y, nlls, settings)
    sets, more = _ood(ood, outputs, settings)
    metrics, scores, paired = tabulate([*found, *more], tuple(outputs), base)
    focus = min(outputs, key=lambda name: scores[name]["nll"].value or 0.0)
    pictures = uncertain_inputs(
        images, outputs[focus].probs.double().numpy(), outputs[focus].scores["entropy"], y, names
    )
    rows = clf.rows_of(list(outputs.values()), y, settings.n_bins)
    details = Classification(
        n_classes=n_classes,
        class_names=names,
        class_counts=tuple(int((y == c).sum()) for c in range(n_classes)),
        temperatures=temperatures,
        reliability={name: clf.reliability(rows, i, settings) for i, name in enumerate(outputs)},
        risk_coverage={name: clf.risk_coverage_curve(out.probs, y) for name, out in outputs.items()},
        entropy_in={
            name: clf.entropy_histogram(out.scores["entropy"], n_classes) for name, out in outputs.items()
        },
        worst_classes=clf.worst_classes(outputs[focus], y, focus, names, settings.n_bins),
        uncertain_method=focus,
        uncertain=pictures,
        ood=tuple(sets),
    )
    notes = [INTERVALS_NOTE]
    absent = [name for name, k in zip(names, details.class_counts, strict=True) if not k]
    if absent:
        notes.append(f"No test row is labelled {', '.join(absent[:10])}{' …' if len(absent) > 10 else ''}.")
    if validation is None:
        notes.append("No validation rows were given, so there is no NLL after temperature scaling.")
    return Results(
        kind="classification",
        title=str(title),
        n_rows=n,
        methods=tuple(outputs),
        baseline=base,
        settings=settings,
        metrics=metrics,
        scores=scores,
        differences=paired,
        summary=summary("classification", n, n_classes, base, metrics, scores, paired, settings),
        notes=tuple(notes),
        provenance={**facts, **_members(outputs)},
        classification=details,
    )


def _ood(
    ood: Any, inside: Mapping[str, ClassProbabilities], settings: Settings
) -> tuple[list[OutOfDistribution], list[Column]]:
    if ood is None:
        return [], []
    if not isinstance(ood, Mapping) or not all(isinstance(outputs, Mapping) for outputs in ood.values()):
        raise InputError(f'ood: got {type(ood).__name__}; pass {{"MNIST": {{"SGD": predictive, …}}, …}}')
    sets, columns, keys = [], [], set()
    for k, (name, given) in enumerate(check_methods(ood, "ood").items()):
        where = f"ood[{name!r}]"
        outside = {
            method: class_probabilities(output, f"{where}[{method!r}]")
            for method, output in check_methods(given, where).items()
        }
        sizes = {tuple(output.probs.shape) for output in outside.values()}
        unknown = [method for method in outside if method not in inside]
        if unknown:
            raise InputError(f"{where}: {unknown[0]!r} is no method of predictions; use {list(inside)}")
        n_classes = next(iter(inside.values())).probs.shape[1]
        if len(sizes) > 1 or next(iter(sizes))[1] != n_classes:
            raise InputError(
                f"{where}: shapes {sorted(sizes)}; every method needs the same rows and {n_classes} classes"
            )
        key = f"auroc_{re.sub(r'[^0-9A-Za-z]+', '_', name).strip('_') or k}"
        key = f"{key}_{k}" if key in keys else key
        keys.add(key)
        result, column = out_of_distribution(name, key, inside, outside, settings, k + 1)
        sets.append(result)
        columns.append(column)
    return sets, columns


def _baseline(baseline: str | None, methods: Mapping[str, Any]) -> str:
    if baseline is None:
        return next(iter(methods))
    if baseline not in methods:
        raise InputError(f"baseline: {baseline!r} is no method of predictions; use one of {list(methods)}")
    return baseline


def _class_names(names: Any, n_classes: int) -> tuple[str, ...]:
    if names is None:
        return tuple(str(c) for c in range(n_classes))
    if isinstance(names, str) or len(names) != n_classes:
        raise InputError(
            f"class_names: got {len(names)}, the predictions have {n_classes} classes; pass one name each"
        )
    return tuple(str(name) for name in names)


def _members(outputs: Mapping[str, ClassProbabilities]) -> dict[str, str]:
    known = [f"{name} {output.n_samples}" for name, output in outputs.items() if output.n_samples is not None]
    return {"members averaged": ", ".join(known)} if known else {}


def _versions() -> dict[str, str]:
    import numpy
    import scipy
    import torch

    from swag import __version__

    versions = {"swag": __version__, "torch": torch.__version__, "numpy": numpy.__version__}
    return {**versions, "scipy": scipy.__version__, "python": platform.python_version()}

"""The report: every figure with its uncertainty, as text, HTML, JSON, Markdown or CSV."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from swag.atomic import write_text
from swag.errors import FileError, InputError
from swag.report import compare, document, gate, table
from swag.report.build import build
from swag.report.results import Results


@final
class Report:
    r"""Scores of one or more methods on the same labelled rows.

    Intervals come from resampling the test rows (the same resamples for every method, so differences are
    paired); they say how far another test set would move a figure, not how far another training run would.

    Args:
        predictions: Method → predictive, or probabilities (N, C). Gaussian predictives make a regression
            report.
        labels: (N,) integers in [0, C), or real targets.
        ood: Set → {method: predictive or probabilities} for rows that belong to none of the classes.
        baseline: The method the others are compared with; the first one by default.
        validation: Method → predictive or probabilities on validation rows; each one's temperature is fitted
            there, and the NLL after temperature scaling becomes a column.
        validation_labels: Labels of the validation rows.
        n_bins: Bins of equal width for ECE and reliability diagrams.
        n_bootstrap: Resamples.
        level: Of every interval.
        seed: Of the resamples; the global generators are not touched.
        class_names: One name a class.
        images: (N, H, W), (N, 1 or 3, H, W) or (N, H, W, 1 or 3): the HTML shows the most uncertain ones.
        title: The page's heading.
        provenance: Further facts to print, e.g. {"date": "2025-03-01", "data": "digits"}.

    Raises:
        InputError: an argument cannot be used; the message names it, what came, and the fix.

    Example:
        >>> import torch
        >>> labels = torch.arange(200) % 2
        >>> sure = torch.nn.functional.one_hot(labels, 2) * 0.8 + 0.1
        >>> report = Report({"coin": torch.full((200, 2), 0.5), "sure": sure}, labels)
        >>> report.results.differences["sure"]["nll"].verdict
        'undetermined'
    """

    def __init__(
        self,
        predictions: Mapping[str, Any],
        labels: Any,
        *,
        ood: Mapping[str, Mapping[str, Any]] | None = None,
        baseline: str | None = None,
        validation: Mapping[str, Any] | None = None,
        validation_labels: Any = None,
        n_bins: int = 15,
        n_bootstrap: int = 1000,
        level: float = 0.95,
        seed: int = 0,
        class_names: Any = None,
        images: Any = None,
        title: str = "Predictive uncertainty report",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.results: Results = build(
            predictions,
            labels,
            ood=ood,
            baseline=baseline,
            validation=validation,
            validation_labels=validation_labels,
            n_bins=n_bins,
            n_bootstrap=n_bootstrap,
            level=level,
            seed=seed,
            class_names=class_names,
            images=images,
            title=title,
            provenance=provenance,
        )

    @classmethod
    def from_results(cls, results: Results) -> "Report":
        """A report that shows results computed elsewhere."""
        report = cls.__new__(cls)
        report.results = results
        return report

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Report":
        """The report that `save` wrote as JSON; its tables, figures and HTML are the same.

        Raises:
            FileError: the file cannot be read.
            InputError: it is not a report of a known version.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(
                f"{os.fspath(path)}: cannot be read ({error}); pass a .json that report.save wrote"
            ) from None
        return cls.from_results(document.from_json(text, os.fspath(path)))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes .html, .json, .md or .csv, by the suffix; an interrupted write leaves an old file whole.

        Returns:
            The path.

        Raises:
            InputError: another suffix.
            FileError: the folder is missing, or the disk is full.
        """
        target = Path(path)
        suffix = target.suffix.lower()
        writers = {
            ".html": self.to_html,
            ".json": lambda: document.to_json(self.results),
            ".md": lambda: table.markdown(self.results),
            ".csv": lambda: table.comma_separated(self.results),
        }
        if suffix not in writers:
            raise InputError(f"path: {target.name!r} has suffix {suffix!r}; use one of {', '.join(writers)}")
        write_text(target, writers[suffix]())
        return target

    def table(self, width: int = 110) -> str:
        """The score table as text, with intervals and marks, for a terminal of `width` columns."""
        return f"{table.scores(self.results, width)}\n\n{table.legend(self.results, width)}"

    def failures(self, condition: str) -> list[str]:
        """Which figures meet a condition that must not hold ("SWAG.ece > 0.03"): see `swag.report.gate`."""
        return gate.failures(self.results, condition)

    def compare(self, other: "Report") -> str:
        """What is different in another report, as a table; for the rows themselves `swag.report.compare`."""
        return compare.text(self.results, other.results)

    def to_dict(self) -> dict[str, Any]:
        """What the JSON file holds: see `swag.report.document` for the schema."""
        return document.to_dict(self.results)

    def to_html(self) -> str:
        """The whole page: one file, no scripts, no requests."""
        from swag.report.html import page

        return page(self.results)

    def __str__(self) -> str:
        return table.text(self.results)

    def __repr__(self) -> str:
        results = self.results
        return f"Report({results.kind}, {results.n_rows:,} rows, methods={list(results.methods)})"

    def _repr_html_(self) -> str:
        from swag.report.html import fragment

        return fragment(self.results)

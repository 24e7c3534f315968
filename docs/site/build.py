"""Builds the documentation site: every page, notebook and table of the repository, and the API reference.

    ./run docs                     # build/docs/html/index.html; a warning is an error
    ./run docs --linkcheck         # asks every address on the web, too

The pages keep the places they have in the repository, so that a link works there and here alike. A copy of
them is laid out under build/docs/source, with one page of reference for each public module, made from its
`__all__`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "docs" / "site"

# Public modules in the order of the pipeline, each with what its page says first.
MODULES = {
    "swag": "Collect, sample, predict, score: what most programs need.",
    "swag.posterior": "Distributions over weights.",
    "swag.predictive": "What an ensemble predicts, and the likelihoods that turn outputs into it.",
    "swag.metrics": "Scores of predictions, in rows of tensors or streamed.",
    "swag.report": "Tables with intervals, plots, HTML, JSON.",
    "swag.calibrators": "Predictions made calibrated on held-out rows.",
    "swag.batchnorm": "Batch-norm statistics for sampled weights.",
    "swag.training": "Training, averaging on the way, members, cycles, SWAP, semi-supervised recipes.",
    "swag.schedules": "Learning rates as functions of the step.",
    "swag.subspace": "Bayesian inference in a few dimensions of weight space.",
    "swag.geometry": "Curves between solutions, pictures of the loss.",
    "swag.lowprecision": "SWALP, SQWA, integers in files.",
    "swag.distributed": "Sharded models, several processes, several workers.",
    "swag.files": "Posteriors as files.",
    "swag.checkpoints": "Posteriors from folders of checkpoints.",
    "swag.integrations.lightning": "Lightning.",
    "swag.integrations.huggingface": "Hugging Face Trainer, PEFT, generation.",
    "swag.integrations.sklearn": "scikit-learn estimators.",
    "swag.integrations.skorch": "skorch.",
    "swag.integrations.botorch": "BoTorch.",
    "swag.integrations.torchmetrics": "torchmetrics.",
    "swag.integrations.tensorboard": "TensorBoard.",
    "swag.integrations.stable_baselines3": "stable-baselines3.",
}

LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    """Every page of the site that lies in the repository."""
    found = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]
    found += sorted(path for path in (ROOT / "docs").rglob("*.md") if SITE not in path.parents)
    return found + sorted((ROOT / "experiments").glob("**/README.md"))


def local_links(page: Path) -> list[str]:
    """The links of a Markdown page that point to files."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    return [link for link in LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def stage(source: Path) -> list[str]:
    """Lays the pages and what they link to out under `source`; what is wrong with the links."""
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    wrong = []
    for page in pages():
        _copy(page, source)
        if page.suffix != ".md":
            continue
        for link in local_links(page):
            target = Path(os.path.normpath(page.parent / link))
            if not target.is_file() or ROOT not in target.parents:
                wrong.append(f"{page.relative_to(ROOT)}: the link {link} leads to no file of the repository")
            else:
                _copy(target, source)
    shutil.copy(SITE / "index.md", source)
    return wrong


def _copy(path: Path, source: Path) -> None:
    target = source / path.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)


def write_reference(source: Path) -> list[str]:
    """One page for each module of `MODULES` that can be imported; the names of the others."""
    missing: list[str] = []
    shown: dict[int, str] = {}
    folder = source / "reference"
    folder.mkdir()
    for name, sentence in MODULES.items():
        try:
            module = importlib.import_module(name)
        except ImportError:
            missing.append(name)
            continue
        (folder / f"{name}.md").write_text(reference_page(module, sentence, shown), encoding="utf-8")
    lines = [
        "# API reference",
        "",
        "Every public name, from its docstring.",
        "",
        "```{toctree}",
        ":maxdepth: 1",
        "",
    ]
    lines += [name for name in MODULES if name not in missing]
    (folder / "index.md").write_text("\n".join([*lines, "```", ""]), encoding="utf-8")
    return missing


def reference_page(module: ModuleType, sentence: str, shown: dict[int, str]) -> str:
    """The page of one module: its classes and functions one after the other.

    `shown` says on which page each object was described before; a second page points there.
    """
    name = module.__name__
    lines, elsewhere = [f".. currentmodule:: {name}", ""], []
    for public in public_names(module):
        value = getattr(module, public)
        if inspect.ismodule(value):
            continue
        if id(value) in shown:
            elsewhere.append(f"{{py:obj}}`{shown[id(value)]}.{public}`")
            continue
        if inspect.isclass(value):
            lines += [f".. autoclass:: {name}.{public}", "   :members:", ""]
        elif inspect.isroutine(value):
            lines += [f".. autofunction:: {name}.{public}", ""]
        else:
            lines += [f".. autodata:: {name}.{public}", "   :no-value:", ""]
            continue  # equal numbers and strings are one object
        shown[id(value)] = name
    head = [f"# {name}", "", sentence, ""]
    if elsewhere:
        head += [f"Also here, described where they are used most: {', '.join(elsewhere)}.", ""]
    return "\n".join([*head, "```{eval-rst}", *lines, "```", ""])


def public_names(module: ModuleType) -> list[str]:
    """`__all__`; or, of a module of one file, what it defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Builds the documentation site.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs")
    parser.add_argument(
        "--linkcheck", action="store_true", help="ask every address on the web instead of building"
    )
    options = parser.parse_args(arguments)
    try:
        from sphinx.cmd.build import main as sphinx
    except ImportError:
        print("docs: needs the extra docs; run: ./run install docs", file=sys.stderr)
        return 2
    sys.path.insert(0, str(ROOT))
    source = options.out / "source"
    wrong = stage(source)
    for complaint in wrong:
        print(f"docs: {complaint}", file=sys.stderr)
    if wrong:
        return 1
    for name in write_reference(source):
        print(f"docs: {name} is left out of the reference: its extra is not installed", file=sys.stderr)
    builder = "linkcheck" if options.linkcheck else "html"
    flags = [
        "-q",
        "-W",
        "-E",
        "--keep-going",
        "-b",
        builder,
        "-c",
        str(SITE),
        "-d",
        str(options.out / "doctrees"),
    ]
    code = sphinx([*flags, str(source), str(options.out / builder)])
    if code == 0 and not options.linkcheck:
        print(options.out / "html" / "index.html")
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

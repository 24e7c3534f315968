"""The pages on migrating and on schedules: their Python runs as it stands, their figure is the script's."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from swag import schedules

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
MIGRATING = sorted(f"migrating/{page.name}" for page in (DOCS / "migrating").glob("*.md"))


@pytest.mark.parametrize("page", ["averages.md", "schedules.md", *MIGRATING])
def test_snippets_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 3
    namespace: dict[str, object] = {}
    with torch.random.fork_rng():
        for block in blocks:
            exec(compile(block, page, "exec"), namespace)
    # Every snippet's claim is asserted inside; these are the ones that show at the end.
    if page == "migrating/swa_utils.md":
        model = namespace["model"]
        assert torch.isfinite(namespace["probs"]).all()  # type: ignore[call-overload]
        assert not torch.equal(namespace["predictions"], model.eval()(namespace["x"]))  # type: ignore[operator, arg-type, attr-defined]


def test_every_schedule_is_in_the_table_and_in_the_figure() -> None:
    text = (DOCS / "schedules.md").read_text(encoding="utf-8")
    svg = (DOCS / "figures" / "schedules.svg").read_text(encoding="utf-8")
    made = [name for name in schedules.__all__ if name not in ("Schedule", "SWALR", "rates")]
    for name in made:
        assert f"| `{name}(optimizer" in text
        assert f"{name}(" in svg


def test_the_figure_is_what_the_script_draws() -> None:
    drawn = script()
    for title, make, epochs, steps in drawn.PANELS:
        at, rates, points = drawn.trace(make, epochs, steps)
        assert len(at) == len(rates) >= epochs
        assert points and set(points) <= set(at), title
        assert 0 <= min(rates) <= max(rates) <= 0.1


def test_the_names_in_the_tables_exist() -> None:
    text = (DOCS / "migrating" / "swa_utils.md").read_text(encoding="utf-8")
    import swag.training

    for name in ("RunningAverage", "CustomAverage", "EMA", "DebiasedEMA", "Swap", "from_averaged_model"):
        assert name in text and hasattr(swag.training, name)
    for name in re.findall(r"optimizer\.(\w+)\(?", text):
        known = {
            "optimizer",
            "SWA",
            "swa_utils",
            "SGD",
            "zero_grad",
            "step",
            *dir(swag.training.SWAOptimizer),
        }
        assert name in known, name


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_schedules", DOCS / "figures" / "schedules.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

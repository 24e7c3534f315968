"""Each page of docs/integrations shows one complete script, which runs and prints what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDES = Path(__file__).parent.parent / "docs" / "integrations"
PACKAGES = {
    "lightning": ["lightning"],
    "huggingface": ["transformers", "peft"],
    "skorch": ["skorch"],
    "botorch": ["botorch"],
    "torchmetrics": ["torchmetrics"],
    "tensorboard": ["tensorboard"],
    "stable_baselines3": ["stable_baselines3", "gymnasium"],
    "scikit_learn": [],
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def script_and_output(page: str) -> tuple[str, str]:
    """The first block of Python on `page`, and the block of text that must follow it."""
    blocks = BLOCK.findall(page)
    first = next(i for i, (language, _) in enumerate(blocks) if language == "python")
    assert blocks[first + 1][0] == "text", "the script's output comes right after it"
    return blocks[first][1], blocks[first + 1][1]


def test_every_integration_has_its_page() -> None:
    assert {page.stem for page in GUIDES.glob("*.md")} == set(PACKAGES)


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_the_script_of_the_page_prints_what_the_page_says(name: str, tmp_path: Path) -> None:
    for package in PACKAGES[name]:
        pytest.importorskip(package)
    script, expected = script_and_output((GUIDES / f"{name}.md").read_text())
    assert len(script.splitlines()) <= 40
    (tmp_path / "script.py").write_text(script)
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected.splitlines()

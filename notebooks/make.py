"""Makes the .ipynb of every notebook here from its .py: runs it, and keeps the outputs.

    ./run install notebooks
    ./run python notebooks/make.py [NAME …]

The .py files (percent format) are what is edited and what the tests run. Output cells hold no times, so a
second run gives the same files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(names: list[str]) -> int:
    try:
        import jupytext
        import nbformat
        from nbclient import NotebookClient
    except ImportError as error:
        print(f"{error}; run: ./run install notebooks", file=sys.stderr)
        return 2
    # Libraries that import tqdm.auto warn, with a path of this machine, where there are no widgets.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    for source in sources():
        if names and source.stem not in names:
            continue
        notebook = jupytext.read(source)
        notebook.metadata["kernelspec"] = {
            "name": "python3",
            "display_name": "Python 3",
            "language": "python",
        }
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{number}"  # random ones would differ each time
        NotebookClient(
            notebook, timeout=600, record_timing=False, resources={"metadata": {"path": HERE}}
        ).execute()
        notebook.metadata.pop("language_info", None)
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(source.with_suffix(".ipynb").name)
    return 0


def sources() -> list[Path]:
    """The notebooks in percent format."""
    return [path for path in sorted(HERE.glob("*.py")) if path.name != "make.py"]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

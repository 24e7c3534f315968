"""Sphinx's settings for the documentation site; `docs/site/build.py` lays the sources out around it."""

import re
import tomllib
from pathlib import Path

project = "swag"
author = copyright = "the swag authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["build"]
html_theme = "furo"
html_title = "swag"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False

nb_execution_mode = "off"  # the outputs are stored with the notebooks; tests run them
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4

suppress_warnings = ["myst.header"]  # tables made by scripts begin at the third level

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "code"  # `x` in a docstring is code, as in Markdown
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

_project = Path(__file__).resolve().parents[2] / "pyproject.toml"
release = version = tomllib.loads(_project.read_text())["project"]["version"]

# Docstrings are written as Markdown is: outside of code, |x|, *args and trailing_ are themselves.
_CODE = re.compile(r"(``?[^`]+``?)")
_SPECIAL = re.compile(r"([|*]|(?<=\w)_(?!\w))")


def _plain(app, what, name, obj, options, lines):  # type: ignore[no-untyped-def]
    """Keeps reStructuredText from reading markup into mathematics."""
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else _escaped(line) for line in lines]


def _escaped(line):  # type: ignore[no-untyped-def]
    if re.match(r"\s*(:\w|\.\. )", line):  # a field or directive made by napoleon
        head, colon, rest = line.partition(": ") if line.lstrip().startswith(":") else (line, "", "")
        return head + colon + _escaped(rest) if rest else line
    return "".join(
        part if part.startswith("`") else _SPECIAL.sub(r"\\\1", part) for part in _CODE.split(line)
    )


def _skip(app, what, name, obj, skip, options):  # type: ignore[no-untyped-def]
    """Leaves out what scikit-learn adds to its estimators for the routing of metadata."""
    return True if re.fullmatch(r"set_\w+_request|get_metadata_routing", name) else None


def setup(app):  # type: ignore[no-untyped-def]
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _plain, priority=400)

"""The page: well-formed, one file, no requests, names escaped; and what a browser makes of it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import quote

import numpy as np
import pytest
import torch

from swag.predictive import CategoricalPredictive, GaussianPredictive
from swag.report import (
    Report,
    plot_confidence_histogram,
    plot_coverage,
    plot_entropy_histogram,
    plot_pit,
    plot_reliability,
    plot_risk_coverage,
)

NASTY = '<b>bold</b> & "quoted" $x^2$ \'n'
VOID = {"meta", "link", "br", "img", "col", "line", "circle", "path", "use", "rect"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what a browser would load, ids and references."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.loads, self.ids, self.references, self.text = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
                (self.references if (value or "").startswith("#") else self.loads).append(value)
            if name == "id":
                self.ids.append(value)
            if value:
                self.references += [f"#{found}" for found in re.findall(r"url\(#([^)]+)\)", value)]

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
            self.open.pop()

    def handle_data(self, text):
        self.text.append(text)


def classification(**more):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (120,), generator=generator)

    def predictive(members, rows, y=None):
        logits = torch.randn(members, rows, 3, generator=generator)
        if y is not None:
            logits[:, torch.arange(rows), y] += 1.5
        return CategoricalPredictive.from_logits(logits)

    names = ("SGD", NASTY, "_hidden")
    options = {
        "ood": {"photo <i>patches</i>": {name: predictive(4, 50) for name in names}},
        "images": torch.rand(120, 1, 8, 8, generator=generator),
        "class_names": ["cat", "<script>alert(1)</script>", "eel"],
        "title": "A <title> & more",
        "provenance": {"date": "2025-01-01", "note": "<img src=x onerror=alert(1)>"},
        "n_bootstrap": 60,
    }
    return Report({name: predictive(4, 120, labels) for name in names}, labels, **{**options, **more})


def regression():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(90, generator=generator)
    outputs = {
        name: GaussianPredictive(0.3 * torch.randn(s, 90, generator=generator), torch.ones(s, 90))
        for name, s in (("SGD", 1), (NASTY, 5))
    }
    return Report(outputs, y, title="Regression", n_bootstrap=60)


@pytest.fixture(scope="module")
def pages():
    return {"classification": classification().to_html(), "regression": regression().to_html()}


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_the_page_is_well_formed_and_loads_nothing(pages, kind):
    page = Page(pages[kind])
    assert pages[kind].startswith("<!doctype html>")
    assert all(load.startswith("data:") for load in page.loads), page.loads
    assert "http:" not in pages[kind] and "https:" not in pages[kind] and "@import" not in pages[kind]
    assert "script" not in page.tags and "iframe" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert not re.search(r">\s*nan\b", pages[kind], re.IGNORECASE)


def test_names_are_escaped_everywhere(pages):
    for text in pages.values():
        page = Page(text)
        assert not {"b", "i"} & set(page.tags)
        assert (
            "<b>" not in text
            and "<script" not in text
            and "<img src=x" not in text
            and "<title> &" not in text
        )
        assert NASTY in "".join(page.text)
    assert "<script>alert(1)</script>" in "".join(Page(pages["classification"]).text)


def test_every_section_is_there(pages):
    for kind, ids in (
        (
            "classification",
            "scores differences reliability risk ood classes uncertain definitions provenance",
        ),
        ("regression", "scores differences pit coverage spread definitions provenance"),
    ):
        assert set(ids.split()) <= set(Page(pages[kind]).ids)
    assert "2025-01-01" in pages["classification"]
    assert pages["classification"].count("data:image/png;base64,") == 8


def test_the_notebook_view_is_the_tables_without_page_or_figures():
    text = classification()._repr_html_()
    page = Page(text)
    assert not {"html", "body", "main", "head"} & set(page.tags)
    assert re.search(r"^(html|body)\b", text, re.MULTILINE) is None  # no rule for the notebook itself
    assert "<td" in text and len(text) < 60_000


def test_one_method_without_extras():
    report = Report({"only": torch.full((20, 2), 0.5)}, torch.arange(20) % 2, n_bootstrap=20)
    page = Page(report.to_html())
    assert "differences" not in page.ids and "ood" not in page.ids and "uncertain" not in page.ids


@pytest.mark.parametrize("shape", [(20, 6, 5), (20, 3, 6, 5), (20, 6, 5, 3), (20, 1, 300, 200)])
def test_images_of_any_layout_become_pictures(shape):
    import base64
    import io

    from PIL import Image

    images = np.random.default_rng(0).normal(size=shape)
    report = Report({"A": torch.full((20, 2), 0.5)}, torch.arange(20) % 2, images=images, n_bootstrap=20)
    uri = report.results.classification.uncertain[0].image
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert picture.size == ((5, 6) if 300 not in shape else (64, 96))
    assert picture.mode == ("RGB" if 3 in shape else "L")


def test_plots_take_an_axes_and_leave_pyplot_alone():
    import matplotlib
    from matplotlib.figure import Figure

    before = dict(matplotlib.rcParams)
    details = classification().results.classification
    axes = Figure().subplots(2, 2).ravel()
    name = NASTY
    assert plot_reliability(axes[0], details.reliability[name], label=name) is axes[0]
    plot_confidence_histogram(axes[1], details.reliability[name])
    plot_risk_coverage(axes[2], details.risk_coverage)
    plot_entropy_histogram(axes[3], details.entropy_in[name], details.ood[0].entropy_out[name])
    heights = [patch.get_height() for patch in axes[1].patches]
    assert sum(heights) == pytest.approx(100)
    assert len(axes[2].get_legend_handles_labels()[1]) == 3  # "_hidden" too
    other = regression().results
    axes = Figure().subplots(1, 2)
    plot_pit(axes[0], other.regression.pit["SGD"], other.n_rows)
    plot_coverage(axes[1], other.regression.coverage)
    classification().to_html()
    assert dict(matplotlib.rcParams) == before


def test_importing_the_package_draws_in_no_plotting_library():
    import sys

    code = "import sys, swag.report; print([m for m in ('matplotlib', 'jinja2', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # jinja2 may come with torch; the report does not ask for it.
    assert "matplotlib" not in done.stdout and "PIL" not in done.stdout


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_opens_the_page_without_errors_or_requests(pages, tmp_path, width):
    # An outer page measures the report inside a frame of the given width, and reports through its own title.
    report = tmp_path / "report.html"
    report.write_text(pages["classification"], encoding="utf-8")
    script = """
      const frame = document.querySelector('iframe');
      frame.onload = () => {
        const page = frame.contentDocument;
        const found = {
          overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
          entries: frame.contentWindow.performance.getEntriesByType('resource').map(e => e.name)
            .filter(name => !name.startsWith('data:')),
          tables: page.querySelectorAll('table').length,
          heights: [...page.querySelectorAll('figure > svg')].map(s => s.getBoundingClientRect().height),
          images: [...page.images].every(i => i.complete && i.naturalWidth > 0),
        };
        document.querySelector('pre').textContent = JSON.stringify(found);
      };
    """
    outer = tmp_path / "outer.html"
    outer.write_text(
        f"<!doctype html><pre></pre><iframe src='{quote(report.name)}' width={width} height=900></iframe>"
        f"<script>{script}</script>"
    )
    done = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--no-first-run", "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom",
         outer.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    match = re.search(r"<pre>(.+?)</pre>", done.stdout, re.DOTALL)
    assert match, done.stdout[:500] + done.stderr[-2000:]
    found = json.loads(match[1])
    assert found["entries"] == [] and found["images"]
    assert found["overflow"] <= 0  # nothing wider than the window: tables scroll inside their own boxes
    assert found["tables"] >= 8 and min(found["heights"]) > 80

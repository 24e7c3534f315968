"""What `swag demo` does: checks first, then the study, then the files, then the words."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import swag
from swag.demo import fashion, words
from swag.demo.settings import Settings
from swag.demo.study import Study, conduct


def run(settings: Settings) -> None:
    """Prints the milestones on standard error and the result on standard output, and writes the files.

    Raises:
        SwagError: an option cannot be used (said before any training), or a file cannot be read or written.
    """
    started = time.monotonic()

    def say(text: str) -> None:
        if not settings.quiet:
            print(f"swag demo: {time.monotonic() - started:5.1f} s  {text}", file=sys.stderr, flush=True)

    settings.check()
    if settings.data == "fashion-mnist":
        fashion.check(settings.folder, settings.n_train)
    with writable(settings.output):
        study = conduct(settings, say)
        files = write(study, settings.output)
        say("done")
    print(words.page(study.report, study.figures, study.weight_decays, words.terminal_width()))
    print()
    print(words.ending(files, settings))


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Makes the folder, or says that it cannot be written; a failure inside leaves no empty new one."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise swag.InputError(
            f"--output: cannot write into {folder} ({error.strerror}); pass a folder that you may write to"
        ) from error
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # not empty: what is in it is whole
                folder.rmdir()
        raise


def write(study: Study, folder: Path) -> list[Path]:
    """The report as page and as JSON, every member's SWAG posterior, and their mixture."""
    names = [f"swag_{member}.safetensors" for member in range(len(study.posteriors))]
    for name, posterior in zip(names, study.posteriors, strict=True):
        swag.save(folder / name, posterior)
    swag.save(folder / "multiswag.safetensors", swag.Mixture(study.posteriors))
    study.report.save(folder / "report.json")
    study.report.save(folder / "report.html")
    return [folder / name for name in ("report.html", "report.json", *names, "multiswag.safetensors")]

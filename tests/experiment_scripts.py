"""An experiment's script as it is called from the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch


def called(main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """`main()` with these arguments; torch's generator is afterwards as it was."""
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
    with torch.random.fork_rng(devices=[]):
        return main()

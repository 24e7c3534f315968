"""What the demo can be told, its defaults, and what it refuses; it loads no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from swag.errors import InputError

DATA = ("digits", "fashion-mnist")
DEFAULT_SUBSET = 2_000


@dataclass(frozen=True)
class Settings:
    """The options of `swag demo`.

    Attributes:
        seed: of everything that is random.
        output: the folder for the files.
        members: networks trained for SGD, and as many for averaging.
        samples: of each posterior.
        epochs: of each training; averaging takes its snapshots in the second half.
        data: "digits" or "fashion-mnist".
        data_dir: the folder that holds fashion_mnist and mnist; None for $SWAG_DATA, else ./data.
        subset: training rows of Fashion-MNIST; None for 2,000.
        quiet: nothing on standard error.
    """

    seed: int = 0
    output: Path = Path("swag-demo")
    members: int = 3
    samples: int = 30
    epochs: int = 40
    data: str = "digits"
    data_dir: Path | None = None
    subset: int | None = None
    quiet: bool = False

    @property
    def folder(self) -> Path:
        """Where data files are looked for."""
        return self.data_dir or Path(os.environ.get("SWAG_DATA") or "data")

    @property
    def n_train(self) -> int:
        """Training rows of Fashion-MNIST."""
        return DEFAULT_SUBSET if self.subset is None else self.subset

    def check(self) -> None:
        """Raises InputError for values that cannot be used."""
        for name, least, most in (
            ("seed", 0, 2**31 - 1),
            ("members", 1, 1000),
            ("samples", 1, 10_000),
            ("epochs", 3, 100_000),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                why = " (the second half must give two snapshots)" if name == "epochs" else ""
                raise InputError(f"--{name}: got {value}; pass {least} to {most:,}{why}")
        if self.data not in DATA:
            raise InputError(f"--data: got {self.data!r}; pass one of {', '.join(DATA)}")
        if self.data == "digits" and self.subset is not None:
            raise InputError(
                "--subset: only for --data fashion-mnist; the digits are always 900 for training"
            )

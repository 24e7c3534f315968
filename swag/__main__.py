"""`python -m swag` is the command `swag`."""

import sys

from swag.cli import main

if __name__ == "__main__":
    sys.exit(main())

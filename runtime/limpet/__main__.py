"""`python -m limpet`. Knows only where the command line is read."""

from __future__ import annotations

import sys

from limpet.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""The main script of the single executable. Knows only where the command line is read."""

from __future__ import annotations

import sys
from _frozen_importlib import BuiltinImporter


class LinkedIn:
    """Finds what is linked in below a package: Python's own finder looks at the top only."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        """Return the specification of the module `name`, or None."""
        return BuiltinImporter.find_spec(name) if path is not None else None


sys.meta_path.append(LinkedIn)  # type: ignore[arg-type]

from limpet.cli import main  # noqa: E402

sys.exit(main())

"""limpet: an edge agent runtime that loses no task and keeps every deadline."""

from __future__ import annotations

__version__ = "0.1.0"

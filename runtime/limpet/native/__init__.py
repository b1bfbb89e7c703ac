"""The Rust core as Python sees it: `core.Core`, and nothing else is to be used from outside."""

"""The built extension, to a type checker: cffi knows its types, and the C compiler checked them."""

from typing import Any

ffi: Any
lib: Any

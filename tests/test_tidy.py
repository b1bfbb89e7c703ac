"""The rules of style that a machine can check: where things may be used, and how long they may be.

Every test lists its violations as `file:line: what`, so that the list is the work to do.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNTIME = ROOT / "runtime" / "limpet"
NATIVE = ROOT / "native"

FOLDERS = {"configs", "hw-tests", "native", "packaging", "runtime", "tests"}
BUILT = {".git", ".venv", "build", "dist", "target", "__pycache__"}
# What tools insist on at the root; every other root file is a document.
ROOT_FILES = {"LICENSE", "Makefile", "pyproject.toml"}

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
LINE_COLUMNS_MAX = 100

# Who alone may use a module; a folder ends in "/". The build is no part of the running agent.
BUILD = "native/ffi_build.py"
ONLY_IN: dict[str, set[str]] = {
    "paho": {"link.py", "controller/session.py"},
    "cffi": {"native/"},
    "limpet.native._core": {"native/"},
    "time": {"clock.py"},
    "random": {"app.py", "backoff.py"},
    "threading": {"controller/"},
    "limpet.controller": {"controller/", "cli.py"},
    # Each costs memory that the agent has not got, or starts what the core must start.
    "argparse": {"cli.py", "controller/"},
    "asyncio": {"controller/"},
    "dataclasses": {"controller/"},
    "importlib.metadata": {"controller/"},
    "logging": {"controller/"},
    "ssl": {"controller/"},
    "subprocess": {"controller/", BUILD},
    "urllib": {"controller/"},
}
# A name that says nothing hides nothing.
EMPTY_NAMES = {"base", "common", "helper", "helpers", "manager", "service", "util", "utils"}

PURE_CRATES = ("core", "inventory")
CORE_FORBIDS = {
    "the outside world": r"\bstd::(?:time|fs|net|process|thread|env)\b",
    "the outside world, in a list": r"\bstd::\{[^}]*\b(?:time|fs|net|process|thread|env)\b",
    "a map of random order": r"\bHash(?:Map|Set)\b|\bRandomState\b",
    "a float": r"\bf(?:32|64)\b",
    "unsafe": r"\bunsafe\b",
}


def files(folder: Path, *suffixes: str) -> Iterator[Path]:
    """Yield the source files beneath `folder`, without what was built."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(ROOT).parts
        if path.suffix in suffixes and path.is_file() and not BUILT & set(inside):
            yield path


def sources() -> list[Path]:
    return [path for name in sorted(FOLDERS) for path in files(ROOT / name, ".py", ".rs")]


def at(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {what}"


def none(violations: Iterable[str]) -> None:
    found = list(violations)
    if found:
        pytest.fail("\n".join([f"{len(found)} violations", *found]), pytrace=False)


def is_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and module of each import that happens when the code runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from ((child.lineno, f"{child.module}.{alias.name}") for alias in child.names)
        elif is_types_only(child):
            yield from imports(ast.Module(getattr(child, "orelse", []), []))
        else:
            yield from imports(child)


def rust_code(text: str) -> str:
    """Return `text` with its comments and literals blanked, line for line."""
    token = re.compile(
        r"""//[^\n]*|/\*.*?\*/                          # comments
        |b?r(\#*)".*?"\1|b?"(?:\\.|[^"\\])*"            # strings
        |b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^'\\])'          # characters, but no lifetimes
        """,
        re.DOTALL | re.VERBOSE,
    )
    return token.sub(lambda match: "\n" * match[0].count("\n") or " ", text)


def rust_functions(code: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, first line and length of each function that has a body."""
    for match in re.finditer(r"\bfn\s+(\w+)", code):
        depth = {"(": 0, "[": 0, "{": 0}
        for end in range(match.end(), len(code)):
            sign = code[end]
            if sign in depth:
                depth[sign] += 1
            elif sign in ")]}":
                depth[{")": "(", "]": "[", "}": "{"}[sign]] -= 1
            if not any(depth.values()) and sign in ";}":
                break
        first = code.count("\n", 0, match.start()) + 1
        yield match[1], first, code.count("\n", 0, end) + 2 - first


def python_functions(tree: ast.AST) -> Iterator[tuple[str, int, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, (node.end_lineno or node.lineno) + 1 - node.lineno


def test_the_top_level_has_only_its_folders_and_documents() -> None:
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in BUILT | ROOT_FILES:
            assert path.name in FOLDERS if path.is_dir() else path.suffix == ".md", path.name


def test_no_file_has_an_empty_name() -> None:
    none(
        at(path, 1, "says nothing about what it decides")
        for path in sources()
        if path.stem in EMPTY_NAMES or path.parent.name in EMPTY_NAMES
    )


@pytest.mark.parametrize("module", ONLY_IN)
def test_a_module_is_imported_only_where_it_may_be(module: str) -> None:
    allowed = tuple(ONLY_IN[module])
    none(
        at(path, line, f"imports {name}")
        for path in files(RUNTIME, ".py")
        if not f"{path.relative_to(RUNTIME)}".startswith(allowed)
        for line, name in imports(ast.parse(path.read_text(encoding="utf-8")))
        if f"{name}.".startswith(f"{module}.")
    )


def test_only_the_binding_touches_the_foreign_interface() -> None:
    none(
        at(path, node.lineno, "uses ffi")
        for path in files(RUNTIME, ".py")
        if path.relative_to(RUNTIME).parts[0] != "native"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name | ast.Attribute)
        and getattr(node, "id", getattr(node, "attr", None)) == "ffi"
    )


def test_the_runtime_has_no_assert() -> None:
    """`python -O` would remove it; what must hold is said with `check`."""
    none(
        at(path, node.lineno, "assert")
        for path in files(RUNTIME, ".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    )


@pytest.mark.parametrize("what", CORE_FORBIDS)
def test_the_core_has_no_part_in(what: str) -> None:
    none(
        at(path, number, line.strip())
        for path in files(NATIVE / "core" / "src", ".rs")
        for number, line in enumerate(
            rust_code(path.read_text(encoding="utf-8")).splitlines(), start=1
        )
        if re.search(CORE_FORBIDS[what], line)
    )


def test_the_pure_crates_forbid_unsafe_code() -> None:
    for crate in PURE_CRATES:
        root = NATIVE / crate / "src" / "lib.rs"
        assert not root.parent.exists() or "#![forbid(unsafe_code)]" in root.read_text(
            encoding="utf-8"
        ), root


def test_files_and_lines_are_short() -> None:
    def violations() -> Iterator[str]:
        for path in sources():
            lines = path.read_text(encoding="utf-8").splitlines()
            if len(lines) > FILE_LINES_MAX:
                yield at(path, len(lines), f"longer than {FILE_LINES_MAX} lines")
            for number, line in enumerate(lines, start=1):
                if len(line) > LINE_COLUMNS_MAX:
                    yield at(path, number, f"{len(line)} columns of {LINE_COLUMNS_MAX}")

    none(violations())


def test_functions_fit_a_screen() -> None:
    def violations() -> Iterator[str]:
        for path in sources():
            text = path.read_text(encoding="utf-8")
            found = (
                python_functions(ast.parse(text))
                if path.suffix == ".py"
                else rust_functions(rust_code(text))
            )
            for name, line, length in found:
                if length > FUNCTION_LINES_MAX:
                    yield at(path, line, f"{name} has {length} lines of {FUNCTION_LINES_MAX}")

    none(violations())


def test_nothing_is_left_to_do() -> None:
    mark = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME)\b|\b(?:todo|unimplemented)!\(")
    suffixes = (".c", ".md", ".py", ".rs", ".sh", ".toml", "")
    none(
        at(path, number, line.strip())
        for path in files(ROOT, *suffixes)
        if path.relative_to(ROOT).parts[0] in FOLDERS | ROOT_FILES or path.suffix == ".md"
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1
        )
        if mark.search(line)
    )


def test_the_scanner_of_rust_sees_code_only() -> None:
    """A brace or a word in a comment, string, character or lifetime is none in the code."""
    code = rust_code(
        "fn a<'x>(b: &'x [u8; 4]) -> [u8; 2] { // unsafe {\n"
        " let c = ('{', \"}\\\"{\", r#\"unsafe \" {\"#, b'\\'', '\\u{7b}');\n"
        " /* {\n */ }\nfn d();\nfn e() {}\n"
    )
    assert "unsafe" not in code
    assert list(rust_functions(code)) == [("a", 1, 4), ("d", 5, 1), ("e", 6, 1)]

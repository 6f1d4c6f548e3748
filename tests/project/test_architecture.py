"""Imports point downwards: a part of the package knows only the parts below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mpauthx_async

PACKAGE = Path(mpauthx_async.__file__).parent
NAME = mpauthx_async.__name__

# From the top to the bottom. Parts of one line do not import one another.
RANKS = [
    {"__main__", "pytest_plugin"},
    {"cli"},
    {"web"},
    {"apps"},
    {"service", "metrics"},
    {"login"},
    {"oauth", "sessions"},
    {"wechat"},
    {"shared_parts"},
    {"stores"},
    {"tokens"},
    {"connections"},
    {"redis_urls"},
    {"redis_sentinels"},
    {"concurrency"},
    {"settings"},
    {"events", "gauges"},
    {"models"},
    {"store_errors"},
    {"untrusted_text"},
    {"failure_log", "http_log"},
    {"errors"},
    {"constants", "_compat"},
]
RANK = {part: -rank for rank, parts in enumerate(RANKS) for part in parts}
# The two public services and the simulator take all their options.
CONFIGURED = {"service", "oauth.client", "simulator.server"}
SIMULATOR_KNOWS = {"wechat.errcodes", "models", "errors", "http_log", "simulator"}

MODULES = {
    ".".join((NAME, *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def part_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(module: str) -> Iterator[str]:
    """The modules of this package that a module imports, also within functions."""
    path = MODULES[module]
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith(f"{NAME}."))
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            if source == NAME:
                yield from (f"{NAME}.{name.name}" for name in node.names)
            elif source.startswith(f"{NAME}."):
                yield source


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) in RANK])
def test_imports_point_downwards(module: str) -> None:
    part = part_of(module)
    upwards = {
        imported
        for imported in imports_of(module)
        if part_of(imported) != part
        and RANK.get(part_of(imported), 1) >= RANK[part]
        and not (part in ("cli", "pytest_plugin") and part_of(imported) == "simulator")
    }
    assert not upwards


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) == "simulator"])
def test_the_simulator_imports_only_what_is_listed(module: str) -> None:
    known = {imported.removeprefix(f"{NAME}.") for imported in imports_of(module)}
    assert {name for name in known if name.split(".")[0] != "simulator"} <= SIMULATOR_KNOWS


def test_each_part_has_a_rank() -> None:
    assert {part_of(module) for module in MODULES} - {"__init__", "simulator"} == RANK.keys()


def test_there_are_no_import_cycles() -> None:
    graph = {
        module: {target for target in imports_of(module) if target in MODULES} for module in MODULES
    }
    # What nothing is left to import from is taken away, until nothing changes.
    while leaves := {module for module, targets in graph.items() if not targets & graph.keys()}:
        graph = {module: targets for module, targets in graph.items() if module not in leaves}
    assert sorted(graph) == []


@pytest.mark.parametrize("module", MODULES)
def test_files_functions_and_constructors_stay_small(module: str) -> None:
    text = MODULES[module].read_text("utf-8")
    # The facade's docstrings are the reference.
    assert len(text.splitlines()) <= (900 if module == f"{NAME}.service" else 500)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            is_init = node.name == "__init__"
            if is_init and module.removeprefix(f"{NAME}.") in CONFIGURED:
                continue
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
            arguments = [*node.args.args, *node.args.kwonlyargs]
            assert not is_init or len(arguments) <= 1 + 8  # self, and eight of its own


TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.stem)
def test_no_test_module_imports_from_another(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "tests import by the full name"
            package, _, name = (node.module or "").rpartition(".")
            is_ours = package.partition(".")[0] == "tests"
            assert not (is_ours and name.startswith(("test_", "conftest")))

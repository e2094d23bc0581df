"""The walls between the rooms, read from the source: who may import what, and how a file must look.

A room is a folder or a top-level file of the package.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "perpbt"
FILES = {
    ".".join(("perpbt", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
MODULES = pytest.mark.parametrize("module", FILES)

# What a room may import of the package. Rooms that are not named here are drivers: they may import anything
# that does not import them.
WALLS: Mapping[str, set[str]] = {
    "errors": set(),
    "mapped": {"errors"},
    "stored": {"errors"},
    "columns": {"mapped"},
    "checks": {"errors"},
    "contracts": {"errors"},
    "kernels": set(),
    "oracle": set(),
    "config": {"errors"},
    "statistics": {"errors", "kernels"},  # of these, those that count and add
    "adl": {"contracts", "errors", "statistics"},
    "clearing": {"errors", "result"},  # the result's name only, for its type
    "load": {"errors", "config", "mapped"},
    "pricing": {"checks", "errors", "load"},
    "scenarios": {"errors", "config", "load"},
    "strategy": {"config", "errors", "load"},
    "accounts": {"checks", "config", "errors", "load"},
    "venue": {"adl", "checks", "config", "contracts", "errors"},
    "explaining": {"checks", "contracts", "errors", "venue"},
    "formulas": {"contracts", "explaining", "pricing", "procedures", "venue"},
    "procedures": {"config", "engines", "errors", "kernels"},
    "prepare": {"config", "contracts", "errors", "kernels", "load", "mapped", "venue"},
    "engines": {"accounts", "columns", "errors", "kernels", "mapped", "oracle", "prepare"},
    "settling": {"columns", "contracts", "engines", "errors", "kernels", "load", "procedures", "statistics"},
    "report": {"statistics", "errors"},
    "summary": {"result", "statistics", "errors"},
    "studies": {
        "adl",
        "config",
        "engines",
        "errors",
        "load",
        "result",
        "report",
        "statistics",
    },  # and public names
    "bench": set(),  # public names only: what is timed is what a user calls
}
# Rooms that never meet a simulation, however many imports one follows.
NO_SIMULATION = (
    "adl",
    "config",
    "load",
    "venue",
    "strategy",
    "accounts",
    "pricing",
    "scenarios",
    "statistics",
    "report",
)
SIMULATION = {"oracle", "engines", "settling", "running", "coupling", "crossing", "doors"}
# Who may import these libraries: fast help, one cast point, kernels that are tested on their own.
LIBRARIES: Mapping[str, set[str]] = {
    "numba": {"kernels", "bench"},  # bench: the other side's order function
    "matplotlib": {"report", "studies"},
    "jinja2": {"report"},
    "scipy": {"statistics", "report"},
    "pydantic": {"config", "venue", "checks", "strategy"},
    "typer": {"cli"},
    "rich": {"cli"},
    "ray": set(),
    "duckdb": set(),
    "pandas": set(),
}


# ------------------------------------------------------------------------------------------- reading imports
def imported(module: str, nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Full names of what these nodes import; of a module of the package, the module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                inside = FILES[module].name == "__init__.py"
                above = module.split(".")[: (1 if inside else 0) - node.level or None]
                base = ".".join([*above, base]).rstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in FILES else base


def everything(module: str) -> set[str]:
    """Imports anywhere in a module, in functions and for type checkers too."""
    return set(imported(module, ast.walk(TREES[module])))


def at_import(module: str) -> set[str]:
    """Imports that run when the module is imported."""
    body = TREES[module].body
    return set(imported(module, (node for node in body if not isinstance(node, ast.If))))


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "perpbt"


def rooms() -> dict[str, set[str]]:
    """Which room imports which, itself left out, and the package's own front page, which only passes on."""
    graph: dict[str, set[str]] = {room(module): set() for module in FILES}
    for module in FILES:
        inside = {room(name) for name in everything(module) if name.split(".")[0] == "perpbt"}
        graph[room(module)] |= inside - {room(module), "perpbt"}
    graph.pop("perpbt")
    return graph


def reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        new = graph[todo.pop()] - found
        found |= new
        todo += new
    return found


# -------------------------------------------------------------------------------------------------- walls
def test_imports_are_read_right() -> None:
    assert everything("perpbt.kernels.walking") >= {
        "perpbt.kernels.tables",
        "perpbt.kernels.compile",
        "numpy",
    }
    assert "perpbt.report" in everything("perpbt.result")
    assert "perpbt.report" not in at_import("perpbt.result")
    assert "perpbt.load.describe" in everything("perpbt.load")


def test_rooms_import_only_what_their_wall_lets_through() -> None:
    graph = rooms()
    assert set(WALLS) <= set(graph), "a wall without a room"
    broken = {name: graph[name] - allowed for name, allowed in WALLS.items() if graph[name] - allowed}
    assert broken == {}


@pytest.mark.parametrize("name", NO_SIMULATION)
def test_what_describes_or_reports_never_meets_a_simulation(name: str) -> None:
    assert reached(rooms(), name) & SIMULATION == set()


def test_statistics_sees_of_kernels_only_what_counts_and_adds() -> None:
    arithmetic = {f"perpbt.kernels.{name}" for name in ("numbering", "sums", "tallying")}
    for module in FILES:
        if room(module) in (*NO_SIMULATION, "summary"):
            seen = {name for name in everything(module) if name.startswith("perpbt.kernels")}
            assert seen <= (arithmetic if room(module) == "statistics" else set()), module
    for module in arithmetic:
        seen = {name for name in everything(module) if name.startswith("perpbt.")}
        assert seen <= arithmetic | {"perpbt.kernels.compile", "perpbt.kernels.tables"}, module


def test_rooms_import_in_one_direction() -> None:
    graph = rooms()
    circular = {name for name in graph if name in reached(graph, name)}
    assert circular == set()


def test_modules_import_in_one_direction() -> None:
    graph = {module: at_import(module) & set(FILES) - {module, "perpbt"} for module in FILES}
    # A module runs its package's __init__ first, unless that is what imports it.
    circular = {name for name in graph if name in reached(graph, name)}
    assert circular == set()


@MODULES
def test_libraries_stay_in_their_rooms(module: str) -> None:
    for library in {name.split(".")[0] for name in everything(module)} & set(LIBRARIES):
        assert room(module) in LIBRARIES[library], f"{module} imports {library}"


def test_kernels_see_nothing_but_numpy_numba_and_each_other() -> None:
    allowed = {"numpy", "numba", "typing", "collections", "hashlib", "os", "sys", "pathlib", "__future__"}
    for module in FILES:
        if room(module) != "kernels":
            continue
        names = everything(module)
        assert {name for name in names if name.startswith("perpbt")} <= {
            other for other in FILES if room(other) == "kernels"
        }
        files = {"functools", "pickle", "warnings"} if module == "perpbt.kernels.compile" else set()
        assert {name.split(".")[0] for name in names} - {"perpbt"} <= allowed | files
        if "numba" in {name.split(".")[0] for name in names}:
            places = {f"perpbt.kernels.{name}" for name in ("ahead", "compile", "eights", "sixteens")}
            assert module in places, "one place states how kernels are compiled; three make instructions"


def test_the_oracle_computes_with_nothing_but_math() -> None:
    """It is a witness only as long as it shares nothing with what it is compared to."""
    modules = [module for module in FILES if room(module) == "oracle"]
    assert len(modules) > 3
    for module in modules:
        names = everything(module)
        assert {name.split(".")[0] for name in names} <= {
            "perpbt",
            "math",
            "typing",
            "collections",
            "__future__",
        }
        assert {name for name in names if name.startswith(("perpbt", "collections"))} <= {
            *modules,
            "collections.abc",  # for annotations, as typing is
        }


# ------------------------------------------------------------------------------------------- inside kernels
def kernels() -> Iterator[ast.FunctionDef]:
    for module, tree in TREES.items():
        if room(module) == "kernels":
            for node in tree.body:
                if isinstance(node, ast.FunctionDef) and any(
                    isinstance(one, ast.Name) and one.id == "kernel" for one in node.decorator_list
                ):
                    yield node


def test_kernels_use_only_arithmetic_that_is_the_same_compiled_and_not() -> None:
    """No powers, no transcendental functions, nothing random: those differ in the last bit between engines."""
    names = [kernel.name for kernel in kernels()]
    assert len(names) > 20
    assert len(set(names)) == len(names)
    exact = {
        "empty",
        "float32",
        "float64",
        "inf",
        "int64",
        "int8",
        "uint64",
        "isfinite",
        "isnan",
        "nan",
        "searchsorted",
        "sqrt",
        "zeros",
    }
    for kernel in kernels():
        for node in ast.walk(kernel):
            assert not isinstance(node, (ast.Pow, ast.Raise, ast.Assert, ast.Try)), (
                kernel.name,
                ast.dump(node),
            )
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                assert node.attr in exact, (kernel.name, node.attr)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("sum", "pow", "print", "round"), (kernel.name, node.func.id)


def test_nothing_is_compiled_with_fastmath() -> None:
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword):
                assert node.arg != "fastmath", f"{module}, line {node.value.lineno}"


# ------------------------------------------------------------------------------------------------- files
@MODULES
def test_a_module_says_what_it_does(module: str) -> None:
    docstring = ast.get_docstring(TREES[module])
    assert docstring
    assert docstring.partition("\n")[0].strip().endswith((".", ":")) or "\n" in docstring


@MODULES
def test_what_is_public_is_explained(module: str) -> None:
    for node in TREES[module].body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        assert ast.get_docstring(node), f"{module}.{node.name}, line {node.lineno}"


@MODULES
def test_files_stay_short(module: str) -> None:
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= 500


@MODULES
def test_functions_stay_short(module: str) -> None:
    """What a reader must hold in mind at once; docstrings, which explain, do not count."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef):
            explained = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
            assert (node.end_lineno or 0) - (explained or 0) <= 80, f"{module}.{node.name}"


@MODULES
def test_no_loose_ends(module: str) -> None:
    text = FILES[module].read_text(encoding="utf-8")
    for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X", "shared" + "/"):
        assert word not in text
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{module}, line {node.lineno}: catches everything"
            assert not all(isinstance(one, ast.Pass) for one in node.body), f"{module}, line {node.lineno}"

"""Finding a strategy and giving it its parameters.

In: a name, a path, a function, or tables of a run specification. Out: `BoundStrategy`, its expressions built.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import polars as pl

from perpbt.config import StrategySpec, find_file, shipped_files
from perpbt.config.fields import nearest, shown
from perpbt.config.parameters import Parameter, parameters_of, with_values
from perpbt.errors import InputError

SIGNALS = ("long_entry", "long_exit", "short_entry", "short_exit")
Expressions: TypeAlias = Mapping[str, pl.Expr]


@dataclass(frozen=True)
class Strategy:
    """A strategy that was found, not yet given its parameters. `sha256` is that of its source."""

    name: str
    path: Path | None
    doc: str
    sha256: str
    parameters: Mapping[str, Parameter]
    signals: Callable[..., Expressions] = field(repr=False)
    columns: Callable[..., Expressions] | None = field(repr=False, default=None)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.strip().partition("\n")[0]

    def bind(self, **params: Any) -> BoundStrategy:
        """With these parameters, expressions built. `InputError` for a wrong name, type or value."""
        values = with_values(f"strategy {self.name}", self.parameters, params)
        label = " ".join([self.name, *(f"{key}={value}" for key, value in sorted(params.items()))])
        signals = _expressions(self, "signals", self.signals, values)
        wrong = [key for key in signals if key not in SIGNALS]
        if wrong:
            raise InputError(
                f"strategy {self.name}: signals() returns {wrong[0]!r}{nearest(wrong[0], SIGNALS)}"
            )
        columns = {} if self.columns is None else _expressions(self, "columns", self.columns, values)
        return BoundStrategy(self, values, label, signals, columns)


@dataclass(frozen=True)
class BoundStrategy:
    """A strategy with all its parameters; `label` names it in results."""

    strategy: Strategy
    params: Mapping[str, Any]
    label: str
    signals: Expressions = field(repr=False)
    columns: Expressions = field(repr=False)


def find_strategy(
    given: str | Path | Callable[..., Expressions] | Strategy, *, folder: Path | None = None
) -> Strategy:
    """A strategy by name, by path (from the working directory, then `folder`), or a function like `signals`.

    Names are looked for in ./strategies, the checkout's and the installed ones. Raises `InputError`.
    """
    if isinstance(given, Strategy):
        return given
    if callable(given):
        return _from_function(given)
    return _from_file(find_file(given, "strategies", ".py", folder))


def list_strategies() -> list[Strategy]:
    """All strategies that have a name, sorted; files there without a function `signals` are not run."""
    paths = shipped_files("strategies", ".py")
    return [_from_file(paths[name]) for name in sorted(paths) if _defines(paths[name])]


def as_strategies(given: Any, *, folder: Path | None = None) -> list[BoundStrategy]:
    """Bound strategies from one or a list of: name, path, function, table of a spec, `Strategy`, bound ones.

    Raises `InputError` when two have the same label.
    """
    items = list(given) if isinstance(given, (list, tuple)) else [given]
    bound = [_bound(item, folder) for item in items]
    for label, count in Counter(item.label for item in bound).items():
        if count > 1:
            raise InputError(f"strategies: label {label!r} occurs {count} times; give each strategy its own")
    if not bound:
        raise InputError("strategies: at least one is needed")
    return bound


def _bound(item: Any, folder: Path | None) -> BoundStrategy:
    if isinstance(item, BoundStrategy):
        return item
    if isinstance(item, Mapping):
        item = StrategySpec(**item)
    if isinstance(item, StrategySpec):
        return replace(find_strategy(item.name, folder=folder).bind(**item.params), label=item.label)
    if isinstance(item, (str, Path)) or callable(item) or isinstance(item, Strategy):
        return find_strategy(item, folder=folder).bind()
    raise InputError(f"strategies: {shown(item)} must be a name, a path, a function or a strategy")


def _expressions(
    strategy: Strategy, name: str, function: Callable[..., Expressions], values: Mapping[str, Any]
) -> Expressions:
    """Call `signals` or `columns`; its own complaints about parameters become `InputError`."""
    accepted = inspect.signature(function).parameters
    try:
        found = function(**{key: value for key, value in values.items() if key in accepted})
    except Exception as error:  # as in _series
        raise InputError(
            f"strategy {strategy.name}: {name}() failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(found, Mapping):
        raise InputError(f"strategy {strategy.name}: {name}() returned {shown(found)}, not a mapping")
    for key, expression in found.items():
        if not isinstance(key, str) or not isinstance(expression, pl.Expr):
            raise InputError(
                f"strategy {strategy.name}: {name}()[{key!r}] = {shown(expression)}: no polars expression"
            )
    return dict(found)


def _parameters(name: str, function: Callable[..., Expressions]) -> dict[str, Parameter]:
    return parameters_of(f"strategy {name}", function)


def _from_function(function: Callable[..., Expressions]) -> Strategy:
    name = getattr(function, "__name__", type(function).__name__)
    try:
        source = inspect.getsource(function).encode()
    except (OSError, TypeError):  # typed at a prompt: the compiled code is all there is
        code = getattr(function, "__code__", None)
        source = repr((name, code and (code.co_code, code.co_consts, code.co_names))).encode()
    digest = hashlib.sha256(source).hexdigest()
    return Strategy(name, None, inspect.getdoc(function) or "", digest, _parameters(name, function), function)


def _from_file(path: Path) -> Strategy:
    """Run a strategy file. Nothing is written beside it, and two files of one name do not meet."""
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    module = ModuleType(f"perpbt_strategy_{path.stem}_{digest[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and typing look a class's module up
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    except Exception as error:  # as in _series
        frames = [entry for entry in traceback.extract_tb(error.__traceback__) if entry.filename == str(path)]
        line = getattr(error, "lineno", None) or (frames[-1].lineno if frames else None)
        where = f"{path}, line {line}" if line else str(path)
        raise InputError(f"{where}: {type(error).__name__}: {first_line(error)}") from error
    signals, columns = getattr(module, "signals", None), getattr(module, "columns", None)
    if not callable(signals):
        raise InputError(f"{path}: a strategy needs a function signals(*, ...)")
    strategy = Strategy(
        path.stem, path, module.__doc__ or "", digest, _parameters(path.stem, signals), signals
    )
    if columns is None:
        return strategy
    extra = set(_parameters(path.stem, columns)) - set(strategy.parameters)
    if extra:
        raise InputError(f"{path}: columns() has the parameter {min(extra)!r}, which signals() has not")
    return replace(strategy, columns=columns)


def _defines(path: Path) -> bool:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return True  # let loading it name the fault
    return any(isinstance(node, ast.FunctionDef) and node.name == "signals" for node in tree.body)


def first_line(error: BaseException) -> str:
    """The first line of an error, which is as a rule all that helps."""
    return str(error).strip().partition("\n")[0]

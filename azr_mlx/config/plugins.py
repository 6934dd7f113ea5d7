"""Plug-ins: functions of the user's own, which a setting names as ``module:function``.

They are imported here, and called, in the process that trains or evaluates, with all the rights of
its user. The sandbox and its workers never see them. What a setting's function is given and what it
returns is said by a ``Protocol`` in the room that calls it.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from hashlib import sha256
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from azr_mlx.config.settings import ConfigError
from azr_mlx.errors import AzrError, first_line

# Of a reward. The squares of what follows from it (a gradient's norm) have to fit into 32 bits.
LARGEST = 1e9


class PlugInError(AzrError):
    """A plug-in raised an error, or returned what it must not. ``why`` is without its name."""

    def __init__(self, plug_in: PlugIn, why: str) -> None:
        self.plug_in, self.why = plug_in, why
        super().__init__(f"{plug_in}: {why}; correct the function")

    def at(self, step: int, fix: str) -> AzrError:
        """The error of a run that it ends at a step, and how the run can go on."""
        return AzrError(f"{self.plug_in}: step {step}: {self.why}; {fix}")


@dataclass(frozen=True, slots=True)
class PlugIn:
    """A function that has been imported, and the setting (or option) that names it."""

    key: str
    name: str
    function: Callable[..., Any]

    def __str__(self) -> str:
        return f"{self.key}: {self.name}"

    def call(self, *arguments: Any) -> Any:
        """What the function returns. Raises PlugInError if it raises anything."""
        with self.guarded():
            return self.function(*arguments)

    def number(self, *arguments: Any) -> float:
        """The finite number that the function returns. Raises PlugInError if it does not."""
        with self.guarded():
            found = self.function(*arguments)
            if not _is_number(found):
                raise PlugInError(self, f"returned {kind_of(found)}, and not a float")
            try:
                value = float(found)
            except OverflowError:
                value = math.inf
        if not abs(value) <= LARGEST:
            wanted = f"one of {LARGEST:g} at most" if math.isfinite(value) else "a finite float"
            raise PlugInError(self, f"returned {value}, and not {wanted}")
        return value

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """A block that runs the user's code: all that it raises becomes a PlugInError. Ctrl-C does
        not."""
        try:
            with _surroundings_kept():
                yield
        except (KeyboardInterrupt, PlugInError):
            raise
        except BaseException as error:
            why = f"{type(error).__name__}: {_message(error)}{self._place(error)}"
            raise PlugInError(self, why) from error

    @property
    def file(self) -> str:
        """The path of the function's source; "" if it has none."""
        try:
            return inspect.getsourcefile(inspect.unwrap(self.function)) or ""
        except Exception:  # written in C, or an object that can be called and may do anything
            return getattr(sys.modules.get(self.name.partition(":")[0]), "__file__", None) or ""

    def source_sha256(self) -> str:
        """The hash of the file that the function is in; "" if it cannot be read."""
        try:
            return sha256(Path(self.file).read_bytes()).hexdigest()
        except OSError:
            return ""

    def _place(self, error: BaseException) -> str:
        """The line of the function's file where an error came from."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == self.file]
        return f" ({Path(self.file).name}, line {own[-1].lineno})" if own else ""


def _message(error: BaseException) -> str:
    try:
        return first_line(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # of an error's own __str__, which is the user's code, too
        return "its message cannot be read"


def _is_number(value: object) -> bool:
    """Comparing numbers of numpy gives its own bool; a span of time calls itself an integer."""
    return isinstance(value, Real | np.bool_) and not isinstance(value, np.timedelta64)


@contextmanager
def _surroundings_kept() -> Iterator[None]:
    """A block that runs the user's code. What it prints goes to stderr: results go to stdout, and
    programs read them. After it the current folder is the one before: a run's paths may be
    relative."""
    here = os.getcwd()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.chdir(here)


@cache
def resolve(key: str, name: str, shape: type) -> PlugIn:
    """The function that ``key`` names as ``module:function``, if it can be called as the
    ``Protocol`` ``shape`` can.

    The module is looked for in the current folder first, then in the installed environment.
    Raises ConfigError: it cannot be imported, there is no such function, or it takes other
    arguments.
    """
    module_name, _, function_name = name.partition(":")
    try:
        module = _imported(module_name)
        with _looking("looking at it"):
            function = _function(module, function_name)
            _check_call(function, shape)
    except Unfit as error:
        raise ConfigError([f"{key}: {name}: {error}"]) from error
    return PlugIn(key, name, function)


def kind_of(value: object) -> str:
    """What kind of thing a value is, for a message."""
    return "None" if value is None else f"a value of type {type(value).__name__}"


class Unfit(Exception):
    """What is named is no function that can be called. The message says why, and the fix."""


@contextmanager
def _looking(how: str) -> Iterator[None]:
    """A block in which the user's module is imported or asked for what it has. It is code, and may
    raise anything at either: that becomes Unfit. Ctrl-C does not."""
    try:
        with _surroundings_kept():
            yield
    except (KeyboardInterrupt, Unfit):
        raise
    except BaseException as error:
        why = f"{type(error).__name__}: {_message(error)}"
        raise Unfit(f"{how} fails: {why}; correct the module") from error


def _imported(name: str) -> Any:
    """A module, or what it has put into its place. Raises Unfit."""
    with _looking("importing it"), _here_first():
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and f"{name}.".startswith(f"{error.name}."):
                raise Unfit(_missing(name)) from error
            raise Unfit(
                f"importing it fails: {first_line(error)}; install what it needs"
            ) from error


@contextmanager
def _here_first() -> Iterator[None]:
    """The current folder comes first on the path, and last ever after: a file in it is not to take
    the place of a library that is imported later."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:  # the module may have changed it
            sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)


def _missing(name: str) -> str:
    here = Path.cwd()
    if name.endswith(".py"):
        hint = f"leave .py out: {name.removesuffix('.py')}"
    else:
        known = [path.stem for path in here.glob("*.py")]
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else "start in its folder, or install it"
    return f"no module {name} in {here} nor among the installed ones; {hint}"


def _function(module: Any, name: str) -> Any:
    """Raises Unfit."""
    if hasattr(module, name):
        return getattr(module, name)
    held = getattr(module, "__dict__", {})
    own = [key for key, value in held.items() if inspect.isfunction(value)]
    near = get_close_matches(name, own, 1) or own[:3]
    hint = f"did you mean {' or '.join(near)}?" if near else "define it there"
    called = getattr(module, "__name__", kind_of(module))
    where = getattr(module, "__file__", None) or "a folder without __init__.py"
    raise Unfit(f"no {name} in module {called} ({where}); {hint}")


def _check_call(function: Any, shape: type) -> None:
    """Raises Unfit if the function cannot be called as ``shape`` can."""
    if not callable(function) or isinstance(function, type):
        what = "a class" if isinstance(function, type) else kind_of(function)
        raise Unfit(f"{what}, and not a function; name a function")
    if inspect.iscoroutinefunction(function):
        raise Unfit("an async function, which nobody awaits; write def")
    wanted = list(inspect.signature(shape.__call__).parameters)[1:]
    how = f"it is called with ({', '.join(wanted)})"
    try:
        taken = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise Unfit(f"its parameters cannot be read; {how}: write a function") from error
    try:
        taken.bind(*wanted)
    except TypeError as error:
        raise Unfit(f"takes {taken}: {error}; {how}") from error

"""The program: parses arguments, calls a command, and maps errors to exit codes."""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import typer

from azr_mlx.cli import process
from azr_mlx.cli.commands import app
from azr_mlx.cli.output import say
from azr_mlx.cli.process import FAILED, INTERRUPTED, USAGE
from azr_mlx.errors import (
    PROGRAM,
    AzrError,
    Interrupted,
    UsageError,
    device_error,
    device_failed,
    no_room,
)
from azr_mlx.text import middle_out, one_line

LONGEST_LINE = 1000  # characters of an error message, in which a word of any length may be

_OPTION = re.compile("--(?!prompt$|system$)[a-z-]+")  # one whose value may be a path
_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)*=")  # how a word that is KEY=VALUE begins
_PROGRAM = "azr-mlx"
_COMPLETE = "_AZR_MLX_COMPLETE"  # by which a shell asks for completions, as typer names it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; an error is one line on stderr.

    Without ``argv`` this is the process's own command line, and nothing runs after it.
    """
    process.own = argv is None
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before the start
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    with _escaping(sys.stdout), _escaping(sys.stderr):
        return _exit_code(arguments)


@contextmanager
def _escaping(stream: TextIO) -> Iterator[None]:
    """Within the block, what the encoding of the stream does not have is written as an escape, for
    example ``\\xe9`` or ``\\u2500``."""
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors=before)


def _exit_code(arguments: list[str]) -> int:
    try:
        arguments = [_at_home(word) for word in _bare_resume(arguments)]
        code = _run(arguments) if arguments else _run(["--help"]) or USAGE
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader closed the pipe. Python would fail again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        say("azr-mlx: interrupted")
        return INTERRUPTED
    except Interrupted as interrupt:
        say(f"azr-mlx: interrupted: {interrupt}")
        return interrupt.exit_code
    except AzrError as error:
        _report(getattr(error, "lines", [str(error)]), arguments)
        return error.exit_code
    except Exception as error:
        _report([_unexpected(error, arguments)], arguments)
        return FAILED


def _unexpected(error: Exception, arguments: Sequence[str]) -> str:
    """The line for an error that nobody foresaw. Any write can fail if the disk is full."""
    if isinstance(error, OSError) and no_room(error):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; make room; a training run goes on with train --resume"
    if device_failed(error):
        return str(device_error(error))
    hint = "" if "--debug" in arguments else " (--debug shows the traceback)"
    return f"{type(error).__name__}: {error}{hint}"


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    if process.own and _COMPLETE in os.environ:
        command.main([], _PROGRAM)  # prints what the shell asks for, and ends the process
    try:
        # Not command.main: it turns Ctrl-C into an exit code without a message.
        with command.make_context(PROGRAM, list(arguments)) as context:
            code = command.invoke(context)
    except typer.Exit as end:
        return int(end.exit_code)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        # One of typer's usage errors. Typer does not export a class to catch them by.
        where = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
        fix = _meant(error, arguments) or f"see {where} --help"
        raise UsageError(f"{message().rstrip('.')}; {fix}") from error
    return int(code or 0)


def _meant(error: Exception, arguments: Sequence[str]) -> str:
    """A hint for someone who typed an option before the command, a configuration key as an option,
    or a configuration as a command."""
    from dataclasses import fields

    from azr_mlx.config import Config, schema
    from azr_mlx.config.shipped import shipped_configs

    option = str(getattr(error, "option_name", ""))
    if option and arguments[0].startswith("-"):
        names = getattr(typer.main.get_command(app), "commands", {})
        if command := next((word for word in arguments if word in names), ""):
            return f"options come after the command (see {PROGRAM} {command} --help)"
    if option in ("-c", "--config"):  # it exists, so its value is missing
        return f"name one of {', '.join(shipped_configs())}, or a file"
    key = option.lstrip("-").replace("-", "_")
    if key in {f.name for f in fields(Config)}:
        return f"it is a key of the configuration: write {key}=VALUE"
    first = arguments[0] if arguments else ""
    if first in shipped_configs():
        return f"did you mean train -c {first}?"
    parts = ((name, name.split(".")[-1]) for name, _ in schema.flat(Config()))
    like = [name for name, last in parts if key and last.startswith(key)]
    if first == "train" and like:
        return f"did you mean {' or '.join(f'{name}=VALUE' for name in like[:3])}?"
    return ""


def _bare_resume(argv: list[str]) -> list[str]:
    """Let ``train --resume`` without a value mean the latest run: typer has no options with
    optional values. A word like ``seed=1`` is an override, even if a folder has that name."""
    if argv[:1] != ["train"]:
        return argv
    arguments: list[str] = []
    for index, word in enumerate(argv):
        arguments.append(word)
        following = argv[index + 1] if index + 1 < len(argv) else "-"
        if word == "--resume" and (following.startswith("-") or _OVERRIDE.match(following)):
            arguments.append("latest")
    return arguments


def _at_home(word: str) -> str:
    """``--data=~/folder`` with the home folder written out: shells leave that to the program."""
    option, equals, value = word.partition("=")
    if not (equals and value.startswith("~/") and _OPTION.fullmatch(option)):
        return word
    return f"{option}={os.path.expanduser(value)}"


def _report(lines: Sequence[str], arguments: Sequence[str]) -> None:
    if "--debug" in arguments:
        say(traceback.format_exc().rstrip("\n"))
    for line in lines:
        say(f"azr-mlx: error: {middle_out(one_line(line), LONGEST_LINE)}")

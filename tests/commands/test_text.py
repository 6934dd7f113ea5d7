"""Text at the edges of the commands: what encodings they read, what terminals they write to, and
that nothing that a model or a file says reaches a terminal as a control character."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from azr_mlx.cli import main
from azr_mlx.commands import convert, doctor, export, generate
from azr_mlx.commands.doctor.finding import Finding, Line
from azr_mlx.commands.generate import Generation
from azr_mlx.text import plain
from tests.scripted import ROWS

pytestmark = pytest.mark.backend

HOSTILE = "\x1b]0;mine\x07\x1b[2J\u202e\x9b31m"
ANSWER = "naïve ñ 数 = '\U0001f642'\n\tend"
NARROW = ("ascii", "cp1252", "latin-1")


class Stream(io.TextIOWrapper):
    """A stream of the process that refuses what its encoding does not have."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


class Parrot:
    """A model that says what it is given to say, piece by piece, and keeps the prompts."""

    has_template = True
    prompts: list[tuple[str, str]]

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces, self.prompts = pieces, []

    def complete(self, prompt: str, sampling: object, **options: Any) -> Generation:
        self.prompts.append((prompt, options["system"]))
        for piece in self.pieces:
            options.get("on_text", lambda text: None)(piece)
        return Generation("".join(self.pieces), "stop", 1, len(self.pieces), 1.0, 1.0, 0.1)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Stream, Stream]]:
    """Replaces stdout and stderr; options are those of ``Stream``."""

    def replace(*given: Any, **options: Any) -> tuple[Stream, Stream]:
        out, err = Stream(*given, **options), Stream(*given, **options)
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        return out, err

    return replace


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Parrot]:
    """Makes ``generate`` use a model that says these pieces."""

    def replace(*pieces: str) -> Parrot:
        parrot = Parrot(pieces)
        monkeypatch.setattr(generate, "Generator", lambda *given, **options: parrot)
        return parrot

    return replace


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))


# -- prompts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_prompt_on_stdin_is_read_in_its_encoding(
    encoding: str, end: str, monkeypatch: pytest.MonkeyPatch, says: Callable[..., Parrot]
) -> None:
    stdin(monkeypatch, f"naïve{end}数{end}".encode(encoding))
    parrot = says("yes")
    assert main(["generate", "-p", "-"]) == 0
    assert parrot.prompts == [("naïve\n数\n", "")]


@pytest.mark.parametrize("data", ["naïve".encode("latin-1"), "abc".encode("utf-16-le"), b"\0\0\1"])
def test_a_prompt_on_stdin_that_is_not_text_is_one_line(
    data: bytes,
    monkeypatch: pytest.MonkeyPatch,
    says: Callable[..., Parrot],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stdin(monkeypatch, data)
    parrot = says("yes")
    assert main(["generate", "-p", "-"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and parrot.prompts == []
    assert err.startswith("azr-mlx: error: --prompt -: stdin is not UTF-8 text")
    assert err.endswith("save it as UTF-8\n") and err.count("\n") == 1


def test_a_closed_stdin_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["generate", "-p", "-"]) == 2
    assert "--prompt -: stdin is closed" in capsys.readouterr().err


def test_a_prompt_on_the_command_line_is_utf8_in_every_locale(says: Callable[..., Parrot]) -> None:
    parrot = says("yes")
    as_in_the_c_locale = "naïve\r\n".encode().decode("ascii", "surrogateescape")
    assert main(["generate", "-p", as_in_the_c_locale, "--system", as_in_the_c_locale]) == 0
    assert parrot.prompts == [("naïve\n", "naïve\n")]


@pytest.mark.parametrize("option", ["--prompt", "--system"])
@pytest.mark.parametrize("text", ["caf\udce9", "\ud800"])
def test_a_prompt_that_is_not_text_is_one_line(
    option: str, text: str, says: Callable[..., Parrot], capsys: pytest.CaptureFixture[str]
) -> None:
    says("yes")
    words = [option, text] + ([] if option == "--prompt" else ["-p", "x"])
    assert main(["generate", *words]) == 2
    assert f"error: {option}: not UTF-8 text; write it in UTF-8\n" in capsys.readouterr().err


# -- the answer of a model -------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", *NARROW])
def test_an_answer_is_written_to_any_stdout(
    encoding: str, streams: Callable[..., tuple[Stream, Stream]], says: Callable[..., Parrot]
) -> None:
    out, err = streams(encoding)
    says(*ANSWER)
    assert main(["generate", "-p", "x"]) == 0
    assert out.text() == ANSWER.encode(encoding, "backslashreplace").decode(encoding) + "\n"
    assert out.errors == "strict" and "tokens/s" in err.text()


def test_one_token_has_no_speed(streams: Callable[..., tuple[Stream, Stream]], says: Any) -> None:
    _, err = streams("utf-8")
    says("y")
    assert main(["generate", "-p", "x"]) == 0
    assert err.text() == "1 token (stop), peak 100 MB\n"


@pytest.mark.parametrize("encoding", ["utf-8", *NARROW])
def test_json_is_ascii(
    encoding: str, streams: Callable[..., tuple[Stream, Stream]], says: Callable[..., Parrot]
) -> None:
    out, _ = streams(encoding)
    says(ANSWER, HOSTILE)
    assert main(["generate", "-p", "x", "--json"]) == 0
    assert out.text().isascii() and json.loads(out.text())["text"] == ANSWER + HOSTILE
    assert out.text().rstrip("\n").isprintable()


def test_an_answer_goes_into_a_pipe_as_it_is(
    streams: Callable[..., tuple[Stream, Stream]], says: Callable[..., Parrot]
) -> None:
    out, _ = streams()
    says(HOSTILE, "\r", "\n\r", "a\r")
    assert main(["generate", "-p", "x"]) == 0
    assert out.text() == HOSTILE + "\r\n\ra\r\n"


def test_an_answer_on_a_terminal_moves_no_cursor(
    streams: Callable[..., tuple[Stream, Stream]], says: Callable[..., Parrot]
) -> None:
    out, _ = streams(terminal=True)
    said = HOSTILE + "\r\n\ra\tb\r"
    says(*said)
    assert main(["generate", "-p", "x"]) == 0
    assert out.text() == plain(said) + "\n"
    assert out.text() == plain(out.text()) and "␛[2J" in out.text()


def test_a_tested_program_on_a_terminal_moves_no_cursor(
    scratch: Path, streams: Callable[..., tuple[Stream, Stream]], says: Callable[..., Parrot]
) -> None:
    (scratch / "t.py").write_text("assert f() == 1")
    out, err = streams(terminal=True)
    program = "def f():\n    raise ValueError('\\x1b[2J\\x9b\\u202e')\n"
    says(f"```python\n{program}# {HOSTILE}\n```")
    words = ["generate", "-p", "x", "--tests", "t.py", "--strategy", "direct"]
    assert main(words) == 3
    for text in (out.text(), err.text()):
        assert text == plain(text) and "mine" in out.text()
    assert "direct: error" in err.text()


# -- what the commands print -----------------------------------------------------------------------


def hostile_samples(folder: Path) -> list[str]:
    """A benchmark of one task and its sample, in which everything that can be hostile is."""
    row = {**ROWS[0], "entry_point": "add0"}
    data, samples = folder / f"data{HOSTILE}.jsonl".replace("/", ""), folder / "samples.jsonl"
    data.write_text(json.dumps(row) + "\n")
    said = f"    raise ValueError({HOSTILE!r})  # {HOSTILE}\n"
    samples.write_text(json.dumps({"task_id": row["task_id"], "completion": said}) + "\n")
    return ["eval", "--data", str(data), "--samples", str(samples)]


def hostile_run(folder: Path) -> list[str]:
    run = folder / f"run{HOSTILE}"
    run.mkdir()
    row = {"step": 1, f"reward/{HOSTILE}": 1.0, "entropy": 0.5}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return ["report", str(run)]


def hostile_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / "cache" / f"models{HOSTILE}").mkdir(parents=True)
    monkeypatch.setenv("AZR_MLX_CACHE", str(folder / "cache"))
    return ["cache"]


def hostile_doctor(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    finding = Finding("ok", f"{ANSWER} {HOSTILE}", HOSTILE)
    monkeypatch.setattr(doctor, "diagnose", lambda checks, debug: [Line("chip", finding, 0.1)])
    return ["doctor"]


def hostile_convert(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    given = dict.fromkeys(convert.ConvertReport.__dataclass_fields__, ANSWER + HOSTILE)
    report = convert.ConvertReport(**{**given, "logp_change_mean": 1.0})  # type: ignore[arg-type]
    monkeypatch.setattr(convert, "convert", lambda *given, **options: report)
    return ["convert", "--hf-path", "a", "--mlx-path", "b"]


def hostile_export(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done = export.Exported(folder, ANSWER + HOSTILE, 1, 1, 1.0)
    monkeypatch.setattr(export, "to_peft", lambda *given: done)
    return ["export", "--adapter-path", "a", "--out", "b", "--to", "peft"]


COMMANDS = ["eval", "report", "cache", "doctor", "convert", "export", "train"]


def hostile(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a command that has hostile text to print."""
    made = {
        "eval": lambda: hostile_samples(folder),
        "report": lambda: hostile_run(folder),
        "cache": lambda: hostile_cache(folder, monkeypatch),
        "doctor": lambda: hostile_doctor(monkeypatch),
        "convert": lambda: hostile_convert(monkeypatch),
        "export": lambda: hostile_export(folder, monkeypatch),
        "train": lambda: ["train", "--dry-run", "-c", "quickstart", f"run_name=数{HOSTILE}"],
    }
    return made[command]()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("encoding", ["utf-8", *NARROW])
def test_no_command_lets_anything_through(
    command: str,
    encoding: str,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    streams: Callable[..., tuple[Stream, Stream]],
) -> None:
    words = hostile(command, scratch, monkeypatch)
    out, err = streams(encoding)
    assert main(words) == 0, err.text()
    for text in (out.text(), err.text()):
        assert text == plain(text)
    assert out.text().strip()


@pytest.mark.parametrize("encoding", NARROW)
@pytest.mark.parametrize("command", ["", *COMMANDS, "generate"])
def test_help_is_for_every_terminal(
    command: str, encoding: str, streams: Callable[..., tuple[Stream, Stream]]
) -> None:
    out, _ = streams(encoding)
    assert main([*filter(None, [command]), "--help"]) == 0
    assert out.text().isascii() and "Usage" in out.text()


def test_an_error_with_its_traceback_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-c", HOSTILE, "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err == plain(err)

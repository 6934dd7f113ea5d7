# ruff: noqa: E501
"""Programs that read stdin find the world that CPython gives them: each prints here what
``python prog.py < file`` prints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from azr_mlx.sandbox import Job, Sandbox
from azr_mlx.types import Status

pytestmark = pytest.mark.sandbox

TEXTS = (
    "3\n10 20 30\n",
    "a\r\nb c\rd\n\x0ce",
    "1\n2",
    "",
    "4 4\n1 2 3 4\n\n5 6 7 8\n",
    "é 中\n1\n",
)
PROGRAMS: dict[str, str] = {
    "mode": "import sys\nprint(sys.stdin.mode, sys.stdout.mode, sys.stderr.mode)",
    "names": "import sys\nprint(sys.stdin.name, sys.stdin.buffer.name, sys.stdout.name, sys.stderr.name)",
    "kinds": "import sys\ns = sys.stdin\nprint(s.encoding, s.newlines, s.isatty(), s.line_buffering, s.fileno(), s.readable(), s.writable(), s.closed)",
    "out": "import sys\ns = sys.stdout\nprint(s.encoding, s.line_buffering, s.newlines, s.writable(), s.isatty())",
    "read": "import sys\nprint(repr(sys.stdin.read()))",
    "readlines": "import sys\nprint(sys.stdin.readlines())",
    "iterate": "import sys\nfor line in sys.stdin:\n    print(repr(line))",
    "iterate, then read": "import sys\nfor line in sys.stdin:\n    print(repr(line))\n    break\nprint(repr(sys.stdin.read()))",
    "input": "try:\n    while True:\n        print(repr(input()))\nexcept EOFError as e:\n    print('end', e)",
    "input with a prompt": "try:\n    print(input('n? '))\nexcept EOFError:\n    print('none')",
    "input, readline, the rest": "import sys\ntry:\n    a = input()\nexcept EOFError:\n    a = None\nprint(repr((a, sys.stdin.readline(), list(sys.stdin))))",
    "buffer": "import sys\nprint(sys.stdin.buffer.read())",
    "buffer by lines": "import sys\nprint([*sys.stdin.buffer])",
    "bytes by os": "import os\nprint(os.read(0, 100))",
    "as fast readers do": "import io, os\ninput = io.BytesIO(os.read(0, os.fstat(0).st_size)).readline\nprint(input())",
    "readline for input": "import sys\ninput = sys.stdin.readline\nprint(repr(input()), repr(input()))",
    "open 0": "print(open(0).read().split())",
    "open 0 as bytes": "print(open(0, 'rb').read())",
    "/dev/stdin": "import sys\nprint(sys.stdin.seekable(), sys.stdin.tell())",
    "fileinput": "import fileinput\nprint([*fileinput.input()])",
    "write": "import sys\nsys.stdout.write('a\\r\\nb\\n')\nsys.stdout.flush()\nsys.stdout.buffer.write(b'x\\n')",
    "writelines": "import sys\nsys.stdout.writelines(['a\\n', 'b'])",
    "print with flush": "print('a', end='', flush=True)\nprint('b', sep='x')",
    "print to a file": "import sys\nprint('a', file=sys.stdout)\nprint('b', file=sys.stderr)",
    "argv": "import sys\nprint(sys.argv, len(sys.argv))",
    "a file by argv": "import sys\nif len(sys.argv) > 1:\n    sys.stdin = open(sys.argv[1])\nprint(sys.stdin.readline())",
    "file": "import os\nprint(os.path.basename(__file__), os.path.isabs(__file__), os.path.dirname(__file__) == os.getcwd())",
    "names of the module": "print(__name__, __doc__, __package__, __spec__, type(__builtins__).__name__, __annotations__)",
    "globals": "print(sorted(globals()))",
    "main": "def main():\n    print('in main')\nif __name__ == '__main__':\n    main()",
    "main by module": "import sys\nx = 5\nprint(sys.modules['__main__'].x)",
    "exit": "import sys\nprint(1)\nsys.exit()\nprint(2)",
    "exit 0": "print(1)\nexit(0)",
    "quit": "print(1)\nquit()",
    "atexit": "import atexit\natexit.register(print, 'bye')\nprint('hi')",
    "a thread with a large stack": "import sys, threading\nsys.setrecursionlimit(10 ** 6)\nthreading.stack_size(1 << 26)\ndef main():\n    print(sys.stdin.readline())\nt = threading.Thread(target=main)\nt.start()\nt.join()",
    "a thread that is not joined": "import threading, time\ndef late():\n    time.sleep(0.05)\n    print('late')\nthreading.Thread(target=late).start()\nprint('first')",
    "stdin replaced": "import io, sys\nsys.stdin = io.StringIO('7\\n')\nprint(input())",
    "stdout replaced": "import io, sys\nold, sys.stdout = sys.stdout, io.StringIO()\nprint('x')\ntext = sys.stdout.getvalue()\nsys.stdout = old\nprint(repr(text))",
    "redirected": "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as f:\n    print('x')\nprint(repr(f.getvalue()))",
    "recursion": "def f(n):\n    return n and 1 + f(n - 1)\nprint(f(900))",
    "recursion limit": "import sys\nprint(sys.getrecursionlimit())",
    "select": "import sys\ndata = sys.stdin.read().split()\nprint(*sorted(data), sep='\\n')",
    "eof twice": "import sys\nsys.stdin.read()\nprint(repr(sys.stdin.read()), repr(sys.stdin.readline()))",
    "unicode": "import sys\nprint([*map(ord, sys.stdin.read())])",
    "annotated": "n: int = 3\nprint(__annotations__)",
    "future": "from __future__ import annotations\ndef f(x: Nope): return x\nprint(f(1))",
    "sum of lines": "import sys\nprint(sum(len(line.split()) for line in sys.stdin))",
    "walrus": "import sys\nwhile line := sys.stdin.readline():\n    print(line.strip())",
    "getpass": "import getpass\nprint(callable(getpass.getpass))",
}  # fmt: skip


@pytest.fixture(scope="module", params=["strong", "limits-only"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(workers=2, isolation=request.param) as box:
        yield box


@pytest.fixture(scope="module")
def in_cpython(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[bool, str]]:
    """What each program prints for each text, and whether it ended well."""
    folder = tmp_path_factory.mktemp("programs")
    printed = {}
    for name, code in PROGRAMS.items():
        (folder / "prog.py").write_text(code, encoding="utf-8")
        for text in TEXTS:
            printed[name, text] = _run(folder, text)
    return printed


def _run(folder: Path, text: str) -> tuple[bool, str]:
    (folder / "stdin").write_bytes(text.encode())
    with (folder / "stdin").open("rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-X", "utf8", "prog.py"], stdin=stdin, cwd=folder, capture_output=True
        )
    return done.returncode == 0, done.stdout.decode()


def test_programs_print_what_they_print_in_cpython(
    sandbox: Sandbox, in_cpython: dict[tuple[str, str], tuple[bool, str]]
) -> None:
    assert len(PROGRAMS) >= 48
    jobs = [Job(name, PROGRAMS[name], stdin=text) for name, text in in_cpython]
    results = sandbox.run(jobs)
    other = {
        key: (result.stdout, wanted)
        for (key, (well, wanted)), result in zip(in_cpython.items(), results, strict=True)
        if (result.status is Status.OK, result.stdout) != (well, wanted)
    }
    assert not other

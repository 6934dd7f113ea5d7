"""The job by which a level of isolation is accepted: it must be able to work, and must not get out.

An honest job imports a module, writes a file and returns a value. This one also tries to reach
files and the network, as the code of a model might.
"""

from __future__ import annotations

from collections.abc import Mapping

from azr_mlx.sandbox.job import Job, Limits, Result
from azr_mlx.sandbox.literals import parse_literal
from azr_mlx.types import Status

_LIMITS = Limits(wall_s=10.0, cpu_s=10, memory_mb=256, output_kb=16)
# ``colorsys`` is not imported before the fork, so it is read from the disk in the job. Without
# isolation, both kinds of socket would get their address, and nobody need listen.
_CODE = """
import colorsys, os, socket

def works(action):
    try:
        action()
    except OSError:
        return False
    return True

def read(path):
    open(path).close()

def read_as_linked(path):
    os.link(path, "linked")
    read("linked")

def write(path):
    open(path, "x").close()
    os.unlink(path)

def use(kind, action):
    with socket.socket(socket.AF_INET, kind) as made:
        action(made)

def f(outside):
    with open("kept", "w") as file:
        file.write(str(colorsys.rgb_to_hls(2, 2, 2)[1]))
    with open("kept") as file:
        answer = float(file.read())
    reached = {
        "your files": works(lambda: read(outside))
        or works(lambda: read_as_linked(outside))
        or works(lambda: write("../beside")),
        "the network": works(lambda: use(socket.SOCK_STREAM, lambda s: s.bind(("127.0.0.1", 0))))
        or works(lambda: use(socket.SOCK_DGRAM, lambda s: s.sendto(b"", ("127.0.0.1", 9)))),
    }
    return answer, sorted(name for name in reached if reached[name])
"""
# What the job tries to reach, and the feature that closes it at the level limits-only.
GUARDS = {"your files": "landlock", "the network": "seccomp"}


def job() -> Job:
    """The self-test as a job."""
    return Job("self-test", _CODE, call="f", args=repr((__file__,)), limits=_LIMITS)


def complaint(result: Result, isolation: str, features: Mapping[str, object]) -> str:
    """What the result says against a level, in one line; an empty string if it is as it should."""
    if result.status is not Status.OK:
        said = f": {result.detail}" if result.detail else ""
        return f"a harmless job ended as {result.status.value}{said}"
    answer, reached = parse_literal(result.value or "(None, [])")
    if answer != 2:
        return f"a harmless job gave {answer!r} instead of 2"
    wrong = [what for what in reached if isolation == "strong" or features.get(GUARDS[what])]
    return f"a job could reach {' and '.join(wrong)}" if wrong else ""

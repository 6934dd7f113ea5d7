"""Damaged GGUF files: one line, or the values that the file has; never a crash, a hang, much memory
or half a folder."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")
pytest.importorskip("gguf")

from azr_mlx.errors import ModelError
from azr_mlx.models.gguf.header import read_header
from tests.conftest import ROOT
from tests.models import tiny_gguf as t

pytestmark = pytest.mark.backend

FILES = 200
# Converts each file, and prints what it costs; a crash of the process shows as its exit code.
CONVERT_ALL = """
import shutil, sys, time
from pathlib import Path
from azr_mlx.backends.process_memory import peak_bytes
from azr_mlx.config import Quantization
from azr_mlx.errors import AzrError
from azr_mlx.models.gguf import import_gguf

folder, seconds = Path(sys.argv[1]), 0.0
for path in sorted(folder.glob("*.gguf")):
    started = time.process_time()
    try:
        import_gguf(path, folder / "out", Quantization(bits=0))
        shutil.rmtree(folder / "out")
        print("right")
    except AzrError as error:
        print("line" if str(error).count(path.name) and "\\n" not in str(error) else error)
    seconds = max(seconds, time.process_time() - started)
    left = [other.name for other in folder.iterdir() if other.suffix != ".gguf"]
    if left:
        print("left", left)
print("seconds", seconds)
print("megabytes", peak_bytes() >> 20)
"""


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Cut off anywhere or within the header, or with some bits flipped there or anywhere."""
    header = content.index(b"output.weight") + 50
    reach = draw.choice((header, len(content)))
    if draw.random() < 0.4:
        return content[: draw.randrange(reach)]
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 3, 20))):
        changed[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def test_two_hundred_damaged_files(tmp_path: Path) -> None:
    kinds = {"output.weight": "Q4_K", "blk.0.ffn_down.weight": "Q8_0"}
    t.tiny(tmp_path / "bytes.gguf", kinds=kinds)
    t.tiny(tmp_path / "pieces.gguf", t.piece_vocabulary())
    whole = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    draw = random.Random(20)
    for i in range(FILES):
        (tmp_path / f"{i:03d}.gguf").write_bytes(damaged(draw.choice(whole), draw))
    done = subprocess.run(
        [sys.executable, "-c", CONVERT_ALL, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *answers, seconds, megabytes = done.stdout.splitlines()
    assert len(answers) == FILES + 2
    assert set(answers) == {"line", "right"}
    assert answers.count("line") > FILES / 2
    assert float(seconds.split()[1]) < 30
    assert int(megabytes.split()[1]) < 1000


HEAD = b"GGUF" + struct.pack("<I", 3)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    "rest",
    [
        struct.pack("<QQ", 1 << 62, 0),  # tensors
        struct.pack("<QQ", 0, 1 << 62),  # metadata keys
        struct.pack("<QQQ", 0, 1, 1 << 62),  # the length of a name
        struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IIQ", 9, 4, 1 << 61),  # an array
        struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 1 << 62),  # of texts
        struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1 << 62),  # of arrays
        struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<I", 99),  # an unknown type
        struct.pack("<QQ", 1, 0) + text("a") + struct.pack("<I", 1 << 31),  # dimensions
        struct.pack("<QQ", 1, 0) + text("a") + struct.pack("<IQQIQ", 2, 1 << 62, 1 << 62, 0, 0),
        struct.pack("<QQ", 1, 0) + text("a") + struct.pack("<IQQIQ", 2, 0, 4, 0, 0),
    ],
)
def test_headers_that_claim_terabytes(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(HEAD + rest + bytes(100))
    with pytest.raises(ModelError, match=r"damaged|cut off") as caught:
        read_header(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alignment", [0, 3, "32"])
def test_alignments_that_cannot_be(tmp_path: Path, alignment: int | str) -> None:
    t.tiny(tmp_path / "m.gguf", t.byte_vocabulary() | {"general.alignment": alignment})
    with pytest.raises(ModelError, match=r"general\.alignment is"):
        read_header(tmp_path / "m.gguf")

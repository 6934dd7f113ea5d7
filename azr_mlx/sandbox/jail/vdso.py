"""Shifts the calendar time that a process and all its forks see, on Linux for x86_64.

The C library asks for the time through the vDSO, a page of code that the kernel maps into every
process. Its functions are replaced here by ones that make the system call and add some seconds. So
Python, C extensions and the C library itself all see the same shifted time. A seccomp filter can
then deny these calls from anywhere else. Standard library only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import sys
from typing import NamedTuple

_AT_SYSINFO_EHDR = 33
_DYNAMIC_SYMBOLS = 11  # the type of an ELF section
_PAGE = mmap.PAGESIZE
# Calendar clocks: CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI.
_CLOCK_GETTIME = """
    b8e4000000  0f05  85c0  7515
    85ff  740a  83ff05  7405  83ff0b  7507
    488106{ahead}
    c3
"""  # mov eax,228; syscall; if it worked and edi is 0, 5 or 11: add qword [rsi], ahead; ret
_GETTIMEOFDAY = """
    b860000000  0f05  85c0  750c  4885ff  7407
    488107{ahead}
    c3
"""  # mov eax,96; syscall; if it worked and rdi is not 0: add qword [rdi], ahead; ret
_TIME = """
    b8c9000000  0f05
    4805{ahead}
    4885ff  7403  488907
    c3
"""  # mov eax,201; syscall; add rax, ahead; if rdi is not 0: mov [rdi], rax; ret
_CODE = {
    b"__vdso_clock_gettime": _CLOCK_GETTIME,
    b"__vdso_gettimeofday": _GETTIMEOFDAY,
    b"__vdso_time": _TIME,
}


class Place(NamedTuple):
    """Some memory: its address and its size in bytes."""

    address: int
    size: int


def find() -> Place:
    """The vDSO of this process. Raises OSError if there is none."""
    if sys.platform != "linux":
        raise OSError(f"no vDSO on {sys.platform}")
    libc = ctypes.CDLL(None)
    libc.getauxval.restype, libc.getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    address = int(libc.getauxval(_AT_SYSINFO_EHDR))
    with open("/proc/self/maps") as file:
        for line in file:
            if line.rstrip().endswith("[vdso]"):
                start, _, end = line.split()[0].partition("-")
                if int(start, 16) == address:
                    return Place(address, int(end, 16) - address)
    raise OSError("the process has no vDSO")


def shift(ahead: int) -> Place:
    """Let the calendar run ``ahead`` seconds ahead. Returns the place from which alone this
    process now asks for the time. Raises OSError, before anything has changed, if that cannot be
    done here.
    """
    if platform.machine() != "x86_64":
        raise OSError(f"no code for {platform.machine()}")
    vdso = find()
    entries = _functions(ctypes.string_at(vdso.address, vdso.size))
    if entries.keys() != _CODE.keys():
        raise OSError("the vDSO has other functions than expected")
    _protect(vdso, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page = mmap.mmap(-1, _PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    _kept.append(page)
    place = Place(ctypes.addressof(ctypes.c_char.from_buffer(page)), _PAGE)
    for name, text in _CODE.items():
        target = place.address + page.tell()
        code = bytes.fromhex(text.format(ahead=struct.pack("<i", ahead).hex()))
        page.write(code.ljust(64, b"\xcc"))
        jump = b"\x48\xb8" + struct.pack("<Q", target) + b"\xff\xe0"  # mov rax, target; jmp rax
        ctypes.memmove(vdso.address + entries[name], jump, len(jump))
    for memory in (place, vdso):
        _protect(memory, mmap.PROT_READ | mmap.PROT_EXEC)
    return place


_kept: list[mmap.mmap] = []


def _protect(memory: Place, rights: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    address, size = ctypes.c_void_p(memory.address), ctypes.c_size_t(memory.size)
    if libc.mprotect(address, size, ctypes.c_int(rights)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mprotect: {os.strerror(code)}")


def _functions(image: bytes) -> dict[bytes, int]:
    """The offsets of the functions in _CODE, from the ELF image's table of symbols."""
    (table,) = struct.unpack_from("<Q", image, 40)
    size, count = struct.unpack_from("<HH", image, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, table + i * size) for i in range(count)]
    symbols = next((s for s in sections if s[1] == _DYNAMIC_SYMBOLS), None)
    if symbols is None:
        raise OSError("the vDSO has no table of symbols")
    names = sections[symbols[6]][4]
    found = {}
    for offset in range(symbols[4], symbols[4] + symbols[5], 24):
        name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", image, offset)
        text = image[names + name : image.index(b"\0", names + name)]
        if text in _CODE:
            found[text] = value
    return found

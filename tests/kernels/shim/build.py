"""Wraps a kernel body as MLX wraps it, compiles it with g++ against the shim headers and runs it.

The signatures follow mlx 0.32: an input gets ``NAME_shape`` where the body mentions it, a position
attribute is a parameter only where the body mentions it, template arguments are template parameters
in Metal and constants in the body in CUDA. A body that leans on anything else does not compile.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
GUARD = 64  # entries behind every buffer: junk behind an input, untouched behind an output
JUNK, UNTOUCHED = 77, 99

# numpy has no bfloat16: it travels as the 16 bits.
STORAGE = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
    "float16": np.dtype(np.float16),
    "int32": np.dtype(np.int32),
    "uint32": np.dtype(np.uint32),
}
METAL = {"float32": "float", "bfloat16": "bfloat16_t", "float16": "float16_t"}
CUDA = {"float32": "float", "bfloat16": "__nv_bfloat16", "float16": "__half"}
INTEGERS = {"int32": "int32_t", "uint32": "uint32_t"}
NAMES = {"metal": {**METAL, **INTEGERS}, "cuda": {**CUDA, **INTEGERS}}
# What MLX passes for the attributes that a kernel over rows has a use for.
ATTRIBUTES = {
    "simdgroup_index_in_threadgroup": ("uint", "shim::current / 32"),
    "simdgroups_per_threadgroup": ("uint", "shim::threads / 32"),
    "thread_index_in_simdgroup": ("uint", "shim::current % 32"),
    "thread_index_in_threadgroup": ("uint", "shim::current"),
    "thread_position_in_grid": (
        "uint3",
        "uint3(shim::group * shim::threads + shim::current, 0, 0)",
    ),
    "thread_position_in_threadgroup": ("uint3", "uint3(shim::current, 0, 0)"),
    "threadgroup_position_in_grid": ("uint3", "uint3(shim::group, 0, 0)"),
    "threadgroups_per_grid": ("uint3", "uint3(shim::groups, 1, 1)"),
    "threads_per_simdgroup": ("uint", "32"),
    "threads_per_threadgroup": ("uint3", "uint3(shim::threads, 1, 1)"),
}


def missing() -> str:
    """Why nothing can be run here, or an empty string."""
    if not sys.platform.startswith("linux"):
        return "the shim switches fibers with ucontext: Linux only"
    return "" if shutil.which("g++") else "g++ is not installed"


@dataclass(frozen=True)
class Instance:
    """One kernel for one set of dtypes and template arguments, to be compiled as ``label``."""

    label: str
    header: str
    body: str
    inputs: dict[str, str]  # name: dtype
    outputs: dict[str, str]
    template: dict[str, str | bool | int] = field(default_factory=dict)  # a str is a dtype


def function(language: str, instance: Instance) -> str:
    """The function that MLX would hand to the GPU's compiler, named ``kernel``."""
    return _metal(instance) if language == "metal" else _cuda(instance)


def _value(language: str, argument: str | bool | int) -> str:
    return NAMES[language][argument] if isinstance(argument, str) else str(int(argument))


def _metal(k: Instance) -> str:
    kinds = {str: "typename", bool: "bool", int: "int"}
    head = ", ".join(f"{kinds[type(value)]} {name}" for name, value in k.template.items())
    parameters = []
    for name, dtype in k.inputs.items():
        parameters.append(f"const device {NAMES['metal'][dtype]}* {name} [[buffer(0)]]")
        if f"{name}_shape" in k.body:
            parameters.append(f"const constant int* {name}_shape [[buffer(0)]]")
    parameters += [
        f"device {NAMES['metal'][dtype]}* {name} [[buffer(0)]]" for name, dtype in k.outputs.items()
    ]
    parameters += [
        f"{kind} {name} [[{name}]]" for name, (kind, _) in ATTRIBUTES.items() if name in k.body
    ]
    template = f"template <{head}>\n" if head else ""
    inside = ",\n  ".join(parameters)
    return f"{k.header}\n{template}[[kernel]] void kernel(\n  {inside}) {{\n{k.body}\n}}\n"


def _cuda(k: Instance) -> str:
    parameters = []
    for name, dtype in k.inputs.items():
        parameters.append(f"const {NAMES['cuda'][dtype]}* {name}")
        if f"{name}_shape" in k.body:
            parameters.append(f"const __grid_constant__ Shape {name}_shape")
    parameters += [f"{NAMES['cuda'][dtype]}* {name}" for name, dtype in k.outputs.items()]
    constants = ""
    for name, value in k.template.items():
        text = _value("cuda", value)
        kind = type(value).__name__
        constants += (
            f"  using {name} = {text};\n"
            if kind == "str"
            else (f"  constexpr {kind} {name} = {text};\n")
        )
    inside = ",\n    ".join(parameters)
    return (
        f"{k.header}\nnamespace mlx::core::cu {{\n\n__global__ void kernel(\n    {inside}) {{\n"
        f"{constants}\n{k.body}\n}}\n\n}} // namespace mlx::core::cu\n"
    )


def _entry(language: str, k: Instance) -> str:
    """``run_LABEL``: a C function that launches the kernel on an array of pointers."""
    arguments = []
    for i, (name, dtype) in enumerate(k.inputs.items()):
        arguments.append(f"static_cast<const {NAMES[language][dtype]}*>(a->buffers[{i}])")
        if f"{name}_shape" in k.body:
            shape = f"a->shapes[{i}]"
            arguments.append(shape if language == "metal" else f"Shape{{{shape}[0], {shape}[1]}}")
    for i, dtype in enumerate(k.outputs.values(), start=len(k.inputs)):
        arguments.append(f"static_cast<{NAMES[language][dtype]}*>(a->buffers[{i}])")
    if language == "metal":
        arguments += [value for name, (_, value) in ATTRIBUTES.items() if name in k.body]
        values = ", ".join(_value("metal", value) for value in k.template.values())
        call = f"kernel<{values}>" if values else "kernel"
    else:
        call = "mlx::core::cu::kernel"
    return f"""
static void thread_{k.label}(void* raw) {{
  const Arguments* a = static_cast<const Arguments*>(raw);
  {call}({", ".join(arguments)});
}}
extern "C" int run_{k.label}(void** buffers, const int (*shapes)[2], unsigned groups,
                             unsigned threads, int descending) {{
  Arguments a = {{buffers, shapes}};
  return shim::launch(thread_{k.label}, &a, groups, threads, descending);
}}
"""


def source(language: str, instances: list[Instance]) -> str:
    """One C++ file with all the instances, each in a namespace of its own."""
    text = f'#include "{language}.h"\n'
    text += "struct Arguments { void** buffers; const int (*shapes)[2]; };\n"
    for k in instances:
        text += f"namespace instance_{k.label} {{\n{function(language, k)}{_entry(language, k)}}}\n"
    return text


class Library:
    """Compiled instances of one language. Raises ``RuntimeError`` with g++'s words."""

    def __init__(self, language: str, instances: list[Instance], folder: Path, stem: str):
        self.instances = {k.label: k for k in instances}
        code, binary = folder / f"{stem}.cpp", folder / f"{stem}.so"
        code.write_text(source(language, instances), encoding="utf-8")
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off"]
        command += ["-U_FORTIFY_SOURCE"]  # its longjmp takes a jump between stacks for an error
        command += ["-w", f"-I{HERE}", "-o", str(binary), str(code)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"g++ refused {code}:\n{done.stderr[:4000]}")
        self._library = ctypes.CDLL(str(binary))

    def run(
        self,
        label: str,
        inputs: list[np.ndarray],
        output_shapes: list[tuple[int, ...]],
        groups: int,
        threads: int,
        descending: bool = False,
    ) -> list[np.ndarray]:
        """The outputs, in the dtypes of ``STORAGE``. Raises ``RuntimeError`` if the threads parted
        ways, ``AssertionError`` if anything was written past an output.
        """
        k = self.instances[label]
        buffers = [_guarded(x, k.inputs[name]) for name, x in zip(k.inputs, inputs, strict=True)]
        outputs = []
        for dtype, shape in zip(k.outputs.values(), output_shapes, strict=True):
            outputs.append(np.full(int(np.prod(shape)) + GUARD, UNTOUCHED, STORAGE[dtype]))
        pointers = [b.ctypes.data for b in (*buffers, *outputs)]
        shapes = np.array([(*x.shape, 0, 0)[:2] for x in inputs], np.int32)
        result = self._library[f"run_{label}"](
            (ctypes.c_void_p * len(pointers))(*pointers),
            shapes.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_uint(groups),
            ctypes.c_uint(threads),
            ctypes.c_int(descending),
        )
        if result:
            raise RuntimeError({1: "a bad launch", 2: "threads parted ways"}[result])
        for name, out in zip(k.outputs, outputs, strict=True):
            assert (out[-GUARD:] == UNTOUCHED).all(), f"{label} wrote past the end of {name}"
        return [
            out[:-GUARD].reshape(shape) for out, shape in zip(outputs, output_shapes, strict=True)
        ]


def _guarded(x: np.ndarray, dtype: str) -> np.ndarray:
    assert x.dtype == STORAGE[dtype], (x.dtype, dtype)
    # Bits that are a large number in every dtype: read by mistake, they show.
    junk = {"bfloat16": 0x4780, "float16": 30000}.get(dtype, 10**5 + JUNK)
    return np.concatenate([x.ravel(), np.full(GUARD, junk, x.dtype)])


def to_storage(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values rounded to ``dtype``, as stored."""
    if dtype != "bfloat16":
        return x.astype(STORAGE[dtype])
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def from_storage(x: np.ndarray, dtype: str) -> np.ndarray:
    """Stored values as float32."""
    if dtype != "bfloat16":
        return x.astype(np.float32)
    return (x.astype(np.uint32) << 16).view(np.float32)

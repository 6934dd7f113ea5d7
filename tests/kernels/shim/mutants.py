"""Mistakes to plant into the kernel sources; the checks must catch every one of them.

Each is (what is wrong, the text, its replacement), in Metal's names; ``CUDA_NAMES`` gives CUDA's.
The replacement hits every place where the text stands.
"""

from __future__ import annotations

CUDA_NAMES = (
    ("simd_max", "warp_max"),
    ("simd_sum", "warp_sum"),
    ("simd_min", "warp_min"),
    ("simdgroups_per_threadgroup", "width / 32"),
    ("threadgroup_barrier(mem_flags::mem_threadgroup)", "__syncthreads()"),
    ("metal::precise::exp", "expf"),
    ("metal::precise::log", "logf"),
    ("metal::max", "fmaxf"),
    ("uint2(i,", "make_uint2(i,"),
    ("uint2(keys", "make_uint2(keys"),
    ("uint", "unsigned"),
    ("make_unsigned2", "make_uint2"),
)
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
SHARED = (
    ("no barrier before the partials are read", BARRIER, ""),
    ("the last simd group is left out", "lane < simdgroups_per_threadgroup", "lane + 1 < simdgroups_per_threadgroup"),  # noqa: E501
    ("only simd group 0 is merged", "lane < simdgroups_per_threadgroup", "lane < 1"),
    ("all simd groups write one partial", "group_s[group] = s", "group_s[0] = s"),
    ("the maximum is left out", "if (x > m)", "if (false)"),
    ("the maximum starts at 0", "const float lowest = -1.7e38f", "const float lowest = 0.0f"),
    ("the largest of a simd group is one lane's", "top = simd_max(m)", "top = m"),
    ("rows start at the wrong entry", "size_t(row) * size_t(size)", "size_t(row) * size_t(size + 1)"),  # noqa: E501
)  # fmt: skip
LOGPROB = (
    *SHARED,
    (
        "a barrier that only some threads reach",
        "    group_weighted[group] = weighted;\n  }\n  " + BARRIER,
        "    group_weighted[group] = weighted;\n    " + BARRIER + "\n  }",
    ),
    ("the last entry is not read", "uint v = index; v < size;", "uint v = index; v + 1 < size;"),
    ("one entry too many", "uint v = index; v < size;", "uint v = index; v <= size;"),
    ("threads overlap", "v += width", "v += 32"),
    ("the old sum is not rescaled", "s = s * shrink + 1.0f", "s = s + 1.0f"),
    ("a simd group's sums are not rescaled", "simd_sum(s * shrink)", "simd_sum(s)"),
    ("the sum stays in one lane", "s = simd_sum(s * shrink)", "s = s * shrink"),
    ("the entropy's sum does not follow the maximum", "weighted + shift * s", "weighted"),
    ("0 * -inf in the entropy", "e > 0.0f ? e * z : 0.0f", "e * z"),
    ("0 * -inf in the entropy's gradient", "p > 0.0f ? -p", "true ? -p"),
    ("the entropy's gradient without the entropy", "((z - log_s) + h)", "(z - log_s)"),
    ("the one-hot is added", "p - 1.0f", "p + 1.0f"),
    ("p is not normalised", "(z) / s;", "(z);"),
    ("the temperature is left out", "const float scale = inv_temperature[0]", "const float scale = 1.0f"),  # noqa: E501
    ("the target of another row", "targets[row]", "targets[0]"),
)  # fmt: skip
SAMPLE = (
    *SHARED,
    ("the last pair is not read", "i < half_size;", "i + 1 < half_size;"),
    ("one pair too many", "if (v < size)", "if (v <= size)"),
    ("threads overlap and skip", "i += width", "i += width + 1"),
    ("the old sum is not rescaled", "s = s *", "s = s + 0.0f *"),
    ("a simd group's sums are not rescaled", "simd_sum(s * metal::precise::exp((m - top) * scale))", "simd_sum(s)"),  # noqa: E501
    ("ties go to the highest index", "v < token", "v > token"),
    ("ties are not looked at", "score > best ||", "score >= best ||"),
    ("a loser's token survives", "simd_min(best == winner ? token : size)", "simd_min(token)"),
    ("the best score is not merged", "group_best[group] = winner", "group_best[group] = best"),
    ("a wrong rotation", "{13, 15, 26, 6,", "{13, 15, 26, 7,"),
    ("a round too few", "j < 4", "j < 3"),
    ("no round count in the key schedule", "% 3] + i + 1", "% 3]"),
    ("half of the key", "keys[2 * row + 1]", "keys[2 * row]"),
    ("the key of another row", "keys[2 * row],", "keys[0],"),
    ("both of a pair get one word", "k == 0 ? bits.x : bits.y", "bits.x"),
    ("the counter of an odd row's last block", "other < size ? other : 0", "other"),
    ("the noise has the wrong sign", "return -metal::precise::log(metal::max(e, v))", "return metal::precise::log(metal::max(e, v))"),  # noqa: E501
    ("greedy rows are sampled", "greedy ? x : x * scale +", "x * scale +"),
    ("the temperature is left out", "1.0f / temperature[row]", "1.0f"),
    ("the log-probability at another temperature", "- top) * scale - ", "- top) - "),
)  # fmt: skip
CUDA_ONLY = (
    ("neighbouring lanes are not reduced", "step > 0", "step > 1"),
    ("half of a warp is not reduced", "int step = 16", "int step = 8"),
)


def mutants(language: str, kernel: str) -> tuple[tuple[str, str, str], ...]:
    """(what is wrong, text, replacement) for ``logprob`` or ``sample`` in a language."""
    listed = {"logprob": LOGPROB, "sample": SAMPLE}[kernel]
    if language == "metal":
        return listed
    return (*((why, _cuda(old), _cuda(new)) for why, old, new in listed), *CUDA_ONLY)


def _cuda(text: str) -> str:
    for metal, cuda in CUDA_NAMES:
        text = text.replace(metal, cuda)
    return text

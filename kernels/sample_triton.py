"""One token per row of logits, and its log-probability, in one pass: one Triton program a row.

Torch in, torch out; the same tokens as ``sample.metal`` and ``sample.cu`` for the same keys. On a
CPU it runs under ``TRITON_INTERPRET=1``.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _rounds(x, y, r0: tl.constexpr, r1: tl.constexpr, r2: tl.constexpr, r3: tl.constexpr):
    """Four rounds of threefry2x32."""
    x = x + y
    y = ((y << r0) | (y >> (32 - r0))) ^ x
    x = x + y
    y = ((y << r1) | (y >> (32 - r1))) ^ x
    x = x + y
    y = ((y << r2) | (y >> (32 - r2))) ^ x
    x = x + y
    y = ((y << r3) | (y >> (32 - r3))) ^ x
    return x, y


@triton.jit
def _threefry(k0, k1, x, y):
    """threefry2x32 with 20 rounds on uint32."""
    k2 = k0 ^ k1 ^ 0x1BD11BDA
    x, y = _rounds(x + k0, y + k1, 13, 15, 26, 6)
    x, y = _rounds(x + k1, y + k2 + 1, 17, 29, 16, 24)
    x, y = _rounds(x + k2, y + k0 + 2, 13, 15, 26, 6)
    x, y = _rounds(x + k0, y + k1 + 3, 17, 29, 16, 24)
    x, y = _rounds(x + k1, y + k2 + 4, 13, 15, 26, 6)
    return x + k2, y + k0 + 5


@triton.jit
def _gumbel(bits):
    """-log(-log(u)), u = 1 - v, v = bits / 2^32; v - (1 - u) is what 1 - v rounded off."""
    v = bits.to(tl.float32) * 2.3283064365386963e-10
    v = tl.minimum(tl.maximum(v, 1.1641532182693481e-10), 0.99999994)
    u = 1.0 - v
    e = (v - (1.0 - u)) - tl.log(u)
    return -tl.log(tl.maximum(e, v))


@triton.jit
def _merge(x, scale, score, v, size, m, s, best, token):
    """One block of entries ``v`` into the running maximum, sum, best score and its token."""
    top = tl.maximum(m, tl.max(x, axis=0))
    s = s * tl.exp((m - top) * scale) + tl.sum(tl.exp((x - top) * scale), axis=0)
    block_best = tl.max(score, axis=0)
    winner = tl.min(tl.where(score == block_best, v, size), axis=0)
    better = (block_best > best) | ((block_best == best) & (winner < token))
    return top, s, tl.where(better, block_best, best), tl.where(better, winner, token)


@triton.jit
def _sample_kernel(logits, temperature, keys, tokens, logp, size, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    start = row.to(tl.int64) * size
    t = tl.load(temperature + row)
    greedy = t <= 0
    scale = 1.0 / tl.where(greedy, 1.0, t)
    # Signed in memory (torch has few operations on uint32), the same bits here.
    k0 = tl.load(keys + 2 * row).to(tl.uint32, bitcast=True)
    k1 = tl.load(keys + 2 * row + 1).to(tl.uint32, bitcast=True)

    m = tl.full((), -1.7e38, tl.float32)  # finite, so that a difference never is inf - inf
    s = tl.full((), 0.0, tl.float32)
    best = tl.full((), -float("inf"), tl.float32)
    token = tl.zeros((), tl.int32) + size
    half = (size + 1) // 2
    for first in range(0, half, BLOCK):
        i = first + tl.arange(0, BLOCK)
        other = half + i
        inside = i < half
        both = inside & (other < size)
        counter = tl.where(both, other, 0)
        bits0, bits1 = _threefry(k0, k1, i.to(tl.uint32), counter.to(tl.uint32))
        x = tl.load(logits + start + i, mask=inside, other=-float("inf")).to(tl.float32)
        score = tl.where(greedy, x, x * scale + _gumbel(bits0))
        m, s, best, token = _merge(x, scale, score, i, size, m, s, best, token)
        x = tl.load(logits + start + other, mask=both, other=-float("inf")).to(tl.float32)
        score = tl.where(greedy, x, x * scale + _gumbel(bits1))
        m, s, best, token = _merge(x, scale, score, other, size, m, s, best, token)

    token = tl.where(token < size, token, 0)
    chosen = tl.load(logits + start + token).to(tl.float32)
    tl.store(tokens + row, token)
    tl.store(logp + row, (chosen - m) * scale - tl.log(s))


def sample_rows(
    logits: torch.Tensor, temperature: torch.Tensor, keys: torch.Tensor, block: int = 1024
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens int32 [B], logp float32 [B]) of logits [B, V], temperature [B] (0: greedy) and keys
    [B, 2], uint32 or int32 of the same bits; see ``sample.metal``. ``block``, a power of 2, is how
    many pairs of entries one step reads.
    """
    rows, size = logits.shape
    logits = logits.contiguous()
    tokens = torch.empty(rows, dtype=torch.int32, device=logits.device)
    logp = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows:
        _sample_kernel[(rows,)](
            logits,
            temperature.to(torch.float32).contiguous(),
            keys.contiguous().view(torch.int32),
            tokens,
            logp,
            size,
            BLOCK=min(block, triton.next_power_of_2((size + 1) // 2)),
        )
    return tokens, logp

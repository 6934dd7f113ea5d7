// One token per row of logits, and its log-probability, in one pass; a thread block per row.
//
// Inputs   logits [B, V] float32, bfloat16 or float16; temperature [B] float32 (0: greedy); keys
//          [B, 2] uint32, all the randomness of a row.
// Outputs  tokens [B] int32, logp [B] float32, with z = logits / temperature:
//            token = argmax(z + g),  g = -log(-log(u)),  u uniform in (0, 1)   (Gumbel-max)
//            logp = z[token] - logsumexp(z)
//          Greedy: argmax(logits), log-probability at temperature 1. Ties go to the lowest index;
//          -inf never wins (a row of nothing else gives token 0 and a logp that is NaN).
// Bits     threefry2x32, 20 rounds (Salmon et al. 2011), counters as in mx.random: with
//          h = ceil(V / 2), entries i and h + i share the block of counter (i, h + i); for odd V
//          the last block is (h - 1, 0) and its second word is not used.
// Launch   one block of 32, 64, ..., 1024 threads a row.

__device__ inline uint2 threefry(uint2 key, uint2 x) {
  const unsigned rotations[8] = {13, 15, 26, 6, 17, 29, 16, 24};
  const unsigned schedule[3] = {key.x, key.y, key.x ^ key.y ^ 0x1BD11BDAu};
  x.x += schedule[0];
  x.y += schedule[1];
  for (unsigned i = 0; i < 5; i++) {
    for (unsigned j = 0; j < 4; j++) {
      const unsigned r = rotations[4 * (i % 2) + j];
      x.x += x.y;
      x.y = (x.y << r) | (x.y >> (32 - r));
      x.y ^= x.x;
    }
    x.x += schedule[(i + 1) % 3];
    x.y += schedule[(i + 2) % 3] + i + 1;
  }
  return x;
}

// -log(-log(u)) with u = 1 - v, v = bits / 2^32, both kept inside (0, 1). A winner's u is near 1,
// where 1 - v rounds: v - (1 - u) is what was rounded off.
__device__ inline float gumbel(unsigned bits) {
  float v = float(bits) * 2.3283064365386963e-10f;  // 2^-32
  v = fminf(fmaxf(v, 1.1641532182693481e-10f), 0.99999994f);  // 2^-33, 1 - 2^-24
  const float u = 1.0f - v;
  const float e = (v - (1.0f - u)) - logf(u);
  return -logf(fmaxf(e, v));  // e >= v, whatever the compiler reorders
}

__device__ inline bool wins(float score, unsigned v, float best, unsigned token) {
  return score > best || (score == best && v < token);
}

__device__ inline float warp_max(float x) {
  for (int step = 16; step > 0; step >>= 1) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  }
  return x;
}

__device__ inline float warp_sum(float x) {
  for (int step = 16; step > 0; step >>= 1) {
    x += __shfl_xor_sync(0xffffffffu, x, step);
  }
  return x;
}

__device__ inline unsigned warp_min(unsigned x) {
  for (int step = 16; step > 0; step >>= 1) {
    x = min(x, __shfl_xor_sync(0xffffffffu, x, step));
  }
  return x;
}

// --- kernel body ---
  // Half of the lowest float: the difference to any logit is finite, and its exponential 0.
  const float lowest = -1.7e38f;
  const unsigned row = blockIdx.x;
  const unsigned index = threadIdx.x;
  const unsigned width = blockDim.x;
  const unsigned lane = index % 32;
  const unsigned group = index / 32;
  const unsigned size = logits_shape[1];
  const size_t start = size_t(row) * size_t(size);
  const bool greedy = !(temperature[row] > 0.0f);
  const float scale = greedy ? 1.0f : 1.0f / temperature[row];
  const uint2 key = make_uint2(keys[2 * row], keys[2 * row + 1]);

  // NVRTC has no INFINITY.
  const float nothing = __int_as_float(0xff800000);

  // m is the largest logit so far, s = sum e^((logit - m) * scale).
  float m = lowest;
  float s = 0.0f;
  float best = nothing;
  unsigned token = size;
  const unsigned half_size = (size + 1) / 2;
  for (unsigned i = index; i < half_size; i += width) {
    const unsigned other = half_size + i;
    const uint2 counter = make_uint2(i, other < size ? other : 0);
    const uint2 bits = greedy ? counter : threefry(key, counter);
    for (unsigned k = 0; k < 2; k++) {
      const unsigned v = k == 0 ? i : other;
      if (v < size) {
        const float x = float(logits[start + v]);
        const float score = greedy ? x : x * scale + gumbel(k == 0 ? bits.x : bits.y);
        if (wins(score, v, best, token)) {
          best = score;
          token = v;
        }
        if (x > m) {
          s = s * expf((m - x) * scale) + 1.0f;
          m = x;
        } else {
          s += expf((x - m) * scale);
        }
      }
    }
  }

  // Merge the lanes of a warp, then the warps: each of them merges all the partials, so that one
  // barrier is enough.
  __shared__ float group_m[32];
  __shared__ float group_s[32];
  __shared__ float group_best[32];
  __shared__ unsigned group_token[32];
  float top = warp_max(m);
  s = warp_sum(s * expf((m - top) * scale));
  float winner = warp_max(best);
  token = warp_min(best == winner ? token : size);
  if (lane == 0) {
    group_m[group] = top;
    group_s[group] = s;
    group_best[group] = winner;
    group_token[group] = token;
  }
  __syncthreads();
  const bool used = lane < width / 32;
  m = used ? group_m[lane] : lowest;
  s = used ? group_s[lane] : 0.0f;
  best = used ? group_best[lane] : nothing;
  token = used ? group_token[lane] : size;
  top = warp_max(m);
  s = warp_sum(s * expf((m - top) * scale));
  winner = warp_max(best);
  token = warp_min(best == winner ? token : size);

  if (index == 0) {
    token = token < size ? token : 0;
    tokens[row] = int(token);
    logp[row] = (float(logits[start + token]) - top) * scale - logf(s);
  }

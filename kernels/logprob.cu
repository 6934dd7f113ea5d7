// Log-probability, entropy and their gradients of one row of logits per thread block.
//
// Inputs   logits [N, V] float32, bfloat16 or float16; targets [N] int32; inv_temperature [1]
//          float32.
// Outputs  logp [N], entropy [N] float32, with z = logits * inv_temperature:
//            logp = z[y] - logsumexp(z),  entropy = -sum p log p,  p = softmax(z);
//          delta [N, V] = p - onehot(y), which is -d logp / dz, only if GRADIENT;
//          entropy_delta [N, V] = -p (log p + entropy) = d entropy / dz, only if ENTROPY_GRADIENT.
// Launch   one block of 32, 64, ..., 1024 threads a row. Without its flag an [N, V] output is never
//          touched and may be one element. -inf logits are allowed; a row of nothing else is NaN.

// Moves weighted = sum(e^z z) to z + shift, with s = sum(e^z) and shrink = e^shift. What vanishes
// is put at 0 by hand: 0 times an infinity would be NaN.
__device__ inline float shifted(float weighted, float s, float shift, float shrink) {
  return shrink > 0.0f ? (weighted + shift * s) * shrink : 0.0f;
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

// --- kernel body ---
  // Half of the lowest float: the difference to any logit is finite, and its exponential 0.
  const float lowest = -1.7e38f;
  const unsigned row = blockIdx.x;
  const unsigned index = threadIdx.x;
  const unsigned width = blockDim.x;
  const unsigned lane = index % 32;
  const unsigned group = index / 32;
  const unsigned size = logits_shape[1];
  const size_t start = size_t(row) * size_t(size);  // N * V may pass 2^32
  const unsigned target = targets[row];
  const float scale = inv_temperature[0];

  // One pass: m, the largest logit so far, s = sum e^z and weighted = sum e^z z, where z is
  // (logit - m) * scale: differences first, so that large logits lose nothing.
  float m = lowest;
  float s = 0.0f;
  float weighted = 0.0f;
  for (unsigned v = index; v < size; v += width) {
    const float x = float(logits[start + v]);
    if (x > m) {
      const float shift = (m - x) * scale;
      const float shrink = expf(shift);
      weighted = shifted(weighted, s, shift, shrink);
      s = s * shrink + 1.0f;
      m = x;
    } else {
      const float z = (x - m) * scale;
      const float e = expf(z);
      s += e;
      weighted += e > 0.0f ? e * z : 0.0f;
    }
  }

  // Merge the lanes of a warp, then the warps: each of them merges all the partials, so that one
  // barrier is enough.
  __shared__ float group_m[32];
  __shared__ float group_s[32];
  __shared__ float group_weighted[32];
  float top = warp_max(m);
  float shift = (m - top) * scale;
  float shrink = expf(shift);
  weighted = warp_sum(shifted(weighted, s, shift, shrink));
  s = warp_sum(s * shrink);
  if (lane == 0) {
    group_m[group] = top;
    group_s[group] = s;
    group_weighted[group] = weighted;
  }
  __syncthreads();
  const bool used = lane < width / 32;
  m = used ? group_m[lane] : lowest;
  s = used ? group_s[lane] : 0.0f;
  weighted = used ? group_weighted[lane] : 0.0f;
  top = warp_max(m);
  shift = (m - top) * scale;
  shrink = expf(shift);
  weighted = warp_sum(shifted(weighted, s, shift, shrink));
  s = warp_sum(s * shrink);
  m = top;

  const float log_s = logf(s);
  const float h = log_s - weighted / s;
  if (index == 0) {
    logp[row] = (float(logits[start + target]) - m) * scale - log_s;
    entropy[row] = h;
  }
  if (GRADIENT || ENTROPY_GRADIENT) {
    for (unsigned v = index; v < size; v += width) {
      const float z = (float(logits[start + v]) - m) * scale;
      const float p = expf(z) / s;
      if (GRADIENT) {
        delta[start + v] = T(v == target ? p - 1.0f : p);
      }
      if (ENTROPY_GRADIENT) {
        entropy_delta[start + v] = T(p > 0.0f ? -p * ((z - log_s) + h) : 0.0f);
      }
    }
  }

// Log-probability, entropy and their gradients of one row of logits per thread group.
//
// Inputs   logits [N, V] float32, bfloat16 or float16; targets [N] int32; inv_temperature [1]
//          float32.
// Outputs  logp [N], entropy [N] float32, with z = logits * inv_temperature:
//            logp = z[y] - logsumexp(z),  entropy = -sum p log p,  p = softmax(z);
//          delta [N, V] = p - onehot(y), which is -d logp / dz, only if GRADIENT;
//          entropy_delta [N, V] = -p (log p + entropy) = d entropy / dz, only if ENTROPY_GRADIENT.
// Launch   one group of 32, 64, ..., 1024 threads a row. Without its flag an [N, V] output is never
//          touched and may be one element. -inf logits are allowed; a row of nothing else is NaN.

// Moves weighted = sum(e^z z) to z + shift, with s = sum(e^z) and shrink = e^shift. What vanishes
// is put at 0 by hand: 0 times an infinity would be NaN.
inline float shifted(float weighted, float s, float shift, float shrink) {
  return shrink > 0.0f ? (weighted + shift * s) * shrink : 0.0f;
}

// --- kernel body ---
  // Half of the lowest float: the difference to any logit is finite, and its exponential 0.
  const float lowest = -1.7e38f;
  const uint row = threadgroup_position_in_grid.x;
  const uint index = thread_index_in_threadgroup;
  const uint width = threads_per_threadgroup.x;
  const uint lane = thread_index_in_simdgroup;
  const uint group = simdgroup_index_in_threadgroup;
  const uint size = uint(logits_shape[1]);
  const size_t start = size_t(row) * size_t(size);  // N * V may pass 2^32
  const uint target = uint(targets[row]);
  const float scale = inv_temperature[0];

  // One pass: m, the largest logit so far, s = sum e^z and weighted = sum e^z z, where z is
  // (logit - m) * scale: differences first, so that large logits lose nothing.
  float m = lowest;
  float s = 0.0f;
  float weighted = 0.0f;
  for (uint v = index; v < size; v += width) {
    const float x = float(logits[start + v]);
    if (x > m) {
      const float shift = (m - x) * scale;
      const float shrink = metal::precise::exp(shift);
      weighted = shifted(weighted, s, shift, shrink);
      s = s * shrink + 1.0f;
      m = x;
    } else {
      const float z = (x - m) * scale;
      const float e = metal::precise::exp(z);
      s += e;
      weighted += e > 0.0f ? e * z : 0.0f;
    }
  }

  // Merge the lanes of a simd group, then the simd groups: each of them merges all the partials, so
  // that one barrier is enough.
  threadgroup float group_m[32];
  threadgroup float group_s[32];
  threadgroup float group_weighted[32];
  float top = simd_max(m);
  float shift = (m - top) * scale;
  float shrink = metal::precise::exp(shift);
  weighted = simd_sum(shifted(weighted, s, shift, shrink));
  s = simd_sum(s * shrink);
  if (lane == 0) {
    group_m[group] = top;
    group_s[group] = s;
    group_weighted[group] = weighted;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const bool used = lane < simdgroups_per_threadgroup;
  m = used ? group_m[lane] : lowest;
  s = used ? group_s[lane] : 0.0f;
  weighted = used ? group_weighted[lane] : 0.0f;
  top = simd_max(m);
  shift = (m - top) * scale;
  shrink = metal::precise::exp(shift);
  weighted = simd_sum(shifted(weighted, s, shift, shrink));
  s = simd_sum(s * shrink);
  m = top;

  const float log_s = metal::precise::log(s);
  const float h = log_s - weighted / s;
  if (index == 0) {
    logp[row] = (float(logits[start + target]) - m) * scale - log_s;
    entropy[row] = h;
  }
  if (GRADIENT || ENTROPY_GRADIENT) {
    for (uint v = index; v < size; v += width) {
      const float z = (float(logits[start + v]) - m) * scale;
      const float p = metal::precise::exp(z) / s;
      if (GRADIENT) {
        delta[start + v] = T(v == target ? p - 1.0f : p);
      }
      if (ENTROPY_GRADIENT) {
        entropy_delta[start + v] = T(p > 0.0f ? -p * ((z - log_s) + h) : 0.0f);
      }
    }
  }

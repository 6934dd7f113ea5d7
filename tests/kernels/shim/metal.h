// The names of the Metal Shading Language that the kernels use, on fibers.h.

#pragma once

#include "fibers.h"

#define threadgroup static  // one for all fibers, as it is for all threads of a group
#define device
#define constant

typedef unsigned uint;
typedef shim::bfloat16 bfloat16_t;
typedef shim::float16 float16_t;

struct uint2 {
  uint x, y;
  uint2(uint a, uint b) : x(a), y(b) {}
};

struct uint3 {
  uint x, y, z;
  uint3(uint a, uint b, uint c) : x(a), y(b), z(c) {}
};

namespace metal {

inline float max(float a, float b) {
  return a > b ? a : b;
}

inline float min(float a, float b) {
  return a < b ? a : b;
}

namespace precise {
inline float exp(float x) {
  return expf(x);
}

inline float log(float x) {
  return logf(x);
}
}  // namespace precise

enum class mem_flags { mem_none, mem_device, mem_threadgroup };

inline void threadgroup_barrier(mem_flags) {
  shim::barrier();
}

inline float simd_sum(float x) {
  const uint32_t* all = shim::exchange(shim::bits(x), 1);
  float sum = 0;
  for (unsigned i = 0; i < shim::LANES; i++) {
    sum += shim::number(all[i]);
  }
  return sum;
}

inline float simd_max(float x) {
  const uint32_t* all = shim::exchange(shim::bits(x), 2);
  float top = shim::number(all[0]);
  for (unsigned i = 1; i < shim::LANES; i++) {
    top = max(top, shim::number(all[i]));
  }
  return top;
}

inline uint simd_min(uint x) {
  const uint32_t* all = shim::exchange(x, 3);
  uint low = all[0];
  for (unsigned i = 1; i < shim::LANES; i++) {
    low = all[i] < low ? all[i] : low;
  }
  return low;
}

inline float simd_shuffle_xor(float x, unsigned short mask) {
  return shim::number(shim::exchange(shim::bits(x), 4)[(shim::current % shim::LANES) ^ mask]);
}

// Past the last lane a value is undefined in Metal; here it is the lane's own.
inline float simd_shuffle_down(float x, unsigned short delta) {
  const uint32_t* all = shim::exchange(shim::bits(x), 5);
  const unsigned from = shim::current % shim::LANES + delta;
  return from < shim::LANES ? shim::number(all[from]) : x;
}

}  // namespace metal

using namespace metal;

// The names of CUDA that the kernels use, on fibers.h.

#pragma once

#include "fibers.h"

#define __global__
#define __device__
#define __grid_constant__
#define __shared__ static  // one for all fibers, as it is for all threads of a block

typedef shim::bfloat16 __nv_bfloat16;
typedef shim::float16 __half;

struct uint2 {
  unsigned x, y;
};

struct dim3 {
  unsigned x, y, z;
};

struct Shape {
  int32_t sizes[10];
  int32_t operator[](size_t i) const { return sizes[i]; }
};

#define threadIdx (dim3{shim::current, 0, 0})
#define blockIdx (dim3{shim::group, 0, 0})
#define blockDim (dim3{shim::threads, 1, 1})
#define gridDim (dim3{shim::groups, 1, 1})

inline uint2 make_uint2(unsigned x, unsigned y) {
  return uint2{x, y};
}

inline unsigned min(unsigned a, unsigned b) {
  return a < b ? a : b;
}

inline float __int_as_float(unsigned u) {
  return shim::number(u);
}

inline void __syncthreads() {
  shim::barrier();
}

// Only whole warps: a mask of fewer lanes stops the launch.
inline const uint32_t* shuffled(unsigned mask, uint32_t x, int operation) {
  return shim::exchange(x, mask == 0xffffffffu ? operation : -int(shim::current));
}

inline float __shfl_xor_sync(unsigned mask, float x, int step) {
  const uint32_t* all = shuffled(mask, shim::bits(x), 1);
  return shim::number(all[(shim::current % shim::LANES) ^ step]);
}

inline unsigned __shfl_xor_sync(unsigned mask, unsigned x, int step) {
  return shuffled(mask, x, 2)[(shim::current % shim::LANES) ^ step];
}

inline float __shfl_down_sync(unsigned mask, float x, int step) {
  const uint32_t* all = shuffled(mask, shim::bits(x), 3);
  const unsigned from = shim::current % shim::LANES + step;
  return from < shim::LANES ? shim::number(all[from]) : x;
}

inline float __shfl_sync(unsigned mask, float x, int lane) {
  return shim::number(shuffled(mask, shim::bits(x), 4)[lane % shim::LANES]);
}

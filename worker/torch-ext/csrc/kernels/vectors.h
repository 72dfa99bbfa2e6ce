// Vectors of sixteen numbers, which the compiler splits for narrower instruction sets. Part of kernels.cpp.
#pragma once

#include "kernels.h"

namespace {

using mtx::Plane;

constexpr int64_t kLanes = 16;
typedef float V __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));

#define INLINE inline __attribute__((always_inline))

INLINE V load(const float* at) {
  V v;
  __builtin_memcpy(&v, at, sizeof v);
  return v;
}

INLINE V load(const uint16_t* at) {
  H h;
  __builtin_memcpy(&h, at, sizeof h);
  return (V)(__builtin_convertvector(h, U) << 16);
}

INLINE void store(float* at, V v) {
  __builtin_memcpy(at, &v, sizeof v);
}

// Rounds to the nearest, ties to even.
INLINE void store(uint16_t* at, V v) {
  U bits = (U)v;
  H h = __builtin_convertvector((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, H);
  __builtin_memcpy(at, &h, sizeof h);
}

INLINE V splat(float value) {
  return V{} + value;
}

// Not a number stays none, so that a training that diverges shows.
INLINE V relu(V v) {
  return v < 0.0f ? V{} : v;
}

INLINE V larger(V a, V b) {
  return b > a ? b : a;
}

INLINE float sum(V v) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) {
    total += v[i];
  }
  return total;
}

} // namespace

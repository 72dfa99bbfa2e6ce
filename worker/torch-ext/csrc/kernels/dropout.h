// Dropout. Part of kernels.cpp.
#pragma once

#include "vectors.h"

namespace {

// A good mixture of the index with both halves of the seed.
INLINE U mixed(U index, uint64_t seed) {
  U h = index ^ static_cast<uint32_t>(seed);
  h = (h ^ (h >> 16)) * 0x7feb352du;
  h = (h ^ (h >> 15)) * 0x846ca68bu;
  h = (h ^ (h >> 16)) + static_cast<uint32_t>(seed >> 32);
  h = (h ^ (h >> 17)) * 0xed5ad4bbu;
  h = (h ^ (h >> 11)) * 0xac4c1b51u;
  return h ^ (h >> 15);
}

INLINE V kept(V x, uint32_t index, uint64_t seed, uint32_t threshold, float factor) {
  U lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  I keep = mixed(lanes + index, seed) >= threshold;
  return (V)((I)(x * factor) & keep);
}

template <class T, class To>
INLINE void dropout_of(
    const float* base, const T* x, To* out, uint64_t seed, uint32_t threshold, float factor, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes) {
    V v = kept(load(x + i), static_cast<uint32_t>(i), seed, threshold, factor);
    store(out + i, base == nullptr ? v : load(base + i) + v);
  }
}

void dropout(
    const float* base, const void* x, void* out, bool half, bool out_half, uint64_t seed, uint32_t threshold, float factor, int64_t begin, int64_t end) {
  if (half && out_half) {
    dropout_of(base, static_cast<const uint16_t*>(x), static_cast<uint16_t*>(out), seed, threshold, factor, begin, end);
  } else if (half) {
    dropout_of(base, static_cast<const uint16_t*>(x), static_cast<float*>(out), seed, threshold, factor, begin, end);
  } else if (out_half) {
    dropout_of(base, static_cast<const float*>(x), static_cast<uint16_t*>(out), seed, threshold, factor, begin, end);
  } else {
    dropout_of(base, static_cast<const float*>(x), static_cast<float*>(out), seed, threshold, factor, begin, end);
  }
}

} // namespace

// Loops over plain memory that libtorch has no fused form of. They are compiled once for each instruction set and chosen when
// the program starts; nothing here knows libtorch.
//
// Maps lie channels-last: [image, row, column, channel], with a multiple of 16 channels. Elements are float, or bfloat16
// where `half` is set; arithmetic is float. `begin` and `end` cut the work into parts that do not depend on each other, so
// that results do not depend on the number of threads.
#pragma once

#include <cstdint>

namespace mtx {

// The longest row of an image that `first_*` take.
constexpr int64_t kLongestRow = 1024;

struct Plane {
  int64_t height, width, channels;
};

struct Kernels {
  // Sums over all 3 x 3 neighbourhoods p (zeros outside) of the images' rows [begin, end): p_a, then p_a p_b for a <= b.
  void (*patch_sums)(const float* images, Plane plane, int64_t begin, int64_t end, double* sums /* [54] */);
  // Rows of relu(max over 2 x 2 of (weight . p + shift)); weight is [9, channels], and the normalisation is folded into it.
  void (*first_forward)(const float* images, Plane plane, const float* weight, const float* shift, void* out, bool half, int64_t begin, int64_t end);
  // For each pooled row in [begin, end), at sums + row * 10 * channels: the sums of g p_k [9, channels] and of g, where g is
  // the gradient at the place of each maximum that is above zero.
  void (*first_backward)(const float* images, Plane plane, const float* weight, const float* shift, const void* grad, bool half, float* sums, int64_t begin, int64_t end);

  // Sums over pixels of x - center and of its square, [2, channels].
  void (*moments)(const void* x, bool half, const float* center, int64_t channels, float* sums, int64_t begin, int64_t end);
  // y = relu(x scale + shift).
  void (*norm_relu)(const void* x, void* y, bool half, const float* scale, const float* shift, int64_t channels, int64_t begin, int64_t end);
  // Sums over pixels of g and of g (x - center), where g is the gradient where y is above zero.
  void (*norm_relu_sums)(const void* x, const void* grad, bool half, const float* scale, const float* shift, const float* center, int64_t channels, float* sums, int64_t begin, int64_t end);
  // dx = scale g + slope x + offset.
  void (*norm_relu_backward)(const void* x, const void* grad, void* dx, bool half, const float* scale, const float* shift, const float* slope, const float* offset, int64_t channels, int64_t begin, int64_t end);

  // The same three with a 2 x 2 maximum behind; [begin, end) are pooled rows.
  void (*pool)(const void* x, void* y, bool half, const float* scale, const float* shift, Plane plane, int64_t begin, int64_t end);
  void (*pool_sums)(const void* x, const void* grad, bool half, const float* scale, const float* shift, const float* center, Plane plane, float* sums, int64_t begin, int64_t end);
  void (*pool_backward)(const void* x, const void* grad, void* dx, bool half, const float* scale, const float* shift, const float* slope, const float* offset, Plane plane, int64_t begin, int64_t end);

  // Rows of `width` elements (a multiple of 16), in place: scores become softmax(scores scale).
  void (*softmax)(void* scores, bool half, float scale, int64_t width, int64_t begin, int64_t end);
  // Rows: dp becomes probs (dp - correction of the row) scale, the gradient of the scores.
  void (*softmax_backward)(const void* probs, void* dp, bool half, const float* correction, float scale, int64_t width, int64_t begin, int64_t end);

  // softmax(q k^T scale) v for heads [begin, end) of [heads, tokens, 4], tokens a multiple of 16. What backward needs goes to
  // `state` [heads, tokens, 2]: the largest score and 1 / the sum. `room` has 16 tokens floats.
  void (*narrow_attention)(const float* q, const float* k, const float* v, float* out, float* state, float* room, float scale, int64_t tokens, int64_t begin, int64_t end);
  void (*narrow_attention_backward)(const float* q, const float* k, const float* v, const float* out, const float* state, const float* grad, float* dq, float* dk, float* dv, float* room, float scale, int64_t tokens, int64_t begin, int64_t end);

  // out = base + x kept / (1 - p), where an element is kept by a hash of its index and the seed; base may be null.
  void (*dropout)(const float* base, const void* x, void* out, bool half, bool out_half, uint64_t seed, uint32_t threshold, float factor, int64_t begin, int64_t end);
};

extern const Kernels kernels_portable;
#ifdef MTX_X86
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

} // namespace mtx

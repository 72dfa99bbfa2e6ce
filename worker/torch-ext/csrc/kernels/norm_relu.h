// Normalisation, ReLU and pooling. Part of kernels.cpp.
#pragma once

#include "vectors.h"

namespace {

// Pixels whose channels are summed in registers before they go to memory.
constexpr int64_t kTile = 32;

// Adds two sums over pixels to sums[0..channels] and sums[channels..]; term(pixel, channel, a, b) adds to both.
template <class Term>
INLINE void tiled(int64_t channels, float* sums, int64_t begin, int64_t end, Term term) {
  for (int64_t first = begin; first < end; first += kTile) {
    int64_t last = first + kTile < end ? first + kTile : end;
    for (int64_t c = 0; c < channels; c += kLanes) {
      V a = {}, b = {};
      for (int64_t pixel = first; pixel < last; ++pixel) {
        term(pixel, c, a, b);
      }
      store(sums + c, load(sums + c) + a);
      store(sums + channels + c, load(sums + channels + c) + b);
    }
  }
}

template <class T>
INLINE void moments_of(const T* x, const float* center, int64_t channels, float* sums, int64_t begin, int64_t end) {
  tiled(channels, sums, begin, end, [=](int64_t pixel, int64_t c, V& a, V& b) __attribute__((always_inline)) {
    V v = load(x + pixel * channels + c) - load(center + c);
    a += v;
    b += v * v;
  });
}

void moments(const void* x, bool half, const float* center, int64_t channels, float* sums, int64_t begin, int64_t end) {
  if (half) {
    moments_of(static_cast<const uint16_t*>(x), center, channels, sums, begin, end);
  } else {
    moments_of(static_cast<const float*>(x), center, channels, sums, begin, end);
  }
}

template <class T>
INLINE void norm_relu_of(
    const T* x, T* y, const float* scale, const float* shift, int64_t channels, int64_t begin, int64_t end) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    for (int64_t c = 0; c < channels; c += kLanes) {
      int64_t at = pixel * channels + c;
      store(y + at, relu(load(x + at) * load(scale + c) + load(shift + c)));
    }
  }
}

void norm_relu(
    const void* x, void* y, bool half, const float* scale, const float* shift, int64_t channels, int64_t begin, int64_t end) {
  if (half) {
    norm_relu_of(static_cast<const uint16_t*>(x), static_cast<uint16_t*>(y), scale, shift, channels, begin, end);
  } else {
    norm_relu_of(static_cast<const float*>(x), static_cast<float*>(y), scale, shift, channels, begin, end);
  }
}

// The gradient where the answer is above zero.
template <class T>
INLINE V gated(V x, const T* grad, V scale, V shift) {
  I open = (x * scale + shift) > 0.0f;
  return (V)((I)load(grad) & open);
}

template <class T>
INLINE void norm_relu_sums_of(
    const T* x, const T* grad, const float* scale, const float* shift, const float* center, int64_t channels, float* sums, int64_t begin, int64_t end) {
  tiled(channels, sums, begin, end, [=](int64_t pixel, int64_t c, V& a, V& b) __attribute__((always_inline)) {
    int64_t at = pixel * channels + c;
    V v = load(x + at);
    V g = gated(v, grad + at, load(scale + c), load(shift + c));
    a += g;
    b += g * (v - load(center + c));
  });
}

void norm_relu_sums(
    const void* x, const void* grad, bool half, const float* scale, const float* shift, const float* center, int64_t channels, float* sums, int64_t begin, int64_t end) {
  if (half) {
    norm_relu_sums_of(static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(grad), scale, shift, center, channels, sums, begin, end);
  } else {
    norm_relu_sums_of(static_cast<const float*>(x), static_cast<const float*>(grad), scale, shift, center, channels, sums, begin, end);
  }
}

template <class T>
INLINE void norm_relu_backward_of(
    const T* x, const T* grad, T* dx, const float* scale, const float* shift, const float* slope, const float* offset, int64_t channels, int64_t begin, int64_t end) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    for (int64_t c = 0; c < channels; c += kLanes) {
      int64_t at = pixel * channels + c;
      V v = load(x + at), s = load(scale + c);
      V g = gated(v, grad + at, s, load(shift + c));
      store(dx + at, g * s + (v * load(slope + c) + load(offset + c)));
    }
  }
}

void norm_relu_backward(
    const void* x, const void* grad, void* dx, bool half, const float* scale, const float* shift, const float* slope, const float* offset, int64_t channels, int64_t begin, int64_t end) {
  if (half) {
    norm_relu_backward_of(static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(grad), static_cast<uint16_t*>(dx), scale, shift, slope, offset, channels, begin, end);
  } else {
    norm_relu_backward_of(static_cast<const float*>(x), static_cast<const float*>(grad), static_cast<float*>(dx), scale, shift, slope, offset, channels, begin, end);
  }
}

// Where the four values under pooled pixel `pixel` of row `r` begin.
INLINE void corners(Plane plane, int64_t r, int64_t pixel, int64_t* at) {
  // Pooled row r of all images lies over rows 2r and 2r + 1 of all images, as heights are even.
  int64_t first = (2 * r * plane.width + 2 * pixel) * plane.channels;
  at[0] = first;
  at[1] = first + plane.channels;
  at[2] = first + plane.width * plane.channels;
  at[3] = at[2] + plane.channels;
}

template <class T>
INLINE void pool_of(const T* x, T* y, const float* scale, const float* shift, Plane plane, int64_t begin, int64_t end) {
  int64_t width = plane.width / 2, channels = plane.channels;
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t pixel = 0; pixel < width; ++pixel) {
      int64_t at[4];
      corners(plane, r, pixel, at);
      for (int64_t c = 0; c < channels; c += kLanes) {
        V s = load(scale + c), d = load(shift + c);
        V n[4];
        for (int q = 0; q < 4; ++q) {
          n[q] = load(x + at[q] + c) * s + d;
        }
        store(y + (r * width + pixel) * channels + c, relu(larger(larger(n[0], n[1]), larger(n[2], n[3]))));
      }
    }
  }
}

void pool(const void* x, void* y, bool half, const float* scale, const float* shift, Plane plane, int64_t begin, int64_t end) {
  if (half) {
    pool_of(static_cast<const uint16_t*>(x), static_cast<uint16_t*>(y), scale, shift, plane, begin, end);
  } else {
    pool_of(static_cast<const float*>(x), static_cast<float*>(y), scale, shift, plane, begin, end);
  }
}

template <class T>
INLINE void pool_sums_of(
    const T* x, const T* grad, const float* scale, const float* shift, const float* center, Plane plane, float* sums, int64_t begin, int64_t end) {
  int64_t width = plane.width / 2, channels = plane.channels;
  for (int64_t r = begin; r < end; ++r) {
    tiled(channels, sums, 0, width, [=](int64_t pixel, int64_t c, V& a, V& b) __attribute__((always_inline)) {
      int64_t at[4];
      corners(plane, r, pixel, at);
      V s = load(scale + c), d = load(shift + c), m = load(center + c);
      V v[4], n[4], g[4];
      for (int q = 0; q < 4; ++q) {
        v[q] = load(x + at[q] + c);
        n[q] = v[q] * s + d;
      }
      share(n, load(grad + (r * width + pixel) * channels + c), g);
      for (int q = 0; q < 4; ++q) {
        a += g[q];
        b += g[q] * (v[q] - m);
      }
    });
  }
}

void pool_sums(
    const void* x, const void* grad, bool half, const float* scale, const float* shift, const float* center, Plane plane, float* sums, int64_t begin, int64_t end) {
  if (half) {
    pool_sums_of(static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(grad), scale, shift, center, plane, sums, begin, end);
  } else {
    pool_sums_of(static_cast<const float*>(x), static_cast<const float*>(grad), scale, shift, center, plane, sums, begin, end);
  }
}

template <class T>
INLINE void pool_backward_of(
    const T* x, const T* grad, T* dx, const float* scale, const float* shift, const float* slope, const float* offset, Plane plane, int64_t begin, int64_t end) {
  int64_t width = plane.width / 2, channels = plane.channels;
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t pixel = 0; pixel < width; ++pixel) {
      int64_t at[4];
      corners(plane, r, pixel, at);
      for (int64_t c = 0; c < channels; c += kLanes) {
        V s = load(scale + c), d = load(shift + c), m = load(slope + c), o = load(offset + c);
        V v[4], n[4], g[4];
        for (int q = 0; q < 4; ++q) {
          v[q] = load(x + at[q] + c);
          n[q] = v[q] * s + d;
        }
        share(n, load(grad + (r * width + pixel) * channels + c), g);
        for (int q = 0; q < 4; ++q) {
          store(dx + at[q] + c, g[q] * s + (v[q] * m + o));
        }
      }
    }
  }
}

void pool_backward(
    const void* x, const void* grad, void* dx, bool half, const float* scale, const float* shift, const float* slope, const float* offset, Plane plane, int64_t begin, int64_t end) {
  if (half) {
    pool_backward_of(static_cast<const uint16_t*>(x), static_cast<const uint16_t*>(grad), static_cast<uint16_t*>(dx), scale, shift, slope, offset, plane, begin, end);
  } else {
    pool_backward_of(static_cast<const float*>(x), static_cast<const float*>(grad), static_cast<float*>(dx), scale, shift, slope, offset, plane, begin, end);
  }
}

} // namespace

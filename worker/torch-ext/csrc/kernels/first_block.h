// The first block of an encoder. Part of kernels.cpp.
#pragma once

#include "vectors.h"

namespace {

// Rows first - 1 .. first + count - 2 of an image, with a zero at each end and zeros outside.
template <int Count>
struct Rows {
  float row[Count][mtx::kLongestRow + 2 + kLanes];

  INLINE Rows(const float* image, Plane plane, int64_t first) {
    for (int r = 0; r < Count; ++r) {
      int64_t y = first + r;
      bool inside = y >= 0 && y < plane.height;
      row[r][0] = 0;
      for (int64_t x = 0; x < plane.width; ++x) {
        row[r][x + 1] = inside ? image[y * plane.width + x] : 0.0f;
      }
      for (int64_t x = plane.width + 1; x < plane.width + 2 + kLanes; ++x) {
        row[r][x] = 0;
      }
    }
  }
};

void patch_sums(const float* images, Plane plane, int64_t begin, int64_t end, double* sums) {
  for (int64_t r = begin; r < end; ++r) {
    const float* image = images + r / plane.height * plane.height * plane.width;
    Rows<3> rows(image, plane, r % plane.height - 1);
    V single[9] = {};
    V pairs[45] = {};
    for (int64_t x = 0; x < plane.width; x += kLanes) {
      // Lanes past the end of the row have no centre.
      V valid;
      for (int i = 0; i < kLanes; ++i) {
        valid[i] = x + i < plane.width ? 1.0f : 0.0f;
      }
      V p[9];
      for (int k = 0; k < 9; ++k) {
        p[k] = load(rows.row[k / 3] + x + k % 3) * valid;
        single[k] += p[k];
      }
      int pair = 0;
      for (int a = 0; a < 9; ++a) {
        for (int b = a; b < 9; ++b) {
          pairs[pair++] += p[a] * p[b];
        }
      }
    }
    for (int k = 0; k < 9; ++k) {
      sums[k] += sum(single[k]);
    }
    for (int k = 0; k < 45; ++k) {
      sums[9 + k] += sum(pairs[k]);
    }
  }
}

// The four answers under one maximum: weight . p + shift at (0,0), (0,1), (1,0), (1,1).
INLINE void four(const Rows<4>& rows, int64_t column, const V* weight, V shift, V* y) {
  for (int q = 0; q < 4; ++q) {
    y[q] = shift;
  }
  for (int k = 0; k < 9; ++k) {
    for (int q = 0; q < 4; ++q) {
      y[q] += weight[k] * rows.row[k / 3 + q / 2][column + k % 3 + q % 2];
    }
  }
}

template <class T>
INLINE void first_forward_of(
    const float* images, Plane plane, const float* weight, const float* shift, T* out, int64_t begin, int64_t end) {
  int64_t height = plane.height / 2, width = plane.width / 2, channels = plane.channels;
  for (int64_t r = begin; r < end; ++r) {
    Rows<4> rows(images + r / height * plane.height * plane.width, plane, 2 * (r % height) - 1);
    for (int64_t c = 0; c < channels; c += kLanes) {
      V w[9];
      for (int k = 0; k < 9; ++k) {
        w[k] = load(weight + k * channels + c);
      }
      V s = load(shift + c);
      for (int64_t x = 0; x < width; ++x) {
        V y[4];
        four(rows, 2 * x, w, s, y);
        store(out + (r * width + x) * channels + c, relu(larger(larger(y[0], y[1]), larger(y[2], y[3]))));
      }
    }
  }
}

void first_forward(
    const float* images, Plane plane, const float* weight, const float* shift, void* out, bool half, int64_t begin, int64_t end) {
  if (half) {
    first_forward_of(images, plane, weight, shift, static_cast<uint16_t*>(out), begin, end);
  } else {
    first_forward_of(images, plane, weight, shift, static_cast<float*>(out), begin, end);
  }
}

// Which of four values is the first largest and above zero: the gradient goes there alone.
INLINE void share(const V* y, V grad, V* g) {
  V best = larger(larger(y[0], y[1]), larger(y[2], y[3]));
  I open = best > 0.0f;
  for (int q = 0; q < 4; ++q) {
    I here = open & (y[q] == best);
    g[q] = (V)((I)grad & here);
    open &= ~here;
  }
}

template <class T>
INLINE void first_backward_of(
    const float* images, Plane plane, const float* weight, const float* shift, const T* grad, float* sums, int64_t begin, int64_t end) {
  int64_t height = plane.height / 2, width = plane.width / 2, channels = plane.channels;
  for (int64_t r = begin; r < end; ++r) {
    Rows<4> rows(images + r / height * plane.height * plane.width, plane, 2 * (r % height) - 1);
    float* to = sums + r * 10 * channels;
    for (int64_t c = 0; c < channels; c += kLanes) {
      V w[9], of_patch[9] = {}, of_grad = {};
      for (int k = 0; k < 9; ++k) {
        w[k] = load(weight + k * channels + c);
      }
      V s = load(shift + c);
      for (int64_t x = 0; x < width; ++x) {
        V y[4], g[4];
        four(rows, 2 * x, w, s, y);
        share(y, load(grad + (r * width + x) * channels + c), g);
        for (int k = 0; k < 9; ++k) {
          for (int q = 0; q < 4; ++q) {
            of_patch[k] += g[q] * rows.row[k / 3 + q / 2][2 * x + k % 3 + q % 2];
          }
        }
        of_grad += (g[0] + g[1]) + (g[2] + g[3]);
      }
      for (int k = 0; k < 9; ++k) {
        store(to + k * channels + c, of_patch[k]);
      }
      store(to + 9 * channels + c, of_grad);
    }
  }
}

void first_backward(
    const float* images, Plane plane, const float* weight, const float* shift, const void* grad, bool half, float* sums, int64_t begin, int64_t end) {
  if (half) {
    first_backward_of(images, plane, weight, shift, static_cast<const uint16_t*>(grad), sums, begin, end);
  } else {
    first_backward_of(images, plane, weight, shift, static_cast<const float*>(grad), sums, begin, end);
  }
}

} // namespace

// Attention and softmax. Part of kernels.cpp.
#pragma once

#include "vectors.h"

namespace {

// exp(x) for x <= 0, to float's precision; below -87 it is 0.
INLINE V exponential(V x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  V t = x * 1.44269504f;
  // Adding and taking away 1.5 2^23 rounds to a whole number.
  V n = (t + 12582912.0f) - 12582912.0f;
  V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V y = splat(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  I power = (__builtin_convertvector(n, I) + 127) << 23;
  return y * (V)power;
}

template <class T>
INLINE void softmax_of(T* scores, float scale, int64_t width, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    T* at = scores + row * width;
    V most = load(at);
    for (int64_t i = kLanes; i < width; i += kLanes) {
      most = larger(most, load(at + i));
    }
    float largest = most[0];
    for (int i = 1; i < kLanes; ++i) {
      largest = most[i] > largest ? most[i] : largest;
    }
    // What is written down first are the powers; their sum divides them in a second pass over what is still at hand.
    V total = {};
    for (int64_t i = 0; i < width; i += kLanes) {
      V e = exponential((load(at + i) - largest) * scale);
      total += e;
      store(at + i, e);
    }
    V factor = splat(1.0f / sum(total));
    for (int64_t i = 0; i < width; i += kLanes) {
      store(at + i, load(at + i) * factor);
    }
  }
}

void softmax(void* scores, bool half, float scale, int64_t width, int64_t begin, int64_t end) {
  if (half) {
    softmax_of(static_cast<uint16_t*>(scores), scale, width, begin, end);
  } else {
    softmax_of(static_cast<float*>(scores), scale, width, begin, end);
  }
}

template <class T>
INLINE void softmax_backward_of(
    const T* probs, T* dp, const float* correction, float scale, int64_t width, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    V c = splat(correction[row]);
    for (int64_t i = row * width; i < (row + 1) * width; i += kLanes) {
      store(dp + i, load(probs + i) * (load(dp + i) - c) * scale);
    }
  }
}

void softmax_backward(
    const void* probs, void* dp, bool half, const float* correction, float scale, int64_t width, int64_t begin, int64_t end) {
  if (half) {
    softmax_backward_of(static_cast<const uint16_t*>(probs), static_cast<uint16_t*>(dp), correction, scale, width, begin, end);
  } else {
    softmax_backward_of(static_cast<const float*>(probs), static_cast<float*>(dp), correction, scale, width, begin, end);
  }
}

// Elements of a token in a narrow head.
constexpr int kWidth = 4;

// Queries that share each load of a key.
constexpr int kQueries = 4;

// [tokens, kWidth] to [kWidth, tokens], so that a vector holds one element of sixteen tokens.
INLINE void turn(const float* from, float* to, int64_t tokens) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int d = 0; d < kWidth; ++d) {
      to[d * tokens + t] = from[t * kWidth + d];
    }
  }
}

INLINE void turn_back(const float* from, float* to, int64_t tokens) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int d = 0; d < kWidth; ++d) {
      to[t * kWidth + d] = from[d * tokens + t];
    }
  }
}

// The scores of one query for sixteen keys.
INLINE V scored(const float* query, const float* keys, int64_t tokens, int64_t at) {
  V s = load(keys + at) * query[0];
  for (int d = 1; d < kWidth; ++d) {
    s += load(keys + d * tokens + at) * query[d];
  }
  return s;
}

void narrow_attention(
    const float* q, const float* k, const float* v, float* out, float* state, float* room, float scale, int64_t tokens, int64_t begin, int64_t end) {
  float *keys = room, *values = room + kWidth * tokens;
  float* scores = values + kWidth * tokens;
  for (int64_t head = begin; head < end; ++head) {
    turn(k + head * tokens * kWidth, keys, tokens);
    turn(v + head * tokens * kWidth, values, tokens);
    for (int64_t first = 0; first < tokens; first += kQueries) {
      const float* query = q + (head * tokens + first) * kWidth;
      V most[kQueries];
      for (int i = 0; i < kQueries; ++i) {
        most[i] = splat(-3.4e38f);
      }
      for (int64_t at = 0; at < tokens; at += kLanes) {
        for (int i = 0; i < kQueries; ++i) {
          V s = scored(query + i * kWidth, keys, tokens, at);
          most[i] = larger(most[i], s);
          store(scores + i * tokens + at, s);
        }
      }
      V answer[kQueries][kWidth] = {}, total[kQueries] = {};
      float largest[kQueries];
      for (int i = 0; i < kQueries; ++i) {
        largest[i] = most[i][0];
        for (int lane = 1; lane < kLanes; ++lane) {
          largest[i] = most[i][lane] > largest[i] ? most[i][lane] : largest[i];
        }
      }
      for (int64_t at = 0; at < tokens; at += kLanes) {
        for (int i = 0; i < kQueries; ++i) {
          V e = exponential((load(scores + i * tokens + at) - largest[i]) * scale);
          total[i] += e;
          for (int d = 0; d < kWidth; ++d) {
            answer[i][d] += e * load(values + d * tokens + at);
          }
        }
      }
      for (int i = 0; i < kQueries; ++i) {
        int64_t row = head * tokens + first + i;
        float inverse = 1.0f / sum(total[i]);
        state[2 * row] = largest[i];
        state[2 * row + 1] = inverse;
        for (int d = 0; d < kWidth; ++d) {
          out[row * kWidth + d] = sum(answer[i][d]) * inverse;
        }
      }
    }
  }
}

void narrow_attention_backward(
    const float* q, const float* k, const float* v, const float* out, const float* state, const float* grad, float* dq, float* dk, float* dv, float* room, float scale, int64_t tokens, int64_t begin, int64_t end) {
  int64_t size = kWidth * tokens;
  float *keys = room, *values = room + size, *d_keys = room + 2 * size, *d_values = room + 3 * size;
  for (int64_t head = begin; head < end; ++head) {
    turn(k + head * size, keys, tokens);
    turn(v + head * size, values, tokens);
    for (int64_t i = 0; i < 2 * size; ++i) {
      d_keys[i] = 0;
    }
    for (int64_t first = 0; first < tokens; first += kQueries) {
      int64_t row = head * tokens + first;
      const float *query = q + row * kWidth, *g = grad + row * kWidth;
      float correction[kQueries] = {};
      for (int i = 0; i < kQueries; ++i) {
        for (int d = 0; d < kWidth; ++d) {
          correction[i] += g[i * kWidth + d] * out[(row + i) * kWidth + d];
        }
      }
      V d_query[kQueries][kWidth] = {};
      for (int64_t at = 0; at < tokens; at += kLanes) {
        V p[kQueries], ds[kQueries];
        for (int i = 0; i < kQueries; ++i) {
          V s = scored(query + i * kWidth, keys, tokens, at);
          p[i] = exponential((s - state[2 * (row + i)]) * scale) * state[2 * (row + i) + 1];
          ds[i] = p[i] * (scored(g + i * kWidth, values, tokens, at) - correction[i]) * scale;
        }
        for (int d = 0; d < kWidth; ++d) {
          V key = load(keys + d * tokens + at), d_key = load(d_keys + d * tokens + at), d_value = load(d_values + d * tokens + at);
          for (int i = 0; i < kQueries; ++i) {
            d_query[i][d] += ds[i] * key;
            d_key += ds[i] * query[i * kWidth + d];
            d_value += p[i] * g[i * kWidth + d];
          }
          store(d_keys + d * tokens + at, d_key);
          store(d_values + d * tokens + at, d_value);
        }
      }
      for (int i = 0; i < kQueries; ++i) {
        for (int d = 0; d < kWidth; ++d) {
          dq[(row + i) * kWidth + d] = sum(d_query[i][d]);
        }
      }
    }
    turn_back(d_keys, dk + head * size, tokens);
    turn_back(d_values, dv + head * size, tokens);
  }
}

} // namespace

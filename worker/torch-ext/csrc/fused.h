// What the fused operations share. They are for training on the CPU; sums are made in parts that the size of the data decides, and
// the parts are added in order, so that results do not depend on the number of threads.
#pragma once

#include "guard.h"
#include "kernels/kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

namespace mtx {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

inline const Kernels& kernels() {
#ifdef MTX_X86
  static const Kernels& chosen = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
          __builtin_cpu_supports("avx512dq")
      ? mtx::kernels_avx512
      : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? mtx::kernels_avx2
                                                                       : mtx::kernels_portable;
  return chosen;
#else
  return mtx::kernels_portable;
#endif
}

inline bool half(const Tensor& x) {
  return x.scalar_type() == at::kBFloat16;
}

inline Tensor channels_last(const Tensor& x) {
  return x.contiguous(at::MemoryFormat::ChannelsLast);
}

// Elements of a task that is worth handing to another thread.
constexpr int64_t kGrain = 1 << 15;

// Runs body(begin, end) over [0, items), each of `cost` elements.
template <class Body>
void in_parallel(int64_t items, int64_t cost, const Body& body) {
  at::parallel_for(0, items, std::max<int64_t>(1, kGrain / std::max<int64_t>(cost, 1)), body);
}

// Sums of `width` numbers over [0, items), each of `cost` elements; body adds those of [begin, end) to its last argument.
template <class Number = float, class Body>
std::vector<double> sums(int64_t items, int64_t cost, int64_t width, const Body& body) {
  constexpr int64_t kMost = 64;
  auto parts = std::clamp<int64_t>(items * cost / kGrain, 1, std::min(items, kMost));
  std::vector<Number> partial(parts * width, 0);
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (auto part = begin; part < end; ++part) {
      body(items * part / parts, items * (part + 1) / parts, partial.data() + part * width);
    }
  });
  std::vector<double> total(width, 0);
  for (int64_t part = 0; part < parts; ++part) {
    for (int64_t i = 0; i < width; ++i) {
      total[i] += partial[part * width + i];
    }
  }
  return total;
}

inline const float* floats(const Tensor& t) {
  return t.const_data_ptr<float>();
}

} // namespace mtx

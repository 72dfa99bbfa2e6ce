// The objects behind the handles of store.cpp, group.cpp and reducer.cpp.
#pragma once

#include "shim.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <functional>
#include <memory>
#include <vector>

struct mtx_store {
  c10::intrusive_ptr<c10d::Store> store;
};

struct mtx_group {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  c10::intrusive_ptr<c10d::Backend> backend;
  c10::DeviceType device;
  std::function<void()> abort;
};

struct mtx_reducer {
  std::shared_ptr<c10d::Reducer> reducer;
  // The Reducer crashes without one when the set of unused parameters changes between steps.
  std::shared_ptr<c10d::Logger> logger;
};

namespace mtx {

inline std::vector<at::Tensor> list(const TensorRef* tensors, size_t count) {
  std::vector<at::Tensor> all;
  all.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    all.push_back(*tensors[i]);
  }
  return all;
}

} // namespace mtx

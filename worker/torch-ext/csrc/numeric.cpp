// What the training step needs of libtorch and tch does not bind: fused Adam, autocast, determinism, threads.

#include "guard.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#ifdef USE_C10D_NCCL
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAFunctions.h>
#endif

#include <vector>

using mtx::guarded;

namespace {

std::vector<at::Tensor> list(const TensorRef* tensors, size_t count) {
  std::vector<at::Tensor> all;
  all.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    all.push_back(*tensors[i]);
  }
  return all;
}

at::DeviceType device_type(int32_t device) {
  return device == 0 ? at::kCPU : at::kCUDA;
}

} // namespace

mtx_failure mtx_fused_adam(
    const TensorRef* params,
    const TensorRef* grads,
    const TensorRef* exp_avgs,
    const TensorRef* exp_avg_sqs,
    const TensorRef* steps,
    size_t count,
    double lr,
    double beta1,
    double beta2,
    double weight_decay,
    double eps) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    auto counts = list(steps, count);
    at::_foreach_add_(counts, 1);
    at::_fused_adam_(
        list(params, count),
        list(grads, count),
        list(exp_avgs, count),
        list(exp_avg_sqs, count),
        /*max_exp_avg_sqs=*/{},
        counts,
        lr,
        beta1,
        beta2,
        weight_decay,
        eps,
        /*amsgrad=*/false,
        /*maximize=*/false);
  });
}

mtx_failure mtx_clear_grads(const TensorRef* params, size_t count) {
  return guarded([&] {
    for (size_t i = 0; i < count; ++i) {
      params[i]->mutable_grad().reset();
    }
  });
}

mtx_failure mtx_autocast_enter(int32_t device, int32_t dtype, mtx_autocast* before) {
  return guarded([&] {
    auto type = device_type(device);
    before->device = device;
    before->enabled = at::autocast::is_autocast_enabled(type);
    before->dtype = static_cast<int32_t>(at::autocast::get_autocast_dtype(type));
    at::autocast::set_autocast_enabled(type, true);
    at::autocast::set_autocast_dtype(type, static_cast<at::ScalarType>(dtype));
    at::autocast::increment_nesting();
  });
}

mtx_failure mtx_autocast_exit(const mtx_autocast* before) {
  return guarded([&] {
    auto type = device_type(before->device);
    // The cache holds the weights in low precision; they are stale once the optimizer has stepped.
    if (at::autocast::decrement_nesting() == 0) {
      at::autocast::clear_cache();
    }
    at::autocast::set_autocast_enabled(type, before->enabled);
    at::autocast::set_autocast_dtype(type, static_cast<at::ScalarType>(before->dtype));
  });
}

mtx_failure mtx_set_deterministic(bool on) {
  return guarded([&] {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(on, /*warn_only=*/false);
    // A help for debugging that fills each new tensor; results do not depend on it.
    context.setDeterministicFillUninitializedMemory(false);
    context.setDeterministicCuDNN(on);
    context.setDeterministicMkldnn(on);
    // Its choice of algorithm depends on timing. The shapes of training are few, so it is made once for each.
    context.setBenchmarkCuDNN(!on);
  });
}

mtx_failure mtx_set_tf32(bool on) {
  return guarded([&] {
    auto& context = at::globalContext();
    context.setAllowTF32CuBLAS(on);
    // libtorch has this one on by default.
    context.setAllowTF32CuDNN(on);
  });
}

bool mtx_tf32(void) {
  try {
    return at::globalContext().allowTF32CuBLAS() && at::globalContext().allowTF32CuDNN();
  } catch (...) {
    return false;
  }
}

mtx_failure mtx_set_num_threads(int32_t count) {
  return guarded([&] { at::set_num_threads(count); });
}

mtx_failure mtx_set_num_interop_threads(int32_t count) {
  return guarded([&] { at::set_num_interop_threads(count); });
}

mtx_failure mtx_set_cuda_device(int32_t index) {
  return guarded([&] {
#ifdef USE_C10D_NCCL
    auto count = c10::cuda::device_count();
    if (index >= count) {
      throw mtx::Unavailable("libtorch sees " + std::to_string(count) + " CUDA devices here");
    }
    c10::cuda::set_device(static_cast<c10::DeviceIndex>(index));
#else
    (void)index;
    throw mtx::Unavailable("this program was built with the CPU build of libtorch");
#endif
  });
}

bool mtx_cuda_build(void) {
#ifdef USE_C10D_NCCL
  return true;
#else
  return false;
#endif
}

bool mtx_cuda_available(void) {
  try {
    return at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0;
  } catch (...) {
    return false;
  }
}

bool mtx_cuda_bf16(int32_t index) {
#ifdef USE_C10D_NCCL
  try {
    // Ampere and later.
    return at::cuda::getDeviceProperties(static_cast<c10::DeviceIndex>(index))->major >= 8;
  } catch (...) {
    return false;
  }
#else
  (void)index;
  return false;
#endif
}

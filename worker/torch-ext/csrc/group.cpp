// c10d's process groups over Gloo and NCCL behind the C surface.

#include "distributed.h"
#include "guard.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#ifdef USE_C10D_NCCL
#include <c10/cuda/CUDAFunctions.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#include <map>
#include <mutex>

using c10d::Backend;
using c10d::Work;
using mtx::guarded;
using mtx::list;
using WorkRef = c10::intrusive_ptr<Work>;
using Tensors = std::vector<at::Tensor>;

namespace {

// A backend numbers its collectives as they are launched, without a lock. The Reducer launches from the thread that runs
// backward and callers launch from theirs; this makes the launches exclusive. Waiting for a collective stays outside.
class LockedBackend final : public Backend {
 public:
  explicit LockedBackend(c10::intrusive_ptr<Backend> inner)
      : Backend(inner->getRank(), inner->getSize()), inner_(std::move(inner)) {}

  const std::string getBackendName() const override {
    return inner_->getBackendName();
  }
  void setTimeout(std::chrono::milliseconds timeout) override {
    std::lock_guard<std::mutex> lock(mutex_);
    inner_->setTimeout(timeout);
  }
  WorkRef broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    std::lock_guard<std::mutex> lock(mutex_);
    return inner_->broadcast(tensors, options);
  }
  WorkRef allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    std::lock_guard<std::mutex> lock(mutex_);
    return inner_->allreduce(tensors, options);
  }
  WorkRef allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override {
    std::lock_guard<std::mutex> lock(mutex_);
    return inner_->allreduce_coalesced(tensors, options);
  }
  WorkRef allgather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    std::lock_guard<std::mutex> lock(mutex_);
    return inner_->allgather(outputs, inputs, options);
  }
  WorkRef barrier(const c10d::BarrierOptions& options) override {
    std::lock_guard<std::mutex> lock(mutex_);
    return inner_->barrier(options);
  }

 private:
  c10::intrusive_ptr<Backend> inner_;
  std::mutex mutex_;
};

// ProcessGroupGloo has no abort of its own; its connections are protected members of it.
struct GlooConnections : c10d::ProcessGroupGloo {
  static void close(c10d::ProcessGroupGloo& group) {
    for (auto& context : group.*(&GlooConnections::contexts_)) {
      context->closeConnections();
    }
  }
};

mtx_group* make_group(
    const c10::intrusive_ptr<c10d::Store>& store,
    c10::intrusive_ptr<Backend> inner,
    c10::DeviceType device,
    c10d::ProcessGroup::BackendType type,
    std::function<void()> abort) {
  auto backend = c10::make_intrusive<LockedBackend>(std::move(inner));
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, backend->getRank(), backend->getSize());
  group->setBackend(device, type, backend);
  group->setDefaultBackend(type);
  return new mtx_group{std::move(group), backend, device, std::move(abort)};
}

void finish(const WorkRef& work) {
  // A null stands for a collective that had nothing to do; false for one that was aborted.
  if (work && !work->wait()) {
    throw std::runtime_error("the collective was aborted");
  }
}

// Backends work on memory as it lies, so they get contiguous tensors; `copy_back` brings the results home.
struct Contiguous {
  explicit Contiguous(Tensors original) : original(std::move(original)) {
    dense.reserve(this->original.size());
    for (auto& tensor : this->original) {
      dense.push_back(tensor.is_contiguous() ? tensor : tensor.contiguous());
    }
  }
  void copy_back() {
    for (size_t i = 0; i < original.size(); ++i) {
      if (!original[i].is_same(dense[i])) {
        original[i].copy_(dense[i]);
      }
    }
  }
  Tensors original;
  Tensors dense;
};

} // namespace

mtx_failure mtx_group_gloo(
    const mtx_store* store, const char* prefix, int32_t rank, int32_t size, const char* host, int64_t timeout, mtx_group** out) {
  return guarded([&] {
    auto scoped = c10::make_intrusive<c10d::PrefixStore>(prefix, store->store);
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout));
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(host));
    auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(scoped, rank, size, options);
    auto abort = [gloo] { GlooConnections::close(*gloo); };
    *out = make_group(scoped, gloo, c10::kCPU, c10d::ProcessGroup::GLOO, abort);
  });
}

mtx_failure mtx_group_nccl(
    const mtx_store* store, const char* prefix, int32_t rank, int32_t size, int64_t timeout, mtx_group** out) {
  return guarded([&] {
#ifdef USE_C10D_NCCL
    if (c10::cuda::device_count() == 0) {
      throw mtx::Unavailable("this machine has no CUDA device that libtorch can use");
    }
    auto scoped = c10::make_intrusive<c10d::PrefixStore>(prefix, store->store);
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(timeout);
    auto nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(scoped, rank, size, options);
    auto abort = [nccl] { nccl->abort(); };
    *out = make_group(scoped, nccl, c10::kCUDA, c10d::ProcessGroup::NCCL, abort);
#else
    (void)store, (void)prefix, (void)rank, (void)size, (void)timeout, (void)out;
    throw mtx::Unavailable("this program was built with the CPU build of libtorch");
#endif
  });
}

mtx_failure mtx_group_all_reduce(const mtx_group* group, const TensorRef* tensors, size_t count, bool mean) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    Contiguous all(list(tensors, count));
    // One collective for each type of element: few large messages rather than many small ones.
    std::map<at::ScalarType, Tensors> by_type;
    for (auto& tensor : all.dense) {
      TORCH_CHECK(!mean || tensor.is_floating_point(), "the mean needs tensors of floating point, not ", tensor.scalar_type());
      by_type[tensor.scalar_type()].push_back(tensor);
    }
    std::vector<WorkRef> works;
    for (auto& entry : by_type) {
      works.push_back(
          entry.second.size() == 1 ? group->backend->allreduce(entry.second, c10d::AllreduceOptions())
                                   : group->backend->allreduce_coalesced(entry.second, c10d::AllreduceCoalescedOptions()));
    }
    for (auto& work : works) {
      finish(work);
    }
    if (mean) {
      for (auto& tensor : all.dense) {
        tensor.div_(group->group->getSize());
      }
    }
    all.copy_back();
  });
}

mtx_failure mtx_group_broadcast(const mtx_group* group, const TensorRef* tensors, size_t count, int32_t root) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    Contiguous all(list(tensors, count));
    std::vector<WorkRef> works;
    for (auto& tensor : all.dense) {
      c10d::BroadcastOptions options;
      options.rootRank = root;
      Tensors one{tensor};
      works.push_back(group->backend->broadcast(one, options));
    }
    for (auto& work : works) {
      finish(work);
    }
    all.copy_back();
  });
}

mtx_failure mtx_group_all_gather(const mtx_group* group, TensorRef input, const TensorRef* outputs, size_t count) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    Contiguous all(list(outputs, count));
    std::vector<Tensors> results{all.dense};
    Tensors inputs{input->contiguous()};
    finish(group->backend->allgather(results, inputs, c10d::AllgatherOptions()));
    all.copy_back();
  });
}

mtx_failure mtx_group_barrier(const mtx_group* group) {
  return guarded([&] {
    c10d::BarrierOptions options;
#ifdef USE_C10D_NCCL
    if (group->device == c10::kCUDA) {
      options.device = at::Device(c10::kCUDA, c10::cuda::current_device());
    }
#endif
    finish(group->backend->barrier(options));
  });
}

mtx_failure mtx_group_abort(const mtx_group* group) {
  return guarded([&] { group->abort(); });
}

void mtx_group_free(mtx_group* group) {
  guarded([&] { delete group; });
}

// libtorch's profiler behind the C surface.

#include "guard.h"

#include <ATen/Context.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/profiler_kineto.h>

using mtx::guarded;
namespace profiler = torch::autograd::profiler;

struct mtx_span {
  at::RecordFunction record;
};

mtx_failure mtx_profile_begin(void) {
  return guarded([] {
    using torch::profiler::impl::ActivityType;
    TORCH_CHECK(!torch::profiler::impl::profilerEnabled(), "a profile is being recorded already");
    std::set<ActivityType> activities{ActivityType::CPU};
    if (at::hasCUDA()) {
      activities.insert(ActivityType::CUDA);
    }
    torch::profiler::impl::ProfilerConfig config(
        torch::profiler::impl::ProfilerState::KINETO, /*report_input_shapes=*/true, /*profile_memory=*/false);
    profiler::prepareProfiler(config, activities);
    profiler::enableProfiler(config, activities);
  });
}

mtx_failure mtx_profile_end(const char* path) {
  return guarded([&] {
    auto result = profiler::disableProfiler();
    if (path != nullptr) {
      result->save(path);
    }
  });
}

mtx_failure mtx_span_begin(const char* name, mtx_span** out) {
  return guarded([&] {
    // Nobody listens: nothing is made.
    auto callbacks = at::getStepCallbacksUnlessEmpty(at::RecordScope::USER_SCOPE);
    if (callbacks.has_value()) {
      auto span = new mtx_span{at::RecordFunction(std::move(*callbacks))};
      span->record.before(std::string(name));
      *out = span;
    }
  });
}

void mtx_span_end(mtx_span* span) {
  guarded([&] { delete span; });
}

// c10d::Reducer, the engine of DistributedDataParallel, behind the C surface.

#include "distributed.h"
#include "guard.h"

#include <algorithm>

using mtx::guarded;
using mtx::list;

mtx_failure mtx_reducer_new(
    const mtx_group* group,
    const TensorRef* params,
    size_t count,
    int64_t first_bucket_bytes,
    int64_t bucket_bytes,
    bool find_unused,
    bool bucket_view,
    mtx_reducer** out) {
  return guarded([&] {
    // Gradients arrive roughly from the last parameter to the first, and buckets are reduced in their order.
    auto reversed = list(params, count);
    std::reverse(reversed.begin(), reversed.end());
    std::unordered_map<size_t, std::string> names;
    for (size_t i = 0; i < count; ++i) {
      names.emplace(i, "parameter " + std::to_string(count - 1 - i));
      TORCH_CHECK(reversed[i].requires_grad(), names[i], " does not require a gradient; leave it out");
    }
    c10d::verify_params_across_processes(group->group, reversed, std::nullopt);
    const std::vector<bool> sparse(count, false);
    auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(
        reversed, {static_cast<size_t>(first_bucket_bytes), static_cast<size_t>(bucket_bytes)}, sparse));
    auto reducer = std::make_shared<c10d::Reducer>(
        reversed,
        buckets,
        group->group,
        sparse,
        bucket_bytes,
        find_unused,
        bucket_view,
        names,
        first_bucket_bytes,
        /*skip_all_reduce_unused_params=*/false,
        /*use_python_reducer=*/false,
        /*bucket_bytes_cap_list=*/std::vector<int64_t>());
    auto logger = std::make_shared<c10d::Logger>(reducer);
    reducer->set_logger(logger);
    if (!find_unused) {
      // Left alone, the Reducer lays its buckets out anew after the first backward, in the order in which gradients
      // arrived: a resumed process would then sum in another order than one that ran through. Telling it here that they
      // arrived in the order of the list spends that one chance and keeps the layout a function of the list.
      reducer->push_rebuilt_params_for_all_indices();
      reducer->rebuild_buckets();
    }
    *out = new mtx_reducer{std::move(reducer), std::move(logger)};
  });
}

mtx_failure mtx_reducer_prepare_for_forward(const mtx_reducer* reducer) {
  return guarded([&] {
    reducer->reducer->prepare_for_forward();
    try {
      // Rebuilds nothing, see above; but it is here that c10d notices that the reduction before did not finish.
      reducer->reducer->rebuild_buckets();
    } catch (const c10::Error& error) {
      throw std::runtime_error(
          "(parameter indices in this message count from the last parameter) " + std::string(error.what_without_backtrace()));
    }
  });
}

mtx_failure mtx_reducer_prepare_for_backward(const mtx_reducer* reducer, const TensorRef* outputs, size_t count) {
  return guarded([&] { reducer->reducer->prepare_for_backward(list(outputs, count)); });
}

mtx_failure mtx_reducer_buckets(const mtx_reducer* reducer, size_t* bytes, size_t capacity, size_t* count) {
  return guarded([&] {
    auto buckets = reducer->reducer->get_grad_buckets(/*return_zero_tensors=*/false);
    *count = buckets.size();
    for (size_t i = 0; i < std::min(capacity, buckets.size()); ++i) {
      bytes[i] = buckets[i].getBufferRef().nbytes();
    }
  });
}

mtx_failure mtx_reducer_free(mtx_reducer* reducer) {
  return guarded([&] { delete reducer; });
}

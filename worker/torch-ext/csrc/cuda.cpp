// What training on CUDA needs beyond libtorch's operations: a stream of its own, graphs of whole steps, and what its allocator
// holds. The CPU build answers that it has none of these.

#include "guard.h"

#ifdef USE_C10D_NCCL
#include <ATen/Context.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>
#include <mutex>
#endif

using mtx::guarded;

#ifdef USE_C10D_NCCL

struct mtx_stream {
  c10::cuda::CUDAStream before;
  c10::cuda::CUDAStream side;
};

struct mtx_graph {
  explicit mtx_graph(c10::MempoolId_t pool) : stream(c10::cuda::getCurrentCUDAStream()), pool(pool) {}

  at::cuda::CUDAGraph graph;
  c10::cuda::CUDAStream stream;
  c10::MempoolId_t pool;
  // Between the beginning and the end of its capture.
  bool capturing = false;
};

namespace {

// What `waits` is given from here on comes after what `first` was given so far.
void order(const c10::cuda::CUDAStream& first, const c10::cuda::CUDAStream& waits) {
  c10::cuda::CUDAEvent event;
  event.record(first);
  event.block(waits);
}

void attempt(void (*what)(mtx_graph&), mtx_graph& graph) noexcept {
  try {
    what(graph);
  } catch (...) {
    // It was not in the state that this puts right.
  }
}

// A capture that failed leaves CUDA's stream, the allocator and the generator in the middle of it; libtorch puts them right at the
// end of a capture that succeeds and nowhere else. Each of these may be done already.
void repair(mtx_graph& graph) noexcept {
  attempt(
      [](mtx_graph& graph) {
        cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
        if (cudaStreamIsCapturing(graph.stream, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone) {
          cudaGraph_t rest = nullptr;
          if (cudaStreamEndCapture(graph.stream, &rest) == cudaSuccess && rest != nullptr) {
            cudaGraphDestroy(rest);
          }
        }
        // The error of the capture is told by whoever ran into it; the next call is not to find it again.
        (void)cudaGetLastError();
      },
      graph);
  attempt(
      [](mtx_graph& graph) {
        auto* allocator = c10::cuda::CUDACachingAllocator::get();
        // Throws where the capture had not come so far as to use the pool, which then is not its own to release.
        allocator->endAllocateToPool(graph.stream.device_index(), graph.pool);
        allocator->releasePool(graph.stream.device_index(), graph.pool);
      },
      graph);
  attempt(
      [](mtx_graph& graph) {
        auto generator = at::cuda::detail::getDefaultCUDAGenerator(graph.stream.device_index());
        std::lock_guard<std::mutex> lock(generator.mutex());
        generator.graphsafe_set_state(at::cuda::detail::createCUDAGenerator(graph.stream.device_index()));
      },
      graph);
}

} // namespace

mtx_failure mtx_stream_enter(int32_t device, mtx_stream** out) {
  return guarded([&] {
    const auto index = static_cast<c10::DeviceIndex>(device);
    auto before = c10::cuda::getCurrentCUDAStream(index);
    auto side = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, index);
    order(before, side);
    auto made = std::make_unique<mtx_stream>(mtx_stream{before, side});
    c10::cuda::setCurrentCUDAStream(side);
    *out = made.release();
  });
}

void mtx_stream_leave(mtx_stream* stream) {
  std::unique_ptr<mtx_stream> owned(stream);
  auto left = guarded([&] {
    c10::cuda::setCurrentCUDAStream(owned->before);
    order(owned->side, owned->before);
  });
  // The device is gone; whoever uses it next is told.
  mtx_free(left.message);
}

mtx_failure mtx_graph_pool(uint64_t* pool) {
  return guarded([&] {
    auto handle = at::cuda::graph_pool_handle();
    pool[0] = handle.first;
    pool[1] = handle.second;
  });
}

mtx_failure mtx_graph_begin(const uint64_t* pool, mtx_graph** out) {
  return guarded([&] {
    auto graph = std::make_unique<mtx_graph>(c10::MempoolId_t{pool[0], pool[1]});
    // As torch.cuda.graph: what was queued is over, and memory that nobody uses is there for the graph, which can't have it returned
    // later.
    c10::cuda::device_synchronize();
    c10::cuda::CUDACachingAllocator::emptyCache();
    try {
      graph->graph.capture_begin(graph->pool);
    } catch (...) {
      repair(*graph);
      throw;
    }
    graph->capturing = true;
    *out = graph.release();
  });
}

mtx_failure mtx_graph_end(mtx_graph* graph) {
  return guarded([&] {
    graph->capturing = false;
    try {
      graph->graph.capture_end();
    } catch (...) {
      repair(*graph);
      throw;
    }
  });
}

mtx_failure mtx_graph_replay(mtx_graph* graph) {
  return guarded([&] {
    TORCH_CHECK(!graph->capturing, "the graph is still being captured");
    graph->graph.replay();
  });
}

void mtx_graph_free(mtx_graph* graph) {
  std::unique_ptr<mtx_graph> owned(graph);
  if (owned->capturing) {
    repair(*owned);
  }
  // Its kernels may still run; the memory that they use goes with it.
  mtx_free(guarded([&] { owned->stream.synchronize(); }).message);
}

mtx_failure mtx_cuda_memory(int32_t device, mtx_memory* out) {
  return guarded([&] {
    const auto index = static_cast<c10::DeviceIndex>(device);
    auto* allocator = c10::cuda::CUDACachingAllocator::get();
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    const auto [free, total] = allocator->getMemoryInfo(index);
    out->free = free;
    out->total = total;
    const auto stats = allocator->getDeviceStats(index);
    out->peak_reserved = static_cast<uint64_t>(stats.reserved_bytes[all].peak);
    out->peak_allocated = static_cast<uint64_t>(stats.allocated_bytes[all].peak);
  });
}

#else

namespace {

mtx_failure no_cuda() {
  return guarded([] { throw mtx::Unavailable("this program was built with the CPU build of libtorch"); });
}

} // namespace

mtx_failure mtx_stream_enter(int32_t, mtx_stream**) {
  return no_cuda();
}

void mtx_stream_leave(mtx_stream*) {}

mtx_failure mtx_graph_pool(uint64_t*) {
  return no_cuda();
}

mtx_failure mtx_graph_begin(const uint64_t*, mtx_graph**) {
  return no_cuda();
}

mtx_failure mtx_graph_end(mtx_graph*) {
  return no_cuda();
}

mtx_failure mtx_graph_replay(mtx_graph*) {
  return no_cuda();
}

void mtx_graph_free(mtx_graph*) {}

mtx_failure mtx_cuda_memory(int32_t, mtx_memory*) {
  return no_cuda();
}

#endif

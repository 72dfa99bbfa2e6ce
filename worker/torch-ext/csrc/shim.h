// The C surface of the shim: what src/ffi.rs declares. Each function catches every C++ exception and returns it as a
// failure; none lets one out. Pointers to tensors are borrowed for the call. Durations are milliseconds.
#pragma once

#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

using TensorRef = at::Tensor*;

extern "C" {

// What src/error.rs tells apart.
enum mtx_kind : int32_t {
  MTX_OK = 0,
  MTX_TORCH = 1,       // any error of libtorch
  MTX_TIMEOUT = 2,     // a peer or the store did not answer in time
  MTX_CONNECTION = 3,  // a peer or the store is gone, or cannot be reached
  MTX_UNAVAILABLE = 4, // this libtorch, or this machine, lacks it
};

// `message` is owned by the caller, who frees it with mtx_free; null where `kind` is MTX_OK.
struct mtx_failure {
  int32_t kind;
  char* message;
};

struct mtx_store;
struct mtx_group;
struct mtx_reducer;
struct mtx_script;
struct mtx_span;
struct mtx_stream;
struct mtx_graph;

// What autocast was before it was entered.
struct mtx_autocast {
  int32_t device;
  int32_t dtype;
  bool enabled;
};

// Of a CUDA device, in bytes. `free` and `total` are the device's, the others those of this process's tensors.
struct mtx_memory {
  uint64_t free;
  uint64_t total;
  uint64_t peak_reserved;
  uint64_t peak_allocated;
};

void mtx_free(void* memory);

// `listener` is a bound socket that listens on `port`; it is taken over.
mtx_failure mtx_store_host(int listener, const char* host, uint16_t port, int64_t timeout, mtx_store** out);
mtx_failure mtx_store_connect(const char* host, uint16_t port, int64_t timeout, mtx_store** out);
// Another connection to the same store, so that a wait on one does not hold up the other.
mtx_failure mtx_store_clone(const mtx_store* store, mtx_store** out);
mtx_failure mtx_store_set(const mtx_store* store, const char* key, const uint8_t* value, size_t length);
// `*value` is owned by the caller, who frees it with mtx_free.
mtx_failure mtx_store_get(const mtx_store* store, const char* key, uint8_t** value, size_t* length);
mtx_failure mtx_store_wait(const mtx_store* store, const char* const* keys, size_t count, int64_t timeout);
mtx_failure mtx_store_check(const mtx_store* store, const char* key, bool* present);
mtx_failure mtx_store_delete(const mtx_store* store, const char* key);
void mtx_store_free(mtx_store* store);

mtx_failure mtx_group_gloo(
    const mtx_store* store, const char* prefix, int32_t rank, int32_t size, const char* host, int64_t timeout, mtx_group** out);
mtx_failure mtx_group_nccl(
    const mtx_store* store, const char* prefix, int32_t rank, int32_t size, int64_t timeout, mtx_group** out);
mtx_failure mtx_group_all_reduce(const mtx_group* group, const TensorRef* tensors, size_t count, bool mean);
mtx_failure mtx_group_broadcast(const mtx_group* group, const TensorRef* tensors, size_t count, int32_t root);
// `outputs` holds one tensor a rank.
mtx_failure mtx_group_all_gather(const mtx_group* group, TensorRef input, const TensorRef* outputs, size_t count);
mtx_failure mtx_group_barrier(const mtx_group* group);
mtx_failure mtx_group_abort(const mtx_group* group);
void mtx_group_free(mtx_group* group);

mtx_failure mtx_reducer_new(
    const mtx_group* group,
    const TensorRef* params,
    size_t count,
    int64_t first_bucket_bytes,
    int64_t bucket_bytes,
    bool find_unused,
    bool bucket_view,
    mtx_reducer** out);
mtx_failure mtx_reducer_prepare_for_forward(const mtx_reducer* reducer);
mtx_failure mtx_reducer_prepare_for_backward(const mtx_reducer* reducer, const TensorRef* outputs, size_t count);
// Writes the bytes of up to `capacity` buckets, in the order of their reduction, and their number.
mtx_failure mtx_reducer_buckets(const mtx_reducer* reducer, size_t* bytes, size_t capacity, size_t* count);
mtx_failure mtx_reducer_free(mtx_reducer* reducer);

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
    double eps);
mtx_failure mtx_clear_grads(const TensorRef* params, size_t count);

// `device`: 0 CPU, 1 CUDA. `dtype`: c10::ScalarType.
mtx_failure mtx_autocast_enter(int32_t device, int32_t dtype, mtx_autocast* before);
mtx_failure mtx_autocast_exit(const mtx_autocast* before);

mtx_failure mtx_set_deterministic(bool on);
// Products of float32 matrices and convolutions on CUDA with TensorFloat-32.
mtx_failure mtx_set_tf32(bool on);
bool mtx_tf32(void);
mtx_failure mtx_set_num_threads(int32_t count);
mtx_failure mtx_set_num_interop_threads(int32_t count);
mtx_failure mtx_set_cuda_device(int32_t index);
// Large blocks of CPU tensors are kept for the next tensor instead of being returned to the system.
mtx_failure mtx_keep_memory(void);

bool mtx_cuda_build(void);
bool mtx_cuda_available(void);
// Whether the device has units for bfloat16.
bool mtx_cuda_bf16(int32_t index);

// cuda.cpp. From here on this thread's CUDA work goes to a stream of its own, after what it queued before, until it is left.
mtx_failure mtx_stream_enter(int32_t device, mtx_stream** out);
void mtx_stream_leave(mtx_stream* stream);
// `pool`: two numbers that name memory which several graphs share.
mtx_failure mtx_graph_pool(uint64_t* pool);
// What the thread does on its stream until mtx_graph_end is recorded, not done.
mtx_failure mtx_graph_begin(const uint64_t* pool, mtx_graph** out);
mtx_failure mtx_graph_end(mtx_graph* graph);
mtx_failure mtx_graph_replay(mtx_graph* graph);
// Also ends a capture that is not over.
void mtx_graph_free(mtx_graph* graph);
mtx_failure mtx_cuda_memory(int32_t device, mtx_memory* out);

mtx_failure mtx_profile_begin(void);
// Writes what was recorded; nothing where `path` is null.
mtx_failure mtx_profile_end(const char* path);
// `*out` stays as it is where no profile is recorded.
mtx_failure mtx_span_begin(const char* name, mtx_span** out);
void mtx_span_end(mtx_span* span);

// One-dimensional, to be read only; `dtype` is an at::ScalarType. `*out` is owned by the caller.
mtx_failure mtx_map_file(const char* path, int32_t dtype, int64_t elements, TensorRef* out);

// fused_norm.cpp and fused_tokens.cpp; `*out` is owned by the caller. `x` is [N, C, H, W]; the others hold a float for each channel.
mtx_failure mtx_norm_relu(
    TensorRef x, TensorRef weight, TensorRef bias, TensorRef mean, TensorRef var, double momentum, double eps, bool pool, TensorRef* out);
// `images` is [N, 1, H, W], `kernel` [C, 1, 3, 3].
mtx_failure mtx_first_block(
    TensorRef images, TensorRef kernel, TensorRef weight, TensorRef bias, TensorRef mean, TensorRef var, double momentum, double eps, TensorRef* out);
// [N, heads, tokens, width] each.
mtx_failure mtx_attention(TensorRef query, TensorRef key, TensorRef value, double scale, TensorRef* out);
// `base` may be null.
mtx_failure mtx_dropout(TensorRef base, TensorRef x, double p, TensorRef* out);

// From here on this thread records what is done with `input`, until the end or until it is abandoned. `tensors` are
// the network's weights: parameters, or running statistics where not `trained`. `names` have dots between modules.
mtx_failure mtx_script_begin(
    const char* const* names,
    const TensorRef* tensors,
    const bool* trained,
    size_t count,
    TensorRef input,
    mtx_script** out);
// Frees `script`. Writes the module to `path`, with `about` as its extra file mtinet.json.
mtx_failure mtx_script_end(
    mtx_script* script,
    const char* const* names,
    const TensorRef* outputs,
    size_t count,
    const char* path,
    const char* about);
void mtx_script_abandon(mtx_script* script);

} // extern "C"

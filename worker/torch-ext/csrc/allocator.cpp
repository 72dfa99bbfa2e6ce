// Memory of CPU tensors that is kept instead of returned.
//
// A training step asks for the same large blocks again and again. malloc maps and unmaps each of them, and the kernel clears
// every page each time: a quarter of a step. Here large blocks come from one reserved range of addresses, in huge pages where
// the system has them, best fit first; neighbours that are free are joined. Small ones stay with malloc.

#include "guard.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <sys/mman.h>
#include <unistd.h>

#include <malloc.h>

#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

using mtx::guarded;

namespace {

constexpr size_t kAlignment = 64;
// From here on a block is large.
constexpr size_t kLarge = 256 << 10;
// Memory is made usable in such pieces: whole huge pages.
constexpr size_t kGrowth = 32 << 20;
// Between blocks, so that arrays of equal powers of two do not compete for the same lines of the caches.
constexpr size_t kStagger = 17 * kAlignment;

class Arena {
 public:
  // Reserves addresses, of which none is backed by memory yet. Null where the system refuses.
  static Arena* make() {
    auto pages = sysconf(_SC_PHYS_PAGES);
    size_t capacity = pages > 0 ? static_cast<size_t>(pages) * static_cast<size_t>(sysconf(_SC_PAGESIZE)) : size_t{64} << 30;
    capacity = (2 * capacity + kGrowth) / kGrowth * kGrowth;
    auto* start = mmap(nullptr, capacity + kGrowth, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) {
      return nullptr;
    }
    auto aligned = (reinterpret_cast<uintptr_t>(start) + kGrowth - 1) / kGrowth * kGrowth;
    return new Arena(aligned, capacity);
  }

  bool owns(const void* block) const {
    auto at = reinterpret_cast<uintptr_t>(block);
    return at >= begin_ && at < limit_;
  }

  // Null where there is no memory.
  void* take(size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment + kStagger;
    std::lock_guard<std::mutex> lock(mutex_);
    auto fit = by_size_.lower_bound({bytes, 0});
    if (fit == by_size_.end()) {
      if (!grow(bytes)) {
        return nullptr;
      }
      fit = by_size_.lower_bound({bytes, 0});
    }
    auto [size, at] = *fit;
    remove(at, size);
    // A remainder too small to be of use stays with the block.
    if (size - bytes >= kLarge) {
      insert(at + bytes, size - bytes);
      size = bytes;
    }
    taken_.emplace(at, size);
    return reinterpret_cast<void*>(at);
  }

  void give_back(void* block) {
    auto at = reinterpret_cast<uintptr_t>(block);
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = taken_.find(at);
    auto size = found->second;
    taken_.erase(found);
    auto after = by_address_.find(at + size);
    if (after != by_address_.end()) {
      auto more = after->second;
      remove(at + size, more);
      size += more;
    }
    auto before = by_address_.lower_bound(at);
    if (before != by_address_.begin()) {
      --before;
      if (before->first + before->second == at) {
        auto [start, more] = *before;
        remove(start, more);
        at = start;
        size += more;
      }
    }
    insert(at, size);
  }

 private:
  Arena(uintptr_t begin, size_t capacity) : begin_(begin), end_(begin), limit_(begin + capacity) {}

  // Makes more of the range usable, so that `bytes` fit at its end.
  bool grow(size_t bytes) {
    size_t tail = 0;
    if (!by_address_.empty()) {
      auto last = std::prev(by_address_.end());
      tail = last->first + last->second == end_ ? last->second : 0;
    }
    auto more = (bytes - tail + kGrowth - 1) / kGrowth * kGrowth;
    if (more > limit_ - end_) {
      return false;
    }
    auto* start = reinterpret_cast<void*>(end_);
    if (mprotect(start, more, PROT_READ | PROT_WRITE) != 0) {
      return false;
    }
    // Without huge pages it is slower, not wrong.
    madvise(start, more, MADV_HUGEPAGE);
    if (tail > 0) {
      remove(end_ - tail, tail);
    }
    insert(end_ - tail, more + tail);
    end_ += more;
    return true;
  }

  void insert(uintptr_t at, size_t size) {
    by_address_.emplace(at, size);
    by_size_.emplace(size, at);
  }

  void remove(uintptr_t at, size_t size) {
    by_address_.erase(at);
    by_size_.erase({size, at});
  }

  const uintptr_t begin_;
  uintptr_t end_;
  const uintptr_t limit_;
  std::mutex mutex_;
  std::map<uintptr_t, size_t> by_address_;
  std::set<std::pair<size_t, uintptr_t>> by_size_;
  std::unordered_map<uintptr_t, size_t> taken_;
};

Arena* arena = nullptr;

void release(void* block) {
  if (arena->owns(block)) {
    arena->give_back(block);
  } else {
    std::free(block);
  }
}

class Keeping final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto* block = bytes >= kLarge ? arena->take(bytes) : nullptr;
    if (block == nullptr && bytes > 0) {
      auto failed = posix_memalign(&block, kAlignment, bytes);
      TORCH_CHECK(failed == 0, "not enough memory: a tensor needs ", bytes, " bytes");
    }
    return {block, block, &release, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return &release;
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

} // namespace

mtx_failure mtx_keep_memory(void) {
  return guarded([] {
    static std::once_flag once;
    std::call_once(once, [] {
      // The libraries' own buffers, and what is below a large block here.
      mallopt(M_MMAP_THRESHOLD, 1 << 30);
      mallopt(M_TRIM_THRESHOLD, 1 << 30);
      arena = Arena::make();
      if (arena != nullptr) {
        c10::SetCPUAllocator(new Keeping(), /*priority=*/1);
      }
    });
  });
}

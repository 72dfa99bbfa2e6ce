// Files as tensors that are never read as a whole.

#include "guard.h"

#include <ATen/ATen.h>

#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

using mtx::guarded;

mtx_failure mtx_map_file(const char* path, int32_t dtype, int64_t elements, TensorRef* out) {
  return guarded([&] {
    const auto type = static_cast<at::ScalarType>(dtype);
    const size_t bytes = static_cast<size_t>(elements) * at::elementSize(type);
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    TORCH_CHECK(file >= 0, path, " cannot be opened: ", strerror(errno));
    struct stat status;
    void* memory = MAP_FAILED;
    int problem = 0;
    if (fstat(file, &status) != 0) {
      problem = errno;
    } else if (static_cast<size_t>(status.st_size) >= bytes && bytes > 0) {
      // Shared and only to be read: a private mapping that may be written counts against the machine's memory as a whole, and
      // is refused where the file is larger.
      memory = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0);
      problem = errno;
    }
    close(file);
    TORCH_CHECK(problem == 0 || memory != MAP_FAILED, path, " cannot be mapped: ", strerror(problem));
    TORCH_CHECK(memory != MAP_FAILED, path, " has less than the ", bytes, " bytes expected of it");
    auto unmap = [bytes](void* data) { munmap(data, bytes); };
    *out = new at::Tensor(at::from_blob(memory, {elements}, unmap, at::TensorOptions().dtype(type)));
  });
}

// c10d::TCPStore behind the C surface.

#include "distributed.h"
#include "guard.h"

using mtx::guarded;

namespace {

mtx_store* open(const char* host, const c10d::TCPStoreOptions& options) {
  return new mtx_store{c10::make_intrusive<c10d::TCPStore>(std::string(host), options)};
}

} // namespace

void mtx_free(void* memory) {
  std::free(memory);
}

mtx_failure mtx_store_host(int listener, const char* host, uint16_t port, int64_t timeout, mtx_store** out) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = true;
    // The port has to be known to the peers before they can come: nobody is waited for here.
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout);
    // c10d itself would listen on all interfaces.
    options.masterListenFd = listener;
    *out = open(host, options);
  });
}

mtx_failure mtx_store_connect(const char* host, uint16_t port, int64_t timeout, mtx_store** out) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout);
    *out = open(host, options);
  });
}

mtx_failure mtx_store_clone(const mtx_store* store, mtx_store** out) {
  return guarded([&] {
    auto clone = store->store->clone();
    clone->setTimeout(store->store->getTimeout());
    *out = new mtx_store{std::move(clone)};
  });
}

mtx_failure mtx_store_set(const mtx_store* store, const char* key, const uint8_t* value, size_t length) {
  return guarded([&] { store->store->set(key, std::vector<uint8_t>(value, value + length)); });
}

mtx_failure mtx_store_get(const mtx_store* store, const char* key, uint8_t** value, size_t* length) {
  return guarded([&] {
    auto found = store->store->get(key);
    auto* copy = static_cast<uint8_t*>(std::malloc(found.size() + 1));
    TORCH_CHECK(copy != nullptr, "no memory for the value of ", key);
    std::memcpy(copy, found.data(), found.size());
    *value = copy;
    *length = found.size();
  });
}

mtx_failure mtx_store_wait(const mtx_store* store, const char* const* keys, size_t count, int64_t timeout) {
  return guarded([&] {
    store->store->wait(std::vector<std::string>(keys, keys + count), std::chrono::milliseconds(timeout));
  });
}

mtx_failure mtx_store_check(const mtx_store* store, const char* key, bool* present) {
  return guarded([&] { *present = store->store->check({key}); });
}

mtx_failure mtx_store_delete(const mtx_store* store, const char* key) {
  return guarded([&] { store->store->deleteKey(key); });
}

void mtx_store_free(mtx_store* store) {
  guarded([&] { delete store; });
}

// Turns C++ exceptions into values of mtx_failure.
#pragma once

#include "shim.h"

#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/exception.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

namespace mtx {

// Something that this libtorch or this machine lacks.
struct Unavailable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline mtx_failure failure(int32_t kind, const char* text) noexcept {
  char* copy = strdup(text);
  // Without memory for a message there is still a failure to report.
  return {kind, copy};
}

// gloo's exceptions and some of the store's carry their kind in words alone.
inline int32_t kind_of(const std::string& text, int32_t otherwise) {
  for (const char* sign : {"imed out", "imeout"}) {
    if (text.find(sign) != std::string::npos) {
      return MTX_TIMEOUT;
    }
  }
  for (const char* sign : {"onnection closed", "onnection reset", "onnection refused", "roken pipe", "gloo/transport", "failed to connect"}) {
    if (text.find(sign) != std::string::npos) {
      return MTX_CONNECTION;
    }
  }
  return otherwise;
}

template <class Body>
mtx_failure guarded(Body&& body) noexcept {
  try {
    try {
      body();
      return {MTX_OK, nullptr};
    } catch (const Unavailable& error) {
      return failure(MTX_UNAVAILABLE, error.what());
    } catch (const c10d::TimeoutError& error) {
      return failure(MTX_TIMEOUT, error.what_without_backtrace());
    } catch (const c10::DistNetworkError& error) {
      return failure(kind_of(error.what_without_backtrace(), MTX_CONNECTION), error.what_without_backtrace());
    } catch (const c10::DistStoreError& error) {
      return failure(kind_of(error.what_without_backtrace(), MTX_CONNECTION), error.what_without_backtrace());
    } catch (const c10::Error& error) {
      return failure(kind_of(error.what_without_backtrace(), MTX_TORCH), error.what_without_backtrace());
    } catch (const std::exception& error) {
      return failure(kind_of(error.what(), MTX_TORCH), error.what());
    }
  } catch (...) {
    return failure(MTX_TORCH, "an exception that is not a std::exception");
  }
}

} // namespace mtx

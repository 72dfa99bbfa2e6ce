// Stands in for gloo's headers, which the published libtorch does not carry although it contains gloo itself.
// ProcessGroupGloo.hpp needs little of them: it holds pointers, and calls the members that are declared here, whose
// definitions libtorch_cpu.so exports. None of these types is ever made or copied on this side.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
  // Ends every connection to the peers; what waits for them fails.
  void closeConnections();
};

namespace transport {
class Device;
class UnboundBuffer;
} // namespace transport

} // namespace gloo

// Records what a network does with one input as TorchScript, and writes it as a file that torch.jit.load reads.
//
// tch's own tracing keeps weights as anonymous constants and cannot return several tensors. Here the weights are the
// module's parameters under their names, and the answers a dictionary.

#include "guard.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/fixup_trace_scope_blocks.h>
#include <torch/csrc/jit/passes/normalize_ops.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

using mtx::guarded;
using torch::jit::Module;
using torch::jit::Value;
namespace tracer = torch::jit::tracer;

struct mtx_script {
  Module module;
  std::shared_ptr<tracer::TracingState> state;
};

namespace {

Module fresh(const char* name, std::shared_ptr<torch::jit::CompilationUnit> unit) {
  Module module(c10::QualifiedName(name), std::move(unit), /*shouldMangle=*/true);
  // Python's modules have it, and `eval()` sets it.
  module.register_attribute("training", c10::BoolType::get(), false);
  return module;
}

// The module that holds "last" of a name "a.b.last", made on the way where it is not there yet.
Module& holder(std::map<std::string, Module>& modules, const std::string& path) {
  auto found = modules.find(path);
  if (found != modules.end()) {
    return found->second;
  }
  auto dot = path.rfind('.');
  auto above = dot == std::string::npos ? std::string() : path.substr(0, dot);
  auto& parent = holder(modules, above);
  auto child = fresh("__torch__.mtinet.Block", parent._ivalue()->compilation_unit());
  parent.register_module(dot == std::string::npos ? path : path.substr(dot + 1), child);
  return modules.emplace(path, std::move(child)).first->second;
}

// From now on the tracer knows these tensors as attributes of the module.
void know(tracer::TracingState& state, Value* self, const Module& module) {
  const auto type = module.type();
  for (size_t slot = 0; slot < type->numAttributes(); ++slot) {
    const auto& name = type->getAttributeName(slot);
    const auto& held = module._ivalue()->getSlot(slot);
    if (held.isTensor()) {
      state.setValue(held, state.graph->insertGetAttr(self, name));
    } else if (held.isModule()) {
      know(state, state.graph->insertGetAttr(self, name), held.toModule());
    }
  }
}

// Nothing is recorded any more when this goes, whatever was thrown.
struct EndOfTracing {
  ~EndOfTracing() {
    tracer::setTracingState(nullptr);
  }
};

} // namespace

mtx_failure mtx_script_begin(
    const char* const* names,
    const TensorRef* tensors,
    const bool* trained,
    size_t count,
    TensorRef input,
    mtx_script** out) {
  return guarded([&] {
    TORCH_CHECK(!tracer::isTracing(), "this thread records another network already");
    std::map<std::string, Module> modules;
    auto unit = std::make_shared<torch::jit::CompilationUnit>();
    auto& root = modules.emplace("", fresh("__torch__.mtinet.Network", unit)).first->second;
    for (size_t i = 0; i < count; ++i) {
      std::string name = names[i];
      auto dot = name.rfind('.');
      auto& module = dot == std::string::npos ? root : holder(modules, name.substr(0, dot));
      auto last = dot == std::string::npos ? name : name.substr(dot + 1);
      module.register_parameter(last, *tensors[i], /*is_buffer=*/!trained[i]);
    }
    auto script = std::make_unique<mtx_script>(mtx_script{root, std::make_shared<tracer::TracingState>()});
    auto& state = *script->state;
    auto* self = state.graph->insertInput(0, "self")->setType(root._ivalue()->type());
    know(state, self, root);
    auto* x = state.graph->addInput("x")->setType(c10::TensorType::get());
    state.setValue(*input, x);
    tracer::setTracingState(script->state);
    *out = script.release();
  });
}

mtx_failure mtx_script_end(
    mtx_script* script,
    const char* const* names,
    const TensorRef* outputs,
    size_t count,
    const char* path,
    const char* about) {
  std::unique_ptr<mtx_script> owned(script);
  return guarded([&] {
    auto state = owned->state;
    auto& graph = *state->graph;
    std::vector<Value*> keys;
    std::vector<Value*> values;
    {
      EndOfTracing end;
      for (size_t i = 0; i < count; ++i) {
        keys.push_back(graph.insertConstant(std::string(names[i])));
        values.push_back(state->getOutput(*outputs[i], i));
      }
    }
    auto* answers = graph.createDict(c10::StringType::get(), c10::TensorType::get(), keys, values);
    graph.registerOutput(graph.insertNode(answers)->output());
    torch::jit::FixupTraceScopeBlocks(state->graph, &owned->module);
    torch::jit::NormalizeOps(state->graph);
    torch::jit::EliminateDeadCode(state->graph);
    auto type = owned->module.type();
    auto name = c10::QualifiedName(*type->name(), "forward");
    auto* forward = owned->module._ivalue()->compilation_unit()->create_function(name, state->graph);
    type->addMethod(forward);
    owned->module.save(std::string(path), {{"mtinet.json", about}});
  });
}

void mtx_script_abandon(mtx_script* script) {
  std::unique_ptr<mtx_script> owned(script);
  tracer::setTracingState(nullptr);
}

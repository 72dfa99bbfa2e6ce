// Attention and dropout as one operation each.

#include "fused.h"

#include <ATen/CPUGeneratorImpl.h>

using namespace mtx;

namespace {

// softmax(q k^T scale) v for [N, heads, tokens, width], with products of whole matrices and the probabilities kept for
// backward. libtorch's own attention computes them again there, in small pieces that bfloat16 products are slow for.
struct Attention : torch::autograd::Function<Attention> {
  static Tensor forward(AutogradContext* context, const Tensor& query, const Tensor& key, const Tensor& value, double scale) {
    auto fold = [](const Tensor& t) { return t.flatten(0, 1).contiguous(); };
    auto q = fold(query), k = fold(key), v = fold(value);
    auto probs = at::bmm(q, k.transpose(1, 2));
    auto width = probs.size(2);
    in_parallel(probs.numel() / width, width, [&](int64_t begin, int64_t end) {
      kernels().softmax(probs.data_ptr(), half(probs), static_cast<float>(scale), width, begin, end);
    });
    auto answer = at::bmm(probs, v);
    context->save_for_backward({q, k, v, probs, answer});
    context->saved_data["scale"] = scale;
    return answer.unflatten(0, {query.size(0), query.size(1)});
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    auto saved = context->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2], &probs = saved[3], &answer = saved[4];
    auto sizes = grads[0].sizes().vec();
    auto grad = grads[0].to(q.scalar_type()).flatten(0, 1).contiguous();
    auto correction = (grad.to(at::kFloat) * answer.to(at::kFloat)).sum(-1).contiguous();
    auto d_scores = at::bmm(grad, v.transpose(1, 2));
    auto width = probs.size(2);
    in_parallel(probs.numel() / width, width, [&](int64_t begin, int64_t end) {
      kernels().softmax_backward(
          probs.const_data_ptr(), d_scores.data_ptr(), half(probs), floats(correction), static_cast<float>(context->saved_data["scale"].toDouble()), width, begin, end);
    });
    auto unfold = [&](const Tensor& t) { return t.view(sizes); };
    return {unfold(at::bmm(d_scores, k)), unfold(at::bmm(d_scores.transpose(1, 2), q)), unfold(at::bmm(probs.transpose(1, 2), grad)), {}};
  }
};

// The same for tokens of 4 elements a head, in single precision and without any matrix of probabilities: products are
// too narrow there for libtorch's, whose attention takes a third of a step.
struct NarrowAttention : torch::autograd::Function<NarrowAttention> {
  static Tensor forward(AutogradContext* context, const Tensor& query, const Tensor& key, const Tensor& value, double scale) {
    auto fold = [](const Tensor& t) { return t.flatten(0, 1).to(at::kFloat).contiguous(); };
    auto q = fold(query), k = fold(key), v = fold(value);
    auto heads = q.size(0), tokens = q.size(1);
    auto out = at::empty_like(q), state = at::empty({heads, tokens, 2}, at::kFloat);
    at::parallel_for(0, heads, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> room(16 * tokens);
      kernels().narrow_attention(
          floats(q), floats(k), floats(v), out.data_ptr<float>(), state.data_ptr<float>(), room.data(), static_cast<float>(scale), tokens, begin, end);
    });
    context->save_for_backward({q, k, v, out, state});
    context->saved_data["scale"] = scale;
    context->saved_data["type"] = static_cast<int64_t>(query.scalar_type());
    return out.to(query.scalar_type()).unflatten(0, {query.size(0), query.size(1)});
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    auto saved = context->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &state = saved[4];
    auto sizes = grads[0].sizes().vec();
    auto grad = grads[0].flatten(0, 1).to(at::kFloat).contiguous();
    auto heads = q.size(0), tokens = q.size(1);
    auto dq = at::empty_like(q), dk = at::empty_like(q), dv = at::empty_like(q);
    auto scale = static_cast<float>(context->saved_data["scale"].toDouble());
    at::parallel_for(0, heads, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> room(16 * tokens);
      kernels().narrow_attention_backward(
          floats(q), floats(k), floats(v), floats(out), floats(state), floats(grad), dq.data_ptr<float>(), dk.data_ptr<float>(), dv.data_ptr<float>(), room.data(), scale, tokens, begin, end);
    });
    auto type = static_cast<at::ScalarType>(context->saved_data["type"].toInt());
    auto unfold = [&](const Tensor& t) { return t.view(sizes).to(type); };
    return {unfold(dq), unfold(dk), unfold(dv), {}};
  }
};

// base + dropout(x); without a base dropout(x). The mask is a function of the seed and is never written down.
Tensor dropped(const Tensor& base, const Tensor& x, at::ScalarType type, uint64_t seed, double p) {
  auto out = at::empty(x.sizes(), x.options().dtype(type));
  auto threshold = static_cast<uint32_t>(std::min(p * 4294967296.0, 4294967295.0));
  auto factor = static_cast<float>(1 / (1 - p));
  in_parallel(x.numel() / 16, 16, [&](int64_t begin, int64_t end) {
    kernels().dropout(
        base.defined() ? floats(base) : nullptr, x.const_data_ptr(), out.data_ptr(), half(x), half(out), seed, threshold, factor, 16 * begin, 16 * end);
  });
  return out;
}

struct Dropout : torch::autograd::Function<Dropout> {
  static Tensor forward(AutogradContext* context, const std::optional<Tensor>& base, const Tensor& input, double p) {
    auto x = input.contiguous();
    auto generator = at::detail::getDefaultCPUGenerator();
    uint64_t seed = 0;
    {
      std::lock_guard<std::mutex> lock(generator.mutex());
      seed = at::check_generator<at::CPUGeneratorImpl>(generator)->random64();
    }
    context->saved_data["seed"] = static_cast<int64_t>(seed);
    context->saved_data["p"] = p;
    context->saved_data["based"] = base.has_value();
    context->saved_data["type"] = static_cast<int64_t>(x.scalar_type());
    return base ? dropped(base->contiguous(), x, at::kFloat, seed, p) : dropped({}, x, x.scalar_type(), seed, p);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    auto seed = static_cast<uint64_t>(context->saved_data["seed"].toInt());
    auto type = static_cast<at::ScalarType>(context->saved_data["type"].toInt());
    auto grad = grads[0].contiguous();
    auto dx = dropped({}, grad, type, seed, context->saved_data["p"].toDouble());
    return {context->saved_data["based"].toBool() ? grads[0] : Tensor(), dx, {}};
  }
};

} // namespace

mtx_failure mtx_attention(TensorRef query, TensorRef key, TensorRef value, double scale, TensorRef* out) {
  return guarded([&] {
    for (const auto* t : {query, key, value}) {
      TORCH_CHECK(t->device().is_cpu() && t->dim() == 4 && t->sizes() == query->sizes() && t->scalar_type() == query->scalar_type(), "queries, keys and values of different kinds");
    }
    TORCH_CHECK(query->scalar_type() == at::kFloat || query->scalar_type() == at::kBFloat16, "tokens of ", query->scalar_type());
    TORCH_CHECK(query->size(2) % 16 == 0, query->size(2), " tokens are no multiple of 16");
    *out = new Tensor(query->size(3) == 4 ? NarrowAttention::apply(*query, *key, *value, scale) : Attention::apply(*query, *key, *value, scale));
  });
}

mtx_failure mtx_dropout(TensorRef base, TensorRef x, double p, TensorRef* out) {
  return guarded([&] {
    TORCH_CHECK(x->device().is_cpu() && x->numel() % 16 == 0 && x->numel() < (int64_t{1} << 32), "a tensor of shape ", x->sizes());
    TORCH_CHECK(x->scalar_type() == at::kFloat || x->scalar_type() == at::kBFloat16, "a tensor of ", x->scalar_type());
    TORCH_CHECK(p >= 0 && p < 1, "a share of ", p);
    TORCH_CHECK(base == nullptr || (base->scalar_type() == at::kFloat && base->sizes() == x->sizes()), "a base of another kind");
    *out = new Tensor(Dropout::apply(base == nullptr ? std::nullopt : std::optional<Tensor>(*base), *x, p));
  });
}

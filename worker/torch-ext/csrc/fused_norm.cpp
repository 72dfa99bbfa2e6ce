// Convolution, normalisation, ReLU and pooling as one operation each, where libtorch makes several passes over memory.

#include "fused.h"

#include <ATen/autocast_mode.h>

#include <cmath>

using namespace mtx;

namespace {

// What a batch normalisation in training makes of each channel: y = x scale + shift.
struct Norm {
  std::vector<float> scale, shift;
  std::vector<double> mean, inverse;
};

// The same from the batch's means and variances (not corrected), and the running statistics moved by them.
Norm normalise(
    const std::vector<double>& mean,
    const std::vector<double>& variance,
    int64_t count,
    const Tensor& weight,
    const Tensor& bias,
    const Tensor& running_mean,
    const Tensor& running_var,
    double momentum,
    double eps) {
  auto channels = static_cast<int64_t>(mean.size());
  Norm norm{std::vector<float>(channels), std::vector<float>(channels), mean, std::vector<double>(channels)};
  auto* means = running_mean.data_ptr<float>();
  auto* variances = running_var.data_ptr<float>();
  double corrected = count > 1 ? double(count) / double(count - 1) : 1;
  for (int64_t c = 0; c < channels; ++c) {
    norm.inverse[c] = 1 / std::sqrt(variance[c] + eps);
    double scale = floats(weight)[c] * norm.inverse[c];
    norm.scale[c] = static_cast<float>(scale);
    norm.shift[c] = static_cast<float>(floats(bias)[c] - mean[c] * scale);
    means[c] = static_cast<float>((1 - momentum) * means[c] + momentum * mean[c]);
    variances[c] = static_cast<float>((1 - momentum) * variances[c] + momentum * variance[c] * corrected);
  }
  return norm;
}

Tensor kept(const std::vector<float>& values) {
  return at::tensor(values, at::kFloat);
}

Tensor kept(const std::vector<double>& values) {
  return at::tensor(values, at::kDouble);
}

// Normalisation, ReLU and perhaps pooling of maps [N, C, H, W].
struct NormRelu : torch::autograd::Function<NormRelu> {
  static Tensor forward(
      AutogradContext* context,
      const Tensor& input,
      const Tensor& weight,
      const Tensor& bias,
      const Tensor& running_mean,
      const Tensor& running_var,
      double momentum,
      double eps,
      bool pool) {
    auto x = channels_last(input);
    Plane plane{x.size(2), x.size(3), x.size(1)};
    auto channels = plane.channels, pixels = x.numel() / channels;
    // Differences to any pixel lose less than the values themselves, whatever the maps' mean is.
    auto center = x.select(3, 0).select(2, 0).select(0, 0).to(at::kFloat).contiguous();
    auto total = sums(pixels, channels, 2 * channels, [&](int64_t begin, int64_t end, float* to) {
      kernels().moments(x.const_data_ptr(), half(x), floats(center), channels, to, begin, end);
    });
    std::vector<double> mean(channels), variance(channels);
    for (int64_t c = 0; c < channels; ++c) {
      auto difference = total[c] / double(pixels);
      mean[c] = floats(center)[c] + difference;
      variance[c] = std::max(0.0, total[channels + c] / double(pixels) - difference * difference);
    }
    auto norm = normalise(mean, variance, pixels, weight, bias, running_mean, running_var, momentum, eps);
    auto shape = x.sizes().vec();
    if (pool) {
      shape[2] /= 2;
      shape[3] /= 2;
    }
    auto y = at::empty(shape, x.options(), at::MemoryFormat::ChannelsLast);
    if (pool) {
      in_parallel(pixels / plane.width / 2, 2 * plane.width * channels, [&](int64_t begin, int64_t end) {
        kernels().pool(x.const_data_ptr(), y.data_ptr(), half(x), norm.scale.data(), norm.shift.data(), plane, begin, end);
      });
    } else {
      in_parallel(pixels, channels, [&](int64_t begin, int64_t end) {
        kernels().norm_relu(x.const_data_ptr(), y.data_ptr(), half(x), norm.scale.data(), norm.shift.data(), channels, begin, end);
      });
    }
    context->save_for_backward({x, kept(norm.scale), kept(norm.shift), kept(norm.mean), kept(norm.inverse)});
    context->saved_data["pool"] = pool;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    auto saved = context->get_saved_variables();
    auto pool = context->saved_data["pool"].toBool();
    const auto &x = saved[0], &scale = saved[1], &shift = saved[2];
    auto grad = channels_last(grads[0].to(x.scalar_type()));
    Plane plane{x.size(2), x.size(3), x.size(1)};
    auto channels = plane.channels, pixels = x.numel() / channels;
    auto center = saved[3].to(at::kFloat);
    auto rows = pixels / plane.width / 2, row_cost = 2 * plane.width * channels;
    auto total = pool
        ? sums(rows, row_cost, 2 * channels, [&](int64_t begin, int64_t end, float* to) {
            kernels().pool_sums(x.const_data_ptr(), grad.const_data_ptr(), half(x), floats(scale), floats(shift), floats(center), plane, to, begin, end);
          })
        : sums(pixels, channels, 2 * channels, [&](int64_t begin, int64_t end, float* to) {
            kernels().norm_relu_sums(x.const_data_ptr(), grad.const_data_ptr(), half(x), floats(scale), floats(shift), floats(center), channels, to, begin, end);
          });
    auto d_weight = at::empty({channels}, at::kFloat), d_bias = at::empty({channels}, at::kFloat);
    std::vector<float> slope(channels), offset(channels);
    const auto* inverse = saved[4].const_data_ptr<double>();
    for (int64_t c = 0; c < channels; ++c) {
      auto bias = total[c], gain = total[channels + c] * inverse[c];
      d_bias.data_ptr<float>()[c] = static_cast<float>(bias);
      d_weight.data_ptr<float>()[c] = static_cast<float>(gain);
      // dx = scale (g - mean g - xhat mean(g xhat)), with xhat = (x - mean) inverse.
      auto s = floats(scale)[c] / double(pixels);
      slope[c] = static_cast<float>(-s * gain * inverse[c]);
      offset[c] = static_cast<float>(-s * bias + s * gain * inverse[c] * double(floats(center)[c]));
    }
    auto dx = at::empty(x.sizes(), x.options(), at::MemoryFormat::ChannelsLast);
    if (pool) {
      in_parallel(rows, row_cost, [&](int64_t begin, int64_t end) {
        kernels().pool_backward(x.const_data_ptr(), grad.const_data_ptr(), dx.data_ptr(), half(x), floats(scale), floats(shift), slope.data(), offset.data(), plane, begin, end);
      });
    } else {
      in_parallel(pixels, channels, [&](int64_t begin, int64_t end) {
        kernels().norm_relu_backward(x.const_data_ptr(), grad.const_data_ptr(), dx.data_ptr(), half(x), floats(scale), floats(shift), slope.data(), offset.data(), channels, begin, end);
      });
    }
    return {dx, d_weight, d_bias, {}, {}, {}, {}, {}};
  }
};

// Where the sum of p_a p_b lies in what patch_sums gives.
int pair(int a, int b) {
  if (a > b) {
    std::swap(a, b);
  }
  return 9 + a * 9 - a * (a - 1) / 2 + (b - a);
}

// Convolution of one-channel images with a 3 x 3 kernel, normalisation, ReLU and pooling.
//
// The convolution is linear in the nine pixels p around each place, so its mean and variance over the batch follow from the
// sums of p_a and p_a p_b, which are the same for all channels; and the convolution is cheaper to compute again in backward
// than to write down. Maps of the full size are never made.
struct FirstBlock : torch::autograd::Function<FirstBlock> {
  static Tensor forward(
      AutogradContext* context,
      const Tensor& input,
      const Tensor& kernel,
      const Tensor& weight,
      const Tensor& bias,
      const Tensor& running_mean,
      const Tensor& running_var,
      double momentum,
      double eps,
      bool to_half) {
    auto images = input.to(at::kFloat).contiguous();
    Plane plane{images.size(2), images.size(3), kernel.size(0)};
    auto rows = images.numel() / plane.width, count = images.numel();
    auto total = sums<double>(rows, 16 * plane.width, 54, [&](int64_t begin, int64_t end, double* to) {
      kernels().patch_sums(floats(images), plane, begin, end, to);
    });
    auto filters = kernel.reshape({plane.channels, 9}).contiguous();
    std::vector<double> mean(plane.channels), variance(plane.channels);
    for (int64_t c = 0; c < plane.channels; ++c) {
      const auto* w = floats(filters) + 9 * c;
      for (int a = 0; a < 9; ++a) {
        mean[c] += w[a] * total[a] / double(count);
        for (int b = 0; b < 9; ++b) {
          auto covariance = total[pair(a, b)] / double(count) - total[a] / double(count) * (total[b] / double(count));
          variance[c] += double(w[a]) * w[b] * covariance;
        }
      }
      variance[c] = std::max(variance[c], 0.0);
    }
    auto norm = normalise(mean, variance, count, weight, bias, running_mean, running_var, momentum, eps);
    auto folded = (filters.t() * kept(norm.scale)).contiguous();
    auto shift = kept(norm.shift);
    auto options = images.options().dtype(to_half ? at::kBFloat16 : at::kFloat);
    auto y = at::empty({images.size(0), plane.channels, plane.height / 2, plane.width / 2}, options, at::MemoryFormat::ChannelsLast);
    in_parallel(rows / 2, 2 * plane.width * plane.channels, [&](int64_t begin, int64_t end) {
      kernels().first_forward(floats(images), plane, floats(folded), floats(shift), y.data_ptr(), to_half, begin, end);
    });
    context->save_for_backward({images, filters, weight, folded, shift, kept(total), kept(norm.mean), kept(norm.inverse)});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    auto saved = context->get_saved_variables();
    const auto &images = saved[0], &filters = saved[1], &weight = saved[2], &folded = saved[3], &shift = saved[4];
    auto grad = channels_last(grads[0]);
    Plane plane{images.size(2), images.size(3), filters.size(0)};
    auto rows = images.numel() / plane.width / 2, channels = plane.channels;
    auto partial = at::empty({rows, 10, channels}, at::kFloat);
    in_parallel(rows, 2 * plane.width * channels, [&](int64_t begin, int64_t end) {
      kernels().first_backward(floats(images), plane, floats(folded), floats(shift), grad.const_data_ptr(), half(grad), partial.data_ptr<float>(), begin, end);
    });
    auto of_grad = partial.sum(0, false, at::kDouble);
    const auto* g = of_grad.const_data_ptr<double>();
    const auto *total = saved[5].const_data_ptr<double>(), *mean = saved[6].const_data_ptr<double>(), *inverse = saved[7].const_data_ptr<double>();
    auto d_kernel = at::empty({channels, 1, 3, 3}, at::kFloat), d_weight = at::empty({channels}, at::kFloat), d_bias = at::empty({channels}, at::kFloat);
    auto count = double(images.numel());
    for (int64_t c = 0; c < channels; ++c) {
      const auto* w = floats(filters) + 9 * c;
      double bias = g[9 * channels + c], gain = -mean[c] * bias;
      for (int k = 0; k < 9; ++k) {
        gain += w[k] * g[k * channels + c];
      }
      gain *= inverse[c];
      for (int k = 0; k < 9; ++k) {
        double xhat_p = -mean[c] * total[k];
        for (int b = 0; b < 9; ++b) {
          xhat_p += w[b] * total[pair(k, b)];
        }
        xhat_p *= inverse[c];
        auto d = g[k * channels + c] - bias / count * total[k] - gain / count * xhat_p;
        d_kernel.data_ptr<float>()[9 * c + k] = static_cast<float>(floats(weight)[c] * inverse[c] * d);
      }
      d_bias.data_ptr<float>()[c] = static_cast<float>(bias);
      d_weight.data_ptr<float>()[c] = static_cast<float>(gain);
    }
    return {{}, d_kernel, d_weight, d_bias, {}, {}, {}, {}, {}};
  }
};

// Kernels see memory alone: what they are given is checked here.
void check_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& var) {
  TORCH_CHECK(x.device().is_cpu(), "not on the CPU");
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16, "maps of ", x.scalar_type());
  for (const auto& t : {weight, bias, mean, var}) {
    TORCH_CHECK(t.scalar_type() == at::kFloat && t.is_contiguous() && t.dim() == 1 && t.size(0) == weight.size(0), "a normalisation needs one float for each channel");
  }
  TORCH_CHECK(weight.size(0) % 16 == 0, weight.size(0), " channels are no multiple of 16");
}

} // namespace

mtx_failure mtx_norm_relu(
    TensorRef x, TensorRef weight, TensorRef bias, TensorRef mean, TensorRef var, double momentum, double eps, bool pool, TensorRef* out) {
  return guarded([&] {
    check_norm(*x, *weight, *bias, *mean, *var);
    TORCH_CHECK(x->dim() == 4 && x->size(1) == weight->size(0), "maps of shape ", x->sizes());
    TORCH_CHECK(!pool || (x->size(2) % 2 == 0 && x->size(3) % 2 == 0), "maps of shape ", x->sizes(), " cannot be halved");
    *out = new Tensor(NormRelu::apply(*x, *weight, *bias, *mean, *var, momentum, eps, pool));
  });
}

mtx_failure mtx_first_block(
    TensorRef images, TensorRef kernel, TensorRef weight, TensorRef bias, TensorRef mean, TensorRef var, double momentum, double eps, TensorRef* out) {
  return guarded([&] {
    check_norm(*images, *weight, *bias, *mean, *var);
    TORCH_CHECK(images->dim() == 4 && images->size(1) == 1 && !images->requires_grad(), "images of one channel, without gradients");
    auto height = images->size(2), width = images->size(3);
    TORCH_CHECK(height % 2 == 0 && width % 2 == 0 && width <= mtx::kLongestRow, "images of shape ", images->sizes());
    TORCH_CHECK(kernel->scalar_type() == at::kFloat && kernel->sizes() == at::IntArrayRef({weight->size(0), 1, 3, 3}), "a kernel of shape ", kernel->sizes());
    // What autocast would make of a convolution's answer.
    auto to_half = at::autocast::is_autocast_enabled(at::kCPU) && at::autocast::get_autocast_dtype(at::kCPU) == at::kBFloat16;
    *out = new Tensor(FirstBlock::apply(*images, *kernel, *weight, *bias, *mean, *var, momentum, eps, to_half));
  });
}

// CPU backend: matrix products.
#include <algorithm>

#include "cpu/cpu_backend.h"

namespace frspec::cpu {
namespace {

// Outputs that are computed together. Where x outgrows the cache, several pairs of panels share each part of it.
std::int64_t piece_of(std::int64_t rows) { return (rows > kRowBlock ? kMaxPairs : 1) * kPair * kPanel; }

std::int64_t pieces_of(const Weight& weight, std::int64_t piece) { return (weight.rows() + piece - 1) / piece; }

std::int64_t whole_tiles(std::int64_t rows) { return (rows + kMatrixRows - 1) / kMatrixRows * kMatrixRows; }

// The geometry of `rows` rows of `cols` elements in a form: rows one after the other, or for Int8 group after group.
Activations shape_of(Form form, std::int64_t rows, std::int64_t cols) {
  const std::int64_t groups = (cols + kGroup - 1) / kGroup;
  constexpr std::int64_t kSize = sizeof(ActivationGroup);
  switch (form) {
    case Form::Int8:
      return {nullptr, kSize, whole_tiles(rows) * kSize, rows};
    case Form::Bf16:
      return {nullptr, groups * kGroup * 2 + kLine, kGroup * 2, rows};
    case Form::F32:
      break;
  }
  return {nullptr, groups * kGroup * 4 + kLine, kGroup * 4, rows};
}

std::size_t bytes_of(const Activations& x, Form form, std::int64_t cols) {
  const std::int64_t groups = (cols + kGroup - 1) / kGroup;
  return static_cast<std::size_t>(form == Form::Int8 ? groups * x.group_stride : whole_tiles(x.rows) * x.row_stride);
}

// The product of x with the `count` rows of a weight from `first` on; pairs of panels, unless the weight ends there.
PanelProduct product_of(const CpuWeight& weight, std::int64_t first, std::int64_t count, const Activations& x) {
  PanelProduct product;
  product.type = weight.kept_type();
  product.cols = weight.cols();
  product.n_count = static_cast<int>(std::min(count, weight.rows() - first));
  product.panel_count = (product.n_count + kPanel - 1) / kPanel;
  for (int i = 0; kPair * i < product.panel_count; ++i) product.pairs[i] = weight.pair(first / kPanel + kPair * i);
  product.next = weight.pair(first / kPanel + product.panel_count);
  product.x = x;
  return product;
}

}  // namespace

Activations CpuBackend::prepare(const Operand& operand, Form form) {
  const Tensor& x = operand.x;
  Activations result = shape_of(form, x.rows, x.cols);
  std::byte* memory = forms_[static_cast<int>(form)].bytes(bytes_of(result, form, x.cols));
  result.data = memory;
  const std::int64_t width = (x.cols + kGroup - 1) / kGroup * kGroup;
  pool_.parallel_for(x.rows, 2, [&](std::int64_t begin, std::int64_t end, int worker) {
    float* made = row_scratch_[static_cast<std::size_t>(worker)].floats(static_cast<std::size_t>(x.cols + width / 32));
    for (std::int64_t r = begin; r < end; ++r) {
      const float* row = x.row(r);
      if (operand.norm != nullptr) {
        kernels_.rms_norm(made, row, operand.norm, x.cols, operand.epsilon);
        row = made;
      } else if (operand.up != nullptr) {
        kernels_.activate[static_cast<int>(operand.activation)](made, row, operand.up + r * x.stride, x.cols);
        row = made;
      }
      std::byte* to = memory + r * result.row_stride;
      switch (form) {
        case Form::Int8:
          kernels_.to_int8(to, result.group_stride, row, x.cols, made + x.cols);
          break;
        case Form::Bf16: {
          auto* halves = reinterpret_cast<std::uint16_t*>(to);
          kernels_.to_bf16(halves, row, x.cols);
          std::fill(halves + x.cols, halves + width, std::uint16_t{0});
          break;
        }
        case Form::F32: {
          auto* floats = reinterpret_cast<float*>(to);
          std::copy_n(row, x.cols, floats);
          std::fill(floats + x.cols, floats + width, 0.0f);
          break;
        }
      }
    }
  });
  return result;
}

void CpuBackend::matmul(const Operand& x, std::span<const Projection> projections) {
  Activations forms[3];
  const std::int64_t piece = piece_of(x.x.rows);
  std::int64_t count = 0;
  for (const Projection& p : projections) {
    const Form form = kernels_.form(p.weight->type());
    Activations& prepared = forms[static_cast<int>(form)];
    if (prepared.data == nullptr) prepared = prepare(x, form);
    count = std::max(count, pieces_of(*p.weight, piece));
  }
  // All projections in one loop, so that a small one does not leave threads idle; and each in step with the others, so
  // that a worker has the same part of every weight that it packed.
  pool_.parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    for (std::int64_t at = begin; at < end; ++at) {
      for (const Projection& p : projections) {
        const auto& weight = static_cast<const CpuWeight&>(*p.weight);
        const std::int64_t pieces = pieces_of(weight, piece);
        for (std::int64_t i = at * pieces / count; i < (at + 1) * pieces / count; ++i) {
          const std::int64_t first = i * piece;
          PanelProduct product =
              product_of(weight, first, piece, forms[static_cast<int>(kernels_.form(weight.type()))]);
          product.out = p.out.data + first;
          product.out_stride = p.out.stride;
          product.bias = p.bias != nullptr ? p.bias + first : nullptr;
          product.accumulate = p.accumulate;
          product.scratch = product_scratch_[static_cast<std::size_t>(worker)].bytes(kProductScratch);
          kernels_.multiply(product);
        }
      }
    }
  });
}

void CpuBackend::logits_of(const Activations& x, const CpuWeight& weight, std::int64_t first, std::int64_t count,
                           float* out, std::int64_t out_stride, int worker) {
  const std::int64_t piece = piece_of(x.rows);
  for (std::int64_t done = 0; done < count; done += piece) {
    PanelProduct product = product_of(weight, first + done, std::min(piece, count - done), x);
    product.out = out + done;
    product.out_stride = out_stride;
    product.scratch = product_scratch_[static_cast<std::size_t>(worker)].bytes(kProductScratch);
    kernels_.multiply(product);
  }
}

}  // namespace frspec::cpu

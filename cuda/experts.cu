// CUDA backend: mixtures of experts.
//
// Which expert a row wants only the device knows, so nothing is sorted by expert on the host: a pair of a row and one
// of its experts is multiplied by itself, with the rows of that expert, as the file has them. Experts that no row has
// chosen are not read. A row's outputs are added in the order of its experts.
//
// Memory. `choose_experts`: a warp reads the scores of a row (4 bytes a lane, contiguous) as often as it uses experts,
// from L1 but for the first time. `multiply_experts`: a warp has one row of a weight for one pair and dequantizes it
// column by column, so that its reads lie in one block of the format (F32: 128 contiguous bytes); pairs that share an
// expert are neighbours in no order, and find its rows in L2 if at all. `activate_pairs`, `add_pairs`: 4 bytes a lane,
// contiguous.
#include <algorithm>
#include <cmath>

#include "cuda/cuda_backend.h"
#include "cuda/device/activation.cuh"
#include "cuda/device/block.cuh"
#include "cuda/device/order.cuh"
#include "cuda/formats/all.cuh"
#include "cuda/matmul.h"
#include "cuda/weight.h"
#include "tensor/dequantize.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 128;
constexpr std::int64_t kMostRows = 256;  // at a time: bounds the memory for what is on its way

// By row and place, the experts ascending.
struct Choices {
  std::int32_t* experts;  // (rows, used)
  float* weights;         // (rows, used)
  int used;
};

// Grid (rows), one warp each.
__global__ void __launch_bounds__(kWarp) choose_experts(Choices choices, Tensor scores) {
  SharedMemory shared;
  const int used = choices.used;
  auto* keys = shared.take<std::uint64_t>(used);
  const float* row = scores.row(block_x());
  std::uint64_t last = ~std::uint64_t{0};
  for (int i = 0; i < used; ++i) {
    std::uint64_t best = 0;
    for (std::int64_t e = lane(); e < scores.cols; e += kWarp) {
      const std::uint64_t key = column_key(row[e], static_cast<std::int32_t>(e));
      if (key < last && key > best) best = key;
    }
    last = warp_max(best);
    if (lane() == 0) keys[i] = last;
  }
  warp_sync();
  if (lane() != 0) return;
  const float most = value_of_key(keys[0]);
  float total = 0.0f;
  for (int i = 0; i < used; ++i) total += std::exp(value_of_key(keys[i]) - most);
  std::int32_t* experts = choices.experts + std::int64_t{block_x()} * used;
  float* weights = choices.weights + std::int64_t{block_x()} * used;
  for (int i = 0; i < used; ++i) {
    const std::int32_t expert = column_of_key(keys[i]);
    int place = i;
    for (; place > 0 && experts[place - 1] > expert; --place) {
      experts[place] = experts[place - 1];
      weights[place] = weights[place - 1];
    }
    experts[place] = expert;
    weights[place] = std::exp(value_of_key(keys[i]) - most) / total;
  }
}

struct ExpertProduct {
  Tensor out;  // (pairs, rows of an expert's matrix)
  Tensor x;    // pair p reads row p / sharing
  int sharing;
  const std::byte* weight;
  std::int64_t row_size;
  const float* bias;  // (experts, out.cols) or null
  const std::int32_t* experts;
};

// Grid (pairs, columns in blocks of warps).
template <class Format>
__global__ void __launch_bounds__(kThreads) multiply_experts(ExpertProduct product) {
  const std::int64_t pair = block_x(), column = std::int64_t{block_y()} * warps() + warp();
  if (column >= product.out.cols) return;
  const std::int64_t at = product.experts[pair] * product.out.cols + column;
  const std::byte* row = product.weight + at * product.row_size;
  const float* x = product.x.row(pair / product.sharing);
  float sum = 0.0f;
  for (std::int64_t c = lane(); c < product.x.cols; c += kWarp) sum = fma(Format::value(row, c), x[c], sum);
  sum = warp_sum(sum);
  if (lane() == 0) product.out.row(pair)[column] = product.bias != nullptr ? sum + product.bias[at] : sum;
}

// Grid (pairs). In place of the gate.
__global__ void __launch_bounds__(kThreads) activate_pairs(Tensor gate, Tensor up, Activation activation) {
  float* to = gate.row(block_x());
  const float* other = up.row(block_x());
  for (std::int64_t c = thread(); c < gate.cols; c += threads()) to[c] = activated(activation, to[c], other[c]);
}

// Grid (rows).
__global__ void __launch_bounds__(kThreads) add_pairs(Tensor out, Tensor pairs, const float* weights, int used) {
  const std::int64_t first = std::int64_t{block_x()} * used;
  float* to = out.row(block_x());
  for (std::int64_t c = thread(); c < out.cols; c += threads()) {
    float sum = 0.0f;
    for (int i = 0; i < used; ++i) sum = fma(weights[first + i], pairs.row(first + i)[c], sum);
    to[c] = sum;
  }
}

}  // namespace

std::unique_ptr<Weight> CudaBackend::load_experts(std::span<const WeightSource> sources) {
  const WeightSource& one = sources.front();
  check_weight_type(one);
  const DType type = device_type(one.type);
  const auto count = static_cast<std::int64_t>(sources.size());
  const std::size_t bytes = static_cast<std::size_t>(one.rows) * row_bytes(type, static_cast<std::size_t>(one.cols));
  auto weight =
      std::make_unique<CudaWeight>(one, type, one.rows * count, 0, weight_memory(bytes * sources.size(), one.on_host));
  std::vector<std::byte> room;
  for (std::size_t e = 0; e < sources.size(); ++e) {
    check_rows(sources[e], nullptr, 0, one.rows);
    upload(weight->data() + e * bytes, device_rows(sources[e], nullptr, 0, one.rows, room), bytes);
  }
  return weight;
}

void CudaBackend::run_experts(Tensor out, Tensor x, Tensor scores, const Experts& experts) {
  const std::int64_t ff = experts.down->cols(), used = experts.used;
  for (std::int64_t first = 0; first < x.rows; first += kMostRows) {
    const std::int64_t count = std::min(kMostRows, x.rows - first), pairs = count * used;
    float* memory = experts_.take<float>(static_cast<std::size_t>(pairs * (2 + 2 * ff + out.cols)));
    const auto take = [&](std::int64_t cols) {
      const Tensor part{memory, pairs, cols, cols};
      memory += pairs * cols;
      return part;
    };
    const Tensor gate = take(ff), up = take(ff), result = take(out.cols);
    const Choices choices{reinterpret_cast<std::int32_t*>(memory), memory + pairs, experts.used};
    launch("choose_experts", choose_experts, {static_cast<int>(count)}, kWarp, shared_bytes<std::uint64_t>(used),
           choices, scores.row_range(first, count));
    const auto multiply = [&](Tensor to, Tensor from, int sharing, const Weight* weight, const float* bias) {
      const auto& table = static_cast<const CudaWeight&>(*weight);
      const auto row_size =
          static_cast<std::int64_t>(row_bytes(table.kept_type(), static_cast<std::size_t>(table.cols())));
      const ExpertProduct product{to, from, sharing, table.data(), row_size, bias, choices.experts};
      const Grid grid{static_cast<int>(pairs), static_cast<int>((to.cols + kThreads / kWarp - 1) / (kThreads / kWarp))};
      with_format(table.kept_type(), [&]<class Format>(Chosen<Format>) {
        launch("multiply_experts", multiply_experts<Format>, grid, kThreads, 0, product);
      });
    };
    multiply(gate, x.row_range(first, count), experts.used, experts.gate, experts.gate_bias);
    multiply(up, x.row_range(first, count), experts.used, experts.up, experts.up_bias);
    launch("activate_pairs", activate_pairs, {static_cast<int>(pairs)}, kThreads, 0, gate, up, experts.activation);
    multiply(result, gate, 1, experts.down, experts.down_bias);
    launch("add_pairs", add_pairs, {static_cast<int>(count)}, kThreads, 0, out.row_range(first, count), result,
           static_cast<const float*>(choices.weights), experts.used);
  }
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE

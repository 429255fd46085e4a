// Running the first layers of a model on the host (llama.cpp's n_gpu_layers): the residual stream is brought there and
// back. The bits are the CPU backend's then, for all rows alike: speculative text stays equal to plain text.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "model/block.h"
#include "model/kv_cache.h"
#include "model/rope_table.h"

namespace frspec {

class HostLayers {
 public:
  // For passes of up to `rows` rows and positions below `positions`.
  HostLayers(Backend& device, const HostPart& host, const ModelConfig& config, std::span<const float> rope_factors,
             int rows, int positions);

  // x (rows.count, dim; device) through `blocks`. `see(layer, states)` is shown each layer's input, in host memory.
  void run(Tensor x, const Rows& rows, std::span<const BlockWeights> blocks, const KvCache& cache,
           const std::function<void(int layer, const float* states)>& see);

 private:
  Backend& device_;
  HostPart host_;
  const ModelConfig& config_;
  LayerRopes ropes_;
  BlockScratch scratch_;
  std::vector<float> stream_;  // (rows, dim)
  std::vector<std::int32_t> depth_, path_;
};

}  // namespace frspec

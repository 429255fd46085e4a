// Layers on the host.
#include "model/host_layers.h"

namespace frspec {

HostLayers::HostLayers(Backend& device, const HostPart& host, const ModelConfig& config,
                       std::span<const float> rope_factors, int rows, int positions)
    : device_(device),
      host_(host),
      config_(config),
      ropes_(*host.backend, config, rope_factors, positions),
      scratch_(*host.backend, config, rows),
      stream_(static_cast<std::size_t>(rows) * static_cast<std::size_t>(config.dim)) {}

void HostLayers::run(Tensor x, const Rows& rows, std::span<const BlockWeights> blocks, const KvCache& cache,
                     const std::function<void(int layer, const float* states)>& see) {
  const auto count = static_cast<std::size_t>(rows.count);
  const std::size_t bytes = count * static_cast<std::size_t>(config_.dim) * sizeof(float);
  device_.download(stream_.data(), x.data, bytes);
  Rows here = rows;
  here.prefix = cache.host_length();
  if (rows.depth != nullptr) {
    depth_.resize(count);
    device_.download(depth_.data(), rows.depth, count * sizeof(std::int32_t));
    here.depth = depth_.data();
  }
  if (rows.path != nullptr) {
    path_.resize(count * static_cast<std::size_t>(rows.path_stride));
    device_.download(path_.data(), rows.path, path_.size() * sizeof(std::int32_t));
    here.path = path_.data();
  }
  const Tensor stream{stream_.data(), rows.count, config_.dim, config_.dim};
  for (int i = 0; i < host_.layers; ++i) {
    see(i, stream_.data());
    run_block(*host_.backend, config_, blocks[static_cast<std::size_t>(i)], scratch_, ropes_.of(i), cache.layer(i),
              here, stream);
  }
  device_.upload(x.data, stream_.data(), bytes);
}

}  // namespace frspec

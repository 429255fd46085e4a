// Key/value cache.
#include "model/kv_cache.h"

#include <span>

namespace frspec {

KvCache::KvCache(Backend& backend, int layers, const KvShape& shape, const HostPart& host)
    : backend_(backend), host_(host), length_(backend.allocate(sizeof(std::int32_t))) {
  for (int i = 0; i < layers; ++i) {
    Backend& owner = i < host.layers ? *host.backend : backend;
    const std::size_t bytes = owner.kv_bytes(shape);
    memory_.push_back(owner.allocate(bytes));
    void* keys = memory_.back().as<void>();
    memory_.push_back(owner.allocate(bytes));
    layers_.push_back(KvLayer{keys, memory_.back().as<void>(), shape});
  }
}

std::size_t KvCache::bytes() const {
  std::size_t total = 0;
  for (const Buffer& buffer : memory_) total += buffer.bytes();
  return total;
}

void KvCache::set_length(std::int32_t length) {
  host_length_ = length;
  backend_.upload(length_.as<void>(), &length, sizeof length);
}

void KvCache::advance(const std::int32_t* count) {
  if (host_.layers > 0) {
    std::int32_t rows = 0;
    backend_.download(&rows, count, sizeof rows);
    host_length_ += rows;
  }
  backend_.advance(length_.as<std::int32_t>(), count);
}

void KvCache::commit(const VerdictView& verdict) {
  const auto of_host = static_cast<std::size_t>(host_.layers);
  if (of_host > 0) {
    std::int32_t count = 0;
    backend_.download(&count, verdict.count, sizeof count);
    host_nodes_.resize(static_cast<std::size_t>(count));
    backend_.download(host_nodes_.data(), verdict.nodes, host_nodes_.size() * sizeof(std::int32_t));
    host_.backend->compact(std::span(layers_).first(of_host), &host_length_,
                           {.count = &count, .nodes = host_nodes_.data()});
    host_length_ += count;
  }
  backend_.compact(std::span(layers_).subspan(of_host), length(), verdict);
  backend_.advance(length_.as<std::int32_t>(), verdict.count);
}

}  // namespace frspec

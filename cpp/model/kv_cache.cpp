// Key/value cache.
#include "model/kv_cache.h"

namespace frspec {

KvCache::KvCache(Backend& backend, int layers, int heads, int head_dim, int capacity)
    : backend_(backend), capacity_(capacity), length_(backend.allocate(sizeof(std::int32_t))) {
  const std::size_t bytes = sizeof(std::uint16_t) * static_cast<std::size_t>(capacity) *
                            static_cast<std::size_t>(heads) * static_cast<std::size_t>(head_dim);
  for (int i = 0; i < layers; ++i) {
    memory_.push_back(backend.allocate(bytes));
    std::uint16_t* keys = memory_.back().as<std::uint16_t>();
    memory_.push_back(backend.allocate(bytes));
    std::uint16_t* values = memory_.back().as<std::uint16_t>();
    layers_.push_back(KvLayer{keys, values, heads, head_dim, capacity});
  }
}

std::size_t KvCache::bytes() const {
  std::size_t total = 0;
  for (const Buffer& buffer : memory_) total += buffer.bytes();
  return total;
}

void KvCache::set_length(std::int32_t length) { backend_.upload(length_.as<void>(), &length, sizeof length); }

void KvCache::commit(const VerdictView& verdict) {
  backend_.compact(layers_, length(), verdict);
  advance(verdict.count);
}

}  // namespace frspec

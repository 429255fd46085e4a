// Key/value cache.
#include "model/kv_cache.h"

namespace frspec {

KvCache::KvCache(Backend& backend, int layers, const KvShape& shape)
    : backend_(backend), length_(backend.allocate(sizeof(std::int32_t))) {
  const std::size_t bytes = backend.kv_bytes(shape);
  for (int i = 0; i < layers; ++i) {
    memory_.push_back(backend.allocate(bytes));
    void* keys = memory_.back().as<void>();
    memory_.push_back(backend.allocate(bytes));
    layers_.push_back(KvLayer{keys, memory_.back().as<void>(), shape});
  }
}

std::size_t KvCache::bytes() const {
  std::size_t total = 0;
  for (const Buffer& buffer : memory_) total += buffer.bytes();
  return total;
}

void KvCache::set_length(std::int32_t length) { backend_.upload(length_.as<void>(), &length, sizeof length); }

void KvCache::advance(const std::int32_t* count) { backend_.advance(length_.as<std::int32_t>(), count); }

void KvCache::commit(const VerdictView& verdict) {
  backend_.compact(layers_, length(), verdict);
  backend_.advance(length_.as<std::int32_t>(), verdict.count);
}

}  // namespace frspec

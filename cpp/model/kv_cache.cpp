#include "model/kv_cache.h"

#include <utility>

namespace frspec {

KvCache::KvCache(Backend& backend, int layers, const KvShape& shape, std::shared_ptr<SequencePages> pages)
    : backend_(backend),
      pages_(std::move(pages)),
      lengths_(backend.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(pages_->places()))) {
  for (int i = 0; i < layers; ++i) {
    memory_.push_back(backend.allocate_kv(shape));
    void* keys = memory_.back().as<void>();
    memory_.push_back(backend.allocate_kv(shape));
    layers_.push_back(KvLayer{keys, memory_.back().as<void>(), shape});
  }
  pages_->add(layers_);
}

std::size_t KvCache::bytes() const {
  std::size_t total = 0;
  for (const Buffer& buffer : memory_) total += buffer.bytes();
  return total;
}

void KvCache::set_length(std::int32_t length) {
  backend_.upload(lengths_.as<std::int32_t>() + pages_->place(), &length, sizeof length);
}

void KvCache::advance(std::int32_t* count) { backend_.commit({}, sequence(), {.count = count}, {}); }

void KvCache::commit(std::int32_t* history, const VerdictView& verdict, const PathView& path) {
  backend_.commit(layers_, sequence(history), verdict, path);
}

}  // namespace frspec

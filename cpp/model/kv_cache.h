// The keys and values of a sequence: a committed prefix, and behind it room for the rows of one tree.
#pragma once

#include <vector>

#include "backend/backend.h"

namespace frspec {

class KvCache {
 public:
  // Keys and values of the given shape for each of `layers` layers.
  KvCache(Backend& backend, int layers, const KvShape& shape);

  const KvLayer& layer(int index) const { return layers_[static_cast<std::size_t>(index)]; }
  std::size_t bytes() const;

  // Device scalar: tokens committed so far.
  const std::int32_t* length() const { return length_.as<std::int32_t>(); }

  void set_length(std::int32_t length);
  // Makes the first `*count` (device) rows behind the prefix part of it.
  void advance(const std::int32_t* count);
  // Keeps the accepted rows of the tree that was stored behind the prefix, and forgets the others.
  void commit(const VerdictView& verdict);

 private:
  Backend& backend_;
  std::vector<Buffer> memory_;
  std::vector<KvLayer> layers_;
  Buffer length_;
};

}  // namespace frspec

// The keys and values of sequences: of each a committed prefix, and behind it room for the rows of one tree. Calls are
// about the sequence whose place the pages are used for (SequencePages::use).
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "model/sequence_pages.h"

namespace frspec {

class KvCache {
 public:
  // Keys and values of the given shape, whose slots are those of `pages`, for each of `layers` layers.
  KvCache(Backend& backend, int layers, const KvShape& shape, std::shared_ptr<SequencePages> pages);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;
  ~KvCache() { pages_->remove(layers_); }

  const KvLayer& layer(int index) const { return layers_[static_cast<std::size_t>(index)]; }
  std::size_t bytes() const;

  // Device scalar: tokens committed so far.
  const std::int32_t* length() const { return lengths_.as<std::int32_t>() + pages_->place(); }
  // The sequence; `history` (device) holds its tokens, where they are known here.
  SequenceView sequence(std::int32_t* history = nullptr) const {
    SequenceView view = pages_->behind(lengths_.as<std::int32_t>());
    view.history = history;
    view.state = static_cast<int>(pages_->place());
    return view;
  }
  // The next `count` tokens, as the rows of a pass.
  Rows chain(int count) const { return {.count = count, .sequence = sequence()}; }

  void set_length(std::int32_t length);
  // Makes the first `*count` (device) rows behind the prefix part of it.
  void advance(std::int32_t* count);
  // Keeps the accepted rows of the tree that was stored behind the prefix, and forgets the others (Backend::commit).
  void commit(std::int32_t* history, const VerdictView& verdict, const PathView& path);

 private:
  Backend& backend_;
  std::shared_ptr<SequencePages> pages_;
  std::vector<Buffer> memory_;
  std::vector<KvLayer> layers_;
  Buffer lengths_;  // (places)
};

}  // namespace frspec

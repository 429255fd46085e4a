#include "tree/draft_tree.h"

#include <algorithm>

#include "base/error.h"

namespace frspec {
namespace {

// Hands out consecutive pieces of one buffer of 4-byte elements.
class Carver {
 public:
  explicit Carver(const Buffer& buffer) : next_(buffer.as<std::int32_t>()) {}

  std::int32_t* ints(std::int64_t count) {
    std::int32_t* piece = next_;
    next_ += count;
    return piece;
  }
  float* floats(std::int64_t count) { return reinterpret_cast<float*>(ints(count)); }

 private:
  std::int32_t* next_;
};

}  // namespace

void check_tree_shape(const TreeShape& shape) {
  const auto check = [](const char* name, int value, int least, int most) {
    if (value < least || value > most) {
      fail("tree shape: ", name, ": found ", value, ", expected ", least, " to ", most);
    }
  };
  check("depth", shape.depth, 0, 64);
  check("branch", shape.branch, 1, 256);
  check("size", shape.size, 1, 4096);
}

TreeLayout derive_layout(std::span<const std::int32_t> parents) {
  TreeLayout layout;
  derive_layout(parents, layout);
  return layout;
}

void derive_layout(std::span<const std::int32_t> parents, TreeLayout& layout) {
  layout.max_depth = 0;
  const auto size = static_cast<std::int32_t>(parents.size());
  layout.depth.resize(parents.size());
  for (std::int32_t i = 0; i < size; ++i) {
    const std::int32_t parent = parents[static_cast<std::size_t>(i)];
    if (i == 0 ? parent != -1 : (parent < 0 || parent >= i)) {
      fail("draft tree: parent of node ", i, ": found ", parent, ", expected ",
           i == 0 ? std::string("-1 (the root)") : concat("0 to ", i - 1));
    }
    const std::int32_t depth = i == 0 ? 0 : layout.depth[static_cast<std::size_t>(parent)] + 1;
    layout.depth[static_cast<std::size_t>(i)] = depth;
    layout.max_depth = std::max(layout.max_depth, depth);
  }
  const int stride = layout.max_depth + 1;
  layout.path.assign(parents.size() * static_cast<std::size_t>(stride), 0);
  for (std::int32_t i = 0; i < size; ++i) {
    for (std::int32_t node = i; node >= 0; node = parents[static_cast<std::size_t>(node)]) {
      layout.path[static_cast<std::size_t>(i * stride + layout.depth[static_cast<std::size_t>(node)])] = node;
    }
  }
}

void read_nodes(Backend& backend, const TreeView& tree, std::vector<std::int32_t>& tokens,
                std::vector<std::int32_t>& parents) {
  tokens.resize(static_cast<std::size_t>(tree.size));
  parents.resize(tokens.size());
  backend.download(tokens.data(), tree.tokens, tokens.size() * sizeof(std::int32_t));
  backend.download(parents.data(), tree.parents, parents.size() * sizeof(std::int32_t));
}

DraftTree::DraftTree(Backend& backend, const TreeShape& shape) {
  check_tree_shape(shape);
  pool_.branch = shape.branch;
  pool_.levels = shape.levels();
  const std::int64_t candidates = pool_.capacity();
  const std::int64_t k = shape.branch, levels = shape.levels();
  pool_memory_ = backend.allocate(4 * static_cast<std::size_t>(3 * candidates + 4 * k + 2 * k * levels));
  Carver carver(pool_memory_);
  pool_.tokens = carver.ints(candidates);
  pool_.parents = carver.ints(candidates);
  pool_.scores = carver.floats(candidates);
  pool_.frontier = carver.ints(k);
  pool_.frontier_tokens = carver.ints(k);
  pool_.frontier_rows = carver.ints(k);
  pool_.frontier_depth = carver.ints(k);
  pool_.frontier_path = carver.ints(k * levels);
  pool_.previous_path = carver.ints(k * levels);
  allocate_view(backend, size_of(shape), shape.levels());
}

// No more nodes than there are candidates, and the root.
int DraftTree::size_of(const TreeShape& shape) const { return std::min(shape.size, pool_.capacity() + 1); }

DraftTree::DraftTree(Backend& backend, std::span<const std::int32_t> tokens, std::span<const std::int32_t> parents) {
  if (tokens.size() != parents.size() || tokens.empty()) {
    fail("draft tree: found ", tokens.size(), " tokens and ", parents.size(), " parents, expected as many, at least 1");
  }
  allocate_view(backend, static_cast<int>(tokens.size()), derive_layout(parents).max_depth);
  assign(backend, tokens, parents);
}

DraftTree DraftTree::with_room(Backend& backend, int size, int max_depth) {
  DraftTree tree;
  tree.allocate_view(backend, size, max_depth);
  return tree;
}

void DraftTree::assign(Backend& backend, std::span<const std::int32_t> tokens, std::span<const std::int32_t> parents,
                       std::span<const NodeNote> notes) {
  derive_layout(parents, layout_);
  const TreeLayout& layout = layout_;
  if (static_cast<int>(tokens.size()) > room_size_ || layout.max_depth > room_depth_) {
    throw Error(concat("draft tree: found ", tokens.size(), " nodes and depth ", layout.max_depth,
                       ", expected at most ", room_size_, " and ", room_depth_));
  }
  notes_.assign(notes.begin(), notes.end());
  view_.size = static_cast<int>(tokens.size());
  view_.max_depth = layout.max_depth;
  const std::size_t bytes = tokens.size() * sizeof(std::int32_t);
  backend.upload(view_.tokens, tokens.data(), bytes);
  backend.upload(view_.parents, parents.data(), bytes);
  backend.upload(view_.depth, layout.depth.data(), bytes);
  backend.upload(view_.path, layout.path.data(), layout.path.size() * sizeof(std::int32_t));
}

void DraftTree::restore() {
  view_.size = room_size_;
  view_.max_depth = room_depth_;
  notes_.clear();
}

void DraftTree::allocate_view(Backend& backend, int size, int max_depth) {
  view_memory_ = backend.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(size) *
                                  static_cast<std::size_t>(3 + max_depth + 1));
  Carver carver(view_memory_);
  room_size_ = view_.size = size;
  room_depth_ = view_.max_depth = max_depth;
  view_.tokens = carver.ints(size);
  view_.parents = carver.ints(size);
  view_.depth = carver.ints(size);
  view_.path = carver.ints(std::int64_t{size} * (max_depth + 1));
  const auto nodes = static_cast<std::size_t>(size);
  notes_.reserve(nodes);
  layout_.depth.reserve(nodes);
  layout_.path.reserve(nodes * static_cast<std::size_t>(max_depth + 1));
}

Rows DraftTree::rows(const SequenceView& sequence) const {
  return Rows{view_.size, sequence, 0, view_.depth, view_.path, view_.max_depth + 1, allowed_};
}

Rows DraftTree::frontier_rows(const SequenceView& sequence, int level) const {
  return Rows{pool_.branch, sequence, level * pool_.branch, pool_.frontier_depth, pool_.frontier_path, pool_.levels};
}

}  // namespace frspec

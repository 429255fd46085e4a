// Growing a dynamic tree.
#include "draft/tree_grower.h"

#include "base/error.h"

namespace frspec {
namespace {

const TreeShape& checked(const TreeShape& shape, const DraftHead& head) {
  check_tree_shape(shape);
  if (shape.branch > head.size()) {
    fail("tree shape: branch: found ", shape.branch, ", expected at most ", head.size(),
         ", the rows of the draft head");
  }
  return shape;
}

}  // namespace

TreeGrower::TreeGrower(Backend& backend, const TreeShape& shape, const DraftHead& head)
    : backend_(backend), tree_(backend, checked(shape, head)) {
  const auto bytes = sizeof(float) * static_cast<std::size_t>(shape.branch) * static_cast<std::size_t>(shape.branch);
  child_ids_ = backend.allocate(bytes);
  child_scores_ = backend.allocate(bytes);
}

}  // namespace frspec

#include "draft/drafter.h"

#include "vocab/draft_head.h"

namespace frspec {

TextNews Extension::news() const { return {committed, candidates}; }

std::vector<DraftArm> arms_of(DraftHead& head) {
  std::vector<DraftArm> arms;
  for (const HeadChoice& choice : head.choices()) arms.push_back({choice.name, {}, choice.head});
  if (arms.empty()) arms.push_back({{}, {}, &head});
  return arms;
}

}  // namespace frspec

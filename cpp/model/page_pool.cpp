// Which pages of a cache are taken.
#include "model/page_pool.h"

#include "base/error.h"

namespace frspec {

PagePool::PagePool(int pages) : holders_(static_cast<std::size_t>(pages), 0) {
  for (std::int32_t page = pages - 1; page >= 0; --page) free_.push_back(page);
}

std::int32_t PagePool::take() {
  if (free_.empty()) return kNone;
  const std::int32_t page = free_.back();
  free_.pop_back();
  holders_[static_cast<std::size_t>(page)] = 1;
  return page;
}

void PagePool::hold(std::int32_t page) {
  if (holders(page) == 0) throw Error(concat("page ", page, ": found it free, expected somebody who holds it"));
  ++holders_[static_cast<std::size_t>(page)];
}

void PagePool::release(std::int32_t page) {
  if (holders(page) == 0) throw Error(concat("page ", page, ": found it free, expected somebody who holds it"));
  if (--holders_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
}

}  // namespace frspec

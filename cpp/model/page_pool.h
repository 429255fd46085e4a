// Which pages of a cache are taken, and by how many.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace frspec {

class PagePool {
 public:
  explicit PagePool(int pages);

  int size() const { return static_cast<int>(holders_.size()); }
  int free() const { return static_cast<int>(free_.size()); }
  int holders(std::int32_t page) const { return holders_[static_cast<std::size_t>(page)]; }

  // A free page, which the caller holds from now on; kNone: there is none.
  static constexpr std::int32_t kNone = -1;
  std::int32_t take();
  // The free page that is taken next is the one with this number among them.
  void turn(int number) { std::swap(free_[static_cast<std::size_t>(number)], free_.back()); }
  // One more holder, and one less: a page that nobody holds is free.
  void hold(std::int32_t page);
  void release(std::int32_t page);

 private:
  std::vector<int> holders_;        // (pages)
  std::vector<std::int32_t> free_;  // the next one last
};

}  // namespace frspec

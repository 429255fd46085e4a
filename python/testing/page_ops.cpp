// `_core.PageCache`: which pages hold which tokens, for tests.
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "model/page_pool.h"
#include "model/page_trie.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

using Ints = std::vector<std::int32_t>;

struct PageCache {
  PageCache(int pages, int ahead) : pool(pages), trie(pool, ahead) {}

  std::int32_t take() {
    std::int32_t page = pool.take();
    while (page == PagePool::kNone && trie.evict()) page = pool.take();
    return page;
  }
  std::tuple<Ints, std::int32_t, std::int32_t> match(const Ints& text, std::int32_t most, const std::string& salt,
                                                     bool by_drafter) {
    const PageTrie::Match found = trie.match(salt, text, most, by_drafter);
    return {found.pages, found.partial, found.slots};
  }

  PagePool pool;
  PageTrie trie;
};

}  // namespace

void init_page_ops(nb::module_& m) {
  nb::class_<PageCache>(m, "PageCache", "Pages of a cache and what ended texts have left in them, for tests.")
      .def(nb::init<int, int>(), "pages"_a, "ahead"_a = 0)
      .def("take", &PageCache::take, "A page, held once; -1 where all are held.")
      .def("match", &PageCache::match, "text"_a, "most"_a, "salt"_a = "", "by_drafter"_a = false,
           "Whole pages, one to copy the beginning of (-1: none), and how many slots that makes; all are held.")
      .def(
          "insert",
          [](PageCache& self, const Ints& text, const Ints& pages, std::int32_t slots, std::int32_t drafted,
             const std::string& salt) { self.trie.insert(salt, text, pages, slots, drafted); },
          "text"_a, "pages"_a, "slots"_a, "drafted"_a = 0, "salt"_a = "")
      .def(
          "release", [](PageCache& self, std::int32_t page) { self.pool.release(page); }, "page"_a)
      .def(
          "holders", [](const PageCache& self, std::int32_t page) { return self.pool.holders(page); }, "page"_a)
      .def_prop_ro("free", [](const PageCache& self) { return self.pool.free(); })
      .def_prop_ro("kept", [](const PageCache& self) { return self.trie.pages(); });
}

}  // namespace frspec

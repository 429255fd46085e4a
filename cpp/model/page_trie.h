// What ended texts have left in the pages of a cache: which page holds which tokens, behind which other page.
//
// A node is a page behind its parent's. It is found by a hash of the parent and of the page's tokens, and then all of
// these are compared, so that no collision can give a text the keys of another one. A whole page is shared as it is. Of
// a page that agrees only at its beginning, or that was never full, the beginning can be copied.
//
// Texts of different salts share nothing, and cannot learn from the time they take what others have asked.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/page_pool.h"

namespace frspec {

class PageTrie {
 public:
  // `ahead`: the keys and values of a slot were made from so many tokens behind it, too (EAGLE's pairs: 1). A page
  // agrees with a text only if these do.
  PageTrie(PagePool& pool, int ahead) : pool_(pool), ahead_(static_cast<std::size_t>(ahead)) {}
  PageTrie(const PageTrie&) = delete;
  PageTrie& operator=(const PageTrie&) = delete;
  ~PageTrie() { clear(); }

  // What is there of a text. The caller holds all these pages from now on.
  struct Match {
    std::vector<std::int32_t> pages;         // whole ones: the text's first
    std::int32_t partial = PagePool::kNone;  // one whose first slots are those of the text's next page
    std::int32_t slots = 0;                  // of all of them that are the text's
  };
  // At most `most` slots of it. `by_drafter`: of those that the drafter knows only.
  Match match(std::string_view salt, std::span<const std::int32_t> text, std::int32_t most, bool by_drafter);

  // A text has left its first `slots` slots in `pages`, of which the drafter knows the first `drafted` ones. The trie
  // holds the pages that it did not have; the caller goes on holding all of them, but writes into these slots no more.
  void insert(std::string_view salt, std::span<const std::int32_t> text, std::span<const std::int32_t> pages,
              std::int32_t slots, std::int32_t drafted);

  // Forgets the page that was looked at least lately among those that nobody else holds and that no other page stands
  // behind. False: there is none.
  bool evict();
  void clear();
  int pages() const { return static_cast<int>(nodes_.size()); }

 private:
  struct Node {
    std::uint64_t serial = 0;  // never used twice
    Node* parent = nullptr;
    std::vector<std::int32_t> tokens;  // of the slots, and those ahead
    std::int32_t page = PagePool::kNone;
    std::int32_t slots = 0;
    bool drafted = false;
    std::uint64_t used = 0;  // when
    std::uint64_t hash = 0;
    std::vector<Node*> children = {};
  };

  static std::uint64_t hash_of(const Node& parent, std::span<const std::int32_t> tokens);
  Node* find(const Node& parent, std::span<const std::int32_t> tokens) const;
  Node* add(Node& parent, std::span<const std::int32_t> tokens, std::int32_t page, std::int32_t slots, bool drafted);
  void remove(Node* node);
  void touch(Node& node);
  void forget_beginnings(const Node& of);
  Node& root_of(std::string_view salt);

  PagePool& pool_;
  std::size_t ahead_;
  std::uint64_t serial_ = 0, clock_ = 0;
  std::map<std::string, Node, std::less<>> roots_;                       // by salt; without pages
  std::unordered_multimap<std::uint64_t, std::unique_ptr<Node>> nodes_;  // by hash
  std::set<std::pair<std::uint64_t, Node*>> leaves_;                     // by when they were used
};

}  // namespace frspec

// What ended texts have left in the pages of a cache.
#include "model/page_trie.h"

#include <algorithm>

#include "backend/rows.h"

namespace frspec {
namespace {

constexpr std::size_t kPage = kPageSlots;

std::size_t common_length(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
  return static_cast<std::size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

}  // namespace

void PageTrie::clear() {
  for (const auto& [hash, node] : nodes_) pool_.release(node->page);
  leaves_.clear();
  nodes_.clear();
  roots_.clear();
}

std::uint64_t PageTrie::hash_of(const Node& parent, std::span<const std::int32_t> tokens) {
  std::uint64_t value = parent.serial;
  for (const std::int32_t token : tokens) {
    value = (value ^ static_cast<std::uint32_t>(token)) * 0x9E3779B97F4A7C15u;
    value ^= value >> 29;
  }
  return value;
}

PageTrie::Node* PageTrie::find(const Node& parent, std::span<const std::int32_t> tokens) const {
  const auto [first, last] = nodes_.equal_range(hash_of(parent, tokens));
  for (auto at = first; at != last; ++at) {
    Node* node = at->second.get();
    if (node->parent == &parent && std::ranges::equal(node->tokens, tokens)) return node;
  }
  return nullptr;
}

PageTrie::Node& PageTrie::root_of(std::string_view salt) {
  const auto found = roots_.find(salt);
  if (found != roots_.end()) return found->second;
  Node& root = roots_[std::string(salt)];
  root.serial = ++serial_;
  return root;
}

void PageTrie::touch(Node& node) {
  const bool is_leaf = leaves_.erase({node.used, &node}) > 0;
  node.used = ++clock_;
  if (is_leaf) leaves_.insert({node.used, &node});
}

PageTrie::Match PageTrie::match(std::string_view salt, std::span<const std::int32_t> text, std::int32_t most,
                                bool by_drafter) {
  Match found;
  const auto root = roots_.find(salt);
  if (root == roots_.end()) return found;
  const auto room = std::min(static_cast<std::size_t>(std::max(most, 0)), text.size());
  Node* at = &root->second;
  std::size_t slots = 0;
  while (slots + kPage <= room && slots + kPage + ahead_ <= text.size()) {
    Node* next = find(*at, text.subspan(slots, kPage + ahead_));
    if (next == nullptr || (by_drafter && !next->drafted)) break;
    at = next;
    touch(*at);
    pool_.hold(at->page);
    found.pages.push_back(at->page);
    slots += kPage;
  }
  Node* best = nullptr;
  std::size_t best_slots = 0;
  for (Node* child : at->children) {
    if (by_drafter && !child->drafted) continue;
    const std::size_t common = common_length(child->tokens, text.subspan(slots));
    const std::size_t usable =
        std::min({common - std::min(common, ahead_), static_cast<std::size_t>(child->slots), room - slots});
    if (usable > best_slots) best = child, best_slots = usable;
  }
  if (best != nullptr) {
    touch(*best);
    pool_.hold(best->page);
    found.partial = best->page;
  }
  found.slots = static_cast<std::int32_t>(slots + best_slots);
  return found;
}

PageTrie::Node* PageTrie::add(Node& parent, std::span<const std::int32_t> tokens, std::int32_t page, std::int32_t slots,
                              bool drafted) {
  auto made = std::make_unique<Node>();
  Node* node = made.get();
  node->serial = ++serial_;
  node->parent = &parent;
  node->tokens.assign(tokens.begin(), tokens.end());
  node->page = page;
  node->slots = slots;
  node->drafted = drafted;
  node->used = ++clock_;
  node->hash = hash_of(parent, tokens);
  pool_.hold(page);
  nodes_.emplace(node->hash, std::move(made));
  if (parent.parent != nullptr) leaves_.erase({parent.used, &parent});
  parent.children.push_back(node);
  leaves_.insert({node->used, node});
  return node;
}

void PageTrie::remove(Node* node) {
  Node& parent = *node->parent;
  std::erase(parent.children, node);
  if (parent.children.empty()) {
    if (parent.parent != nullptr) {
      leaves_.insert({parent.used, &parent});
    } else {
      std::erase_if(roots_, [&](const auto& root) { return &root.second == &parent; });
    }
  }
  leaves_.erase({node->used, node});
  pool_.release(node->page);
  const auto [first, last] = nodes_.equal_range(node->hash);
  nodes_.erase(std::find_if(first, last, [node](const auto& known) { return known.second.get() == node; }));
}

// Parts of pages that are the beginning of this one: it has more.
void PageTrie::forget_beginnings(const Node& of) {
  const std::vector<Node*> siblings = of.parent->children;
  for (Node* node : siblings) {
    if (node->tokens.size() < of.tokens.size() && (of.drafted || !node->drafted) && pool_.holders(node->page) == 1 &&
        common_length(node->tokens, of.tokens) == node->tokens.size()) {
      remove(node);
    }
  }
}

void PageTrie::insert(std::string_view salt, std::span<const std::int32_t> text, std::span<const std::int32_t> pages,
                      std::int32_t slots, std::int32_t drafted) {
  if (slots <= 0) return;
  const auto whole = static_cast<std::size_t>(slots);
  Node* at = &root_of(salt);
  for (std::size_t first = 0; first < whole; first += kPage) {
    const std::size_t here = std::min(kPage, whole - first);
    if (first + here + ahead_ > text.size()) break;
    const auto tokens = text.subspan(first, here + ahead_);
    const std::int32_t page = pages[first / kPage];
    const bool knows = first + here <= static_cast<std::size_t>(std::max(drafted, 0));
    if (Node* known = find(*at, tokens); known != nullptr) {
      if (knows && !known->drafted && pool_.holders(known->page) == 1) {  // this page knows more
        pool_.hold(page);
        pool_.release(known->page);
        known->page = page;
        known->drafted = true;
      }
      touch(*known);
      at = known;
      continue;
    }
    if (here < kPage) {
      const auto covers = [&](const Node* child) {
        return (child->drafted || !knows) && common_length(child->tokens, tokens) == tokens.size();
      };
      if (std::ranges::any_of(at->children, covers)) break;
    }
    Node* node = add(*at, tokens, page, static_cast<std::int32_t>(here), knows);
    forget_beginnings(*node);
    at = node;
  }
  // A salt that has left nothing needs no root.
  const auto root = roots_.find(salt);
  if (root->second.children.empty()) roots_.erase(root);
}

bool PageTrie::evict() {
  for (const auto& [used, node] : leaves_) {
    if (pool_.holders(node->page) > 1) continue;
    remove(node);
    return true;
  }
  return false;
}

}  // namespace frspec

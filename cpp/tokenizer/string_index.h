// From a short byte string to a number: the lookup that tokenizing spends its time in.
//
// Keys are not copied: what they point to must outlive the index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace frspec {

// A hash of all bytes; not meant to withstand chosen collisions.
inline std::uint64_t hash_bytes(std::string_view text) {
  constexpr std::uint64_t kMultiplier = 0x9E3779B97F4A7C15ULL;
  const auto load = [](const char* from, std::size_t bytes) {
    std::uint64_t word = 0;
    std::memcpy(&word, from, bytes);
    return word;
  };
  const auto mix = [](std::uint64_t a, std::uint64_t b) {
    a = (a ^ b) * kMultiplier;
    return a ^ (a >> 32);
  };
  const char* at = text.data();
  const std::size_t size = text.size();
  std::uint64_t hash = size * kMultiplier;
  if (size >= 8) {
    for (const char* last = at + size - 8; at < last; at += 8) hash = mix(hash, load(at, 8));
    hash = mix(hash, load(text.data() + size - 8, 8));  // overlaps the words before
  } else if (size >= 4) {
    hash = mix(hash, load(at, 4) | load(at + size - 4, 4) << 32);
  } else if (size > 0) {
    const auto byte = [at](std::size_t i) { return std::uint64_t{static_cast<unsigned char>(at[i])}; };
    hash = mix(hash, byte(0) | byte(size / 2) << 8 | byte(size - 1) << 16);
  }
  hash *= kMultiplier;
  return hash ^ (hash >> 29);
}

class StringIndex {
 public:
  static constexpr std::int32_t kNone = -1;

  explicit StringIndex(std::size_t expected = 0) { resize_slots(expected); }

  // Adds key -> value unless the key is there already; returns the value it has now.
  std::int32_t insert(std::string_view key, std::int32_t value) {
    if (entries_.size() * 2 >= slots_.size()) resize_slots(entries_.size() * 2);
    const std::uint64_t hash = hash_bytes(key);
    Slot& slot = slots_[slot_of(hash, key)];
    if (slot.entry != kNone) return entries_[static_cast<std::size_t>(slot.entry)].value;
    slot = {static_cast<std::uint32_t>(hash >> 32), static_cast<std::int32_t>(entries_.size())};
    entries_.push_back({key, value});
    return value;
  }

  std::int32_t find(std::string_view key) const { return find(key, hash_bytes(key)); }

  // The same, where the hash is known already.
  std::int32_t find(std::string_view key, std::uint64_t hash) const {
    const Slot& slot = slots_[slot_of(hash, key)];
    return slot.entry == kNone ? kNone : entries_[static_cast<std::size_t>(slot.entry)].value;
  }

  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::string_view key;
    std::int32_t value;
  };
  struct Slot {
    std::uint32_t tag = 0;  // upper half of the hash: most other keys are told apart without looking at them
    std::int32_t entry = kNone;
  };

  // The slot that holds `key`, or the free one where it belongs.
  std::size_t slot_of(std::uint64_t hash, std::string_view key) const {
    const auto tag = static_cast<std::uint32_t>(hash >> 32);
    for (std::size_t at = hash & mask_;; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.entry == kNone) return at;
      if (slot.tag == tag && entries_[static_cast<std::size_t>(slot.entry)].key == key) return at;
    }
  }

  void resize_slots(std::size_t expected) {
    std::size_t count = 16;
    while (count < expected * 2 + 2) count *= 2;
    slots_.assign(count, Slot{});
    mask_ = count - 1;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const std::uint64_t hash = hash_bytes(entries_[i].key);
      slots_[slot_of(hash, entries_[i].key)] = {static_cast<std::uint32_t>(hash >> 32), static_cast<std::int32_t>(i)};
    }
  }

  std::vector<Slot> slots_;
  std::vector<Entry> entries_;
  std::size_t mask_ = 0;
};

}  // namespace frspec

// What the files of self tests share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cuda/runtime.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

using Word = std::uint32_t;
using Words = std::vector<Word>;

// Device memory of a test.
class Memory {
 public:
  Memory(Runtime& runtime, std::size_t words) : runtime_(runtime), words_(words) {
    data_ = static_cast<Word*>(runtime.allocate(words * sizeof(Word)));
    runtime.fill_zero(data_, words * sizeof(Word));
  }
  ~Memory() { runtime_.release(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  Word* data() const { return data_; }
  Words read() const {
    Words words(words_);
    runtime_.copy_out(words.data(), data_, words_ * sizeof(Word));
    return words;
  }

 private:
  Runtime& runtime_;
  std::size_t words_;
  Word* data_;
};

// self_test_lists.cu
Words run_lists(std::span<const Word> lists);
Words release_early(std::span<const Word> words);
Words fail_early(std::span<const Word> words);
Words touch_device(std::span<const Word> words);

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE

// The scratch memory of each thread.
#include "tokenizer/word_cache.h"

#include <atomic>
#include <memory>

namespace frspec {

TokenizerScratch& this_threads_scratch() {
  thread_local const std::unique_ptr<TokenizerScratch> scratch = std::make_unique<TokenizerScratch>();
  return *scratch;
}

std::uint32_t new_cache_owner() {
  static std::atomic<std::uint32_t> last{0};
  return ++last;
}

}  // namespace frspec

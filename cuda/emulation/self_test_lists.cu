// Tests of the emulated device itself: the life of command lists and of memory.
#include <algorithm>
#include <memory>
#include <string>

#include "backend/registry.h"
#include "base/error.h"
#include "cuda/command_list.h"
#include "cuda/device/platform.cuh"
#include "cuda/emulation/self_test.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

__global__ void add_to(Word* cell, Word value) {
  if (thread() == 0) *cell += value;
}
__global__ void add_twice(Word* cell, Word value) {
  if (thread() == 0) *cell += 2 * value;
}

}  // namespace

// Each word is a list of four commands: add its four bytes to four cells; one whose lowest byte is above 127 has other
// kernels. Gives the list's counts after each word, and the cells in the end.
Words run_lists(std::span<const Word> lists) {
  const auto runtime = make_runtime(0);
  const Memory cells(*runtime, 4);
  CommandList commands(*runtime);
  Words found;
  for (const Word list : lists) {
    for (int i = 0; i < 4; ++i) {
      commands.launch("add", (list & 0x80) != 0 ? add_twice : add_to, {}, kWarp, 0, cells.data() + i,
                      list >> (8 * i) & 0xFF);
    }
    commands.flush();
    const LaunchCounts& counts = commands.counts();
    for (const std::int64_t count :
         {counts.commands, counts.launches, counts.graph_launches, counts.graphs_made, counts.values_changed}) {
      found.push_back(static_cast<Word>(count));
    }
  }
  const Words sums = cells.read();
  found.insert(found.end(), sums.begin(), sums.end());
  return found;
}

// Memory that is given back while commands that use it wait: they are run before. Gives what another buffer got then.
Words release_early(std::span<const Word> words) {
  const auto backend = make_cuda_emulated_backend({"cuda-emulated", 1}, 0);
  const Buffer kept = backend->allocate(words.size_bytes());
  {
    const Buffer gone = backend->allocate(words.size_bytes());
    backend->upload(gone.as<void>(), words.data(), words.size_bytes());
    backend->upload(kept.as<void>(), words.data(), words.size_bytes());
  }
  const Buffer other = backend->allocate(words.size_bytes());  // perhaps where the other one was
  Words found(words.size());
  backend->download(found.data(), other.as<void>(), words.size_bytes());
  if (std::any_of(found.begin(), found.end(), [](Word w) { return w != 0; })) throw Error("a buffer is not zeroed");
  backend->download(found.data(), kept.as<void>(), words.size_bytes());
  return found;
}

// A command that fails while memory is given back, which cannot throw: the next one to wait is told of it, once.
Words fail_early(std::span<const Word> words) {
  const auto backend = make_cuda_emulated_backend({"cuda-emulated", 1}, 0);
  const Buffer kept = backend->allocate(words.size_bytes());
  Words found(words.size());
  {
    const Buffer gone = backend->allocate(words.size_bytes());
    backend->upload(kept.as<std::byte>() + (1 << 16), words.data(), words.size_bytes());
  }
  std::string message;
  try {
    backend->download(found.data(), kept.as<void>(), words.size_bytes());
  } catch (const Error& error) {
    message = error.what();
  }
  if (message.find("upload") == std::string::npos) throw Error("the failure was lost");
  backend->upload(kept.as<void>(), words.data(), words.size_bytes());
  backend->download(found.data(), kept.as<void>(), words.size_bytes());
  return found;
}

// The host follows a pointer of the device: that ends the process.
Words touch_device(std::span<const Word> words) {
  const auto runtime = make_runtime(0);
  const Memory memory(*runtime, words.size());
  return {*static_cast<volatile Word*>(memory.data())};
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE

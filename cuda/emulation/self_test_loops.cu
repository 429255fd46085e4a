// Tests of loops that the device runs by itself.
#include <memory>

#include "backend/registry.h"
#include "base/error.h"
#include "cuda/device/platform.cuh"
#include "cuda/emulation/self_test.h"
#include "cuda/loop.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

__global__ void count_up(Word* cells, Word step) {
  if (thread() == 0) cells[0] += step;
}
__global__ void make_square(Word* cells) {
  if (thread() == 0) cells[1] = cells[0] * cells[0];
}

enum Operation : Word { kLoop, kLoopOn, kCollect, kEnd, kWait, kForget };

}  // namespace

// Each word is an operation, and 256 times a number: a loop of so many turns; so many more turns; so many turns are
// collected; nobody wants the others; everything is waited for; a loop that was begun is waited in, which is an error.
// The loop counts up by 1. Gives the count and its square of each turn that was collected, and the count in the end.
Words run_loops(std::span<const Word> operations) {
  const auto runtime = make_runtime(0);
  const Memory cells(*runtime, 2);
  CommandList commands(*runtime);
  DeviceLoop loop(*runtime, commands);
  Words found;
  const auto begin = [&] {
    loop.begin();
    loop.note_time(0);
    commands.launch("count_up", count_up, {}, kWarp, 0, cells.data(), Word{1});
    commands.launch("make_square", make_square, {}, kWarp, 0, cells.data());
    loop.note_time(1);
  };
  for (const Word word : operations) {
    const int number = static_cast<int>(word >> 8);
    switch (word & 0xFF) {
      case kLoop:
        begin();
        loop.start(number, cells.data(), 2 * sizeof(Word));
        break;
      case kLoopOn:
        loop.go_on(number);
        break;
      case kCollect:
        for (int i = 0; i < number; ++i) {
          Word record[2];
          loop.collect(record, sizeof record);
          found.insert(found.end(), {record[0], record[1]});
          if (!loop.has_time(1) || loop.seconds_between(0, 1) <= 0.0) throw Error("a turn took no time");
        }
        break;
      case kEnd:
        loop.end();
        break;
      case kWait:
        commands.wait();
        break;
      case kForget:
        begin();
        commands.wait();
        break;
      default:
        throw Error("unknown operation");
    }
  }
  commands.wait();
  found.push_back(cells.read()[0]);
  return found;
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE

// Tests of the emulated device itself (tests/cuda/test_emulation.py): kernels that use its vocabulary as they should,
// and kernels that break one rule each. Only in the emulated build.
#include "cuda/emulation/self_test.h"

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "backend/self_test.h"
#include "base/error.h"
#include "cuda/command_list.h"
#include "cuda/device/block.cuh"
#include "cuda/device/copy_async.cuh"
#include "cuda/device/memory.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/numbers.cuh"
#include "cuda/runtime.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {
namespace {

// --- Right kernels: `in` has `count` words ---

// (3, 32): the value of the lane that the second 32 words name; of lane ^ 5; the low word of a 64-bit shuffle.
__global__ void shuffles(const Word* in, int, Word* out) {
  const auto source = static_cast<int>(in[kWarp + lane()]);
  out[lane()] = shuffle(in[lane()], source);
  out[kWarp + lane()] = shuffle_xor(in[lane()], 5);
  const std::uint64_t both = static_cast<std::uint64_t>(lane()) << 32 | in[lane()];
  const std::uint64_t other = shuffle(both, source);
  out[2 * kWarp + lane()] = static_cast<Word>(other) ^ static_cast<Word>(other >> 32);
}

__global__ void ballots(const Word* in, int, Word* out) { out[lane()] = ballot(in[lane()] != 0); }

// (2, threads): sum (f32) and maximum of all threads' numbers.
__global__ void reduces(const Word* in, int, Word* out) {
  SharedMemory shared;
  auto* scratch = shared.take<float>(warps());
  const float x = bits_to_float(in[thread()]);
  out[thread()] = float_to_bits(block_sum(x, scratch));
  out[threads() + thread()] = float_to_bits(block_max(x, scratch));
}
__global__ void warp_reduces(const Word* in, int, Word* out) {
  out[thread()] = float_to_bits(warp_sum(bits_to_float(in[thread()])));
}

// Every block brings a word; the last one adds them: (sum, blocks that were last, counter afterwards).
__global__ void last_blocks(const Word* in, int, Word* out) {
  SharedMemory shared;
  auto* flag = shared.take<std::int32_t>(1);
  Word* words = out + 8;
  if (thread() == 0) words[block_x()] = in[block_x()];
  auto* arrived = reinterpret_cast<std::int32_t*>(out + 2);
  if (!is_last_block(arrived, grid_x(), flag) || thread() != 0) return;
  for (int b = 0; b < grid_x(); ++b) out[0] += words[b];
  ++out[1];
}

// The words the other way round, through two pieces of shared memory.
__global__ void pieces(const Word* in, int count, Word* out) {
  SharedMemory shared;
  auto* low = shared.take<Word>(count / 2);
  auto* high = shared.take<Word>(count - count / 2);
  for (int i = thread(); i < count; i += threads()) (i < count / 2 ? low[i] : high[i - count / 2]) = in[i];
  block_sync();
  for (int i = thread(); i < count; i += threads()) {
    const int j = count - 1 - i;
    out[i] = j < count / 2 ? low[j] : high[j - count / 2];
  }
}

// D = A B + C: A (16, 16) and B (16, 8) as pairs of 16-bit numbers by row, C and D (16, 8) f32.
template <bool is_bf16>
__global__ void products(const Word* in, int, Word* out) {
  const auto* halves = reinterpret_cast<const std::uint16_t*>(in);
  const int g = lane() / 4, t = lane() % 4;
  const auto a_pair = [&](int row, int column) {
    return pack_halves(halves[row * 16 + column], halves[row * 16 + column + 1]);
  };
  const auto b_pair = [&](int row) { return pack_halves(halves[256 + row * 8 + g], halves[256 + (row + 1) * 8 + g]); };
  const Word a[4] = {a_pair(g, 2 * t), a_pair(g + 8, 2 * t), a_pair(g, 2 * t + 8), a_pair(g + 8, 2 * t + 8)};
  const Word b[2] = {b_pair(2 * t), b_pair(2 * t + 8)};
  const Word* c = in + (256 + 128) / 2;
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = bits_to_float(c[(g + i / 2 * 8) * 8 + 2 * t + i % 2]);
  is_bf16 ? mma_bf16(d, a, b) : mma_f16(d, a, b);
  for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = float_to_bits(d[i]);
}

__global__ void halves_to_floats(const Word* in, int count, Word* out) {
  for (int i = thread(); i < count; i += threads()) {
    out[i] = float_to_bits(half_to_float(static_cast<std::uint16_t>(in[i])));
  }
}
__global__ void floats_to_halves(const Word* in, int count, Word* out) {
  for (int i = thread(); i < count; i += threads()) out[i] = float_to_half(bits_to_float(in[i]));
}
__global__ void floats_to_bf16(const Word* in, int count, Word* out) {
  for (int i = thread(); i < count; i += threads()) out[i] = float_to_bf16(bits_to_float(in[i]));
}
// a, b and c, a third of the words each; a third of the result, each: a b + c, a - b, a b.
__global__ void pairs(const Word* in, int count, Word* out) {
  const int third = count / 3;
  for (int i = thread(); i < third; i += threads()) {
    const Word a = in[i], b = in[third + i], c = in[2 * third + i];
    out[i] = half2_fma(a, b, c);
    out[third + i] = half2_sub(a, b);
    out[2 * third + i] = half2_mul(a, b);
  }
}

// Each lane passes its 16 bytes on in two stages; a group may be on its way while the other one is used.
__global__ void asynchronous_copies(const Word* in, int count, Word* out) {
  SharedMemory shared;
  auto* stages = shared.take<Word>(2 * 4 * kWarp);
  const int rounds = count / (4 * kWarp);
  const auto start = [&](int round) {
    const int at = 4 * (round % 2 * kWarp + lane());
    copy_async_16(stages + at, in + 4 * (round * kWarp + lane()));
    copy_commit();
  };
  start(0);
  for (int round = 0; round < rounds; ++round) {
    if (round + 1 < rounds) {
      start(round + 1);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    block_sync();
    for (int i = lane(); i < 4 * kWarp; i += kWarp) {
      out[round * 4 * kWarp + i] = stages[round % 2 * 4 * kWarp + 4 * kWarp - 1 - i];
    }
    block_sync();
  }
}

// What calling conventions promise: objects with a large alignment stand where they should.
__global__ void aligned_objects(const Word* in, int count, Word* out) {
  struct alignas(64) Line {
    Word words[16];
  };
  volatile Line line = {};
  for (int i = 0; i < std::min(count, 16); ++i) line.words[i] = in[i];
  out[thread()] = reinterpret_cast<std::uintptr_t>(&line) % 64 == 0 ? line.words[0] : 0;
}

// --- Wrong kernels ---

__global__ void read_behind(const Word* in, int count, Word* out) { out[0] = in[count + 15 + thread()]; }
__global__ void read_in_front(const Word* in, int, Word* out) { out[0] = in[-1 - thread()]; }
__global__ void read_far(const Word* in, int, Word* out) { out[0] = in[std::int64_t{1} << 40]; }
__global__ void read_nothing(const Word*, int, Word* out) {
  const Word* volatile nothing = nullptr;
  out[0] = nothing[thread()];
}
__global__ void write_behind(const Word*, int count, Word* out) { out[count] = 1; }
__global__ void write_in_front(const Word*, int, Word* out) { out[-1] = 1; }
// `in` has the index.
__global__ void write_outside_of_pieces(const Word* in, int, Word* out) {
  SharedMemory shared;
  auto* piece = shared.take<Word>(8);
  piece[static_cast<std::int32_t>(in[0])] = 1;
  out[0] = piece[0];
}
__global__ void take_too_much(const Word*, int, Word* out) {
  SharedMemory shared;
  out[0] = shared.take<Word>(64)[0];
}
__global__ void take_differently(const Word*, int, Word* out) {
  SharedMemory shared;
  out[0] = shared.take<Word>(thread() == 9 ? 4 : 8)[0];
}
__global__ void miss_the_barrier(const Word*, int, Word* out) {
  if (thread() != 3) block_sync();
  out[0] = 1;
}
__global__ void end_early(const Word*, int, Word* out) {
  if (thread() == 40) return;
  block_sync();
  out[0] = 1;
}
__global__ void miss_the_warp(const Word* in, int, Word* out) {
  if (lane() < 16) out[lane()] = shuffle(in[lane()], 0);
}
__global__ void mix_collectives(const Word* in, int, Word* out) {
  out[lane()] = lane() < 16 ? shuffle(in[lane()], 0) : ballot(true);
}
__global__ void mix_barriers(const Word*, int, Word* out) {
  if (warp() == 0) {
    block_sync();
  } else {
    out[0] = block_any(true) ? 1 : 0;
  }
}
// Where the copy has been asked for, but not waited for.
__global__ void read_early(const Word* in, int, Word* out) {
  SharedMemory shared;
  auto* piece = shared.take<Word>(4 * kWarp);
  for (int i = 0; i < 4; ++i) piece[4 * lane() + i] = 0;
  copy_async_16(piece + 4 * lane(), in + 4 * lane());
  copy_commit();
  out[lane()] = piece[4 * lane()];
  copy_wait<0>();
}
__global__ void never_wait(const Word* in, int, Word* out) {
  SharedMemory shared;
  auto* piece = shared.take<Word>(4 * kWarp);
  copy_async_16(piece + 4 * lane(), in + 4 * lane());
  copy_commit();
  out[lane()] = 0;
}
__global__ void copy_crookedly(const Word* in, int, Word* out) {
  SharedMemory shared;
  copy_async_16(shared.take<Word>(8), in + 1);
  copy_wait<0>();
  out[0] = 0;
}
__global__ void copy_elsewhere(const Word* in, int, Word* out) {
  SharedMemory shared;
  copy_async_16(shared.take<Word>(8) + 8, in);
  copy_wait<0>();
  out[0] = 0;
}
__global__ void load_crookedly(const Word* in, int, Word* out) {
  SharedMemory shared;
  auto* to = shared.take<Word>(8);
  for (int i = 0; i < 8; ++i) to[i] = in[i];
  out[0] = load_as<Words4>(to + 2).word[0];
}
__global__ void load_tile_crookedly(const Word* in, int, Word* out) {
  SharedMemory shared;
  auto* tile = shared.take<std::uint16_t>(16 * 20);
  for (int i = lane(); i < 16 * 20; i += kWarp) tile[i] = static_cast<std::uint16_t>(in[i % kWarp]);
  warp_sync();
  Word r[4];
  load_tile(r, tile, 20);  // rows are 40 bytes apart
  out[lane()] = r[0];
}
// What nobody has written.
__global__ void read_unwritten(const Word*, int, Word* out) {
  SharedMemory shared;
  out[thread()] = shared.take<Word>(threads())[thread()];
}
// Each warp reads what the next one writes, without a barrier; each lane what the next one writes, in the second half.
__global__ void race(const Word* in, int, Word* out) {
  SharedMemory shared;
  auto* cells = shared.take<Word>(threads());
  cells[thread()] = in[thread()];
  out[thread()] = cells[(thread() + kWarp) % threads()];
  warp_sync();
  out[threads() + thread()] = cells[thread() / kWarp * kWarp + (lane() + 1) % kWarp];
  cells[thread()] = 0;
}
__global__ void throws(const Word*, int, Word*) { throw std::runtime_error("what it says"); }

struct Case {
  const char* name;
  void (*kernel)(const Word*, int, Word*);
  int blocks = 1;
  int threads = kWarp;
  std::size_t shared_bytes = 0;
  int outputs = 0;  // words; 0: as many as there are inputs
};

constexpr Case kCases[] = {
    {"shuffles", shuffles, 1, 32, 0, 96},
    {"ballots", ballots},
    {"reduces", reduces, 1, 256, shared_bytes<float>(8), 512},
    {"warp_reduces", warp_reduces, 1, 64},
    {"last_blocks", last_blocks, 7, 64, shared_bytes<std::int32_t>(1), 16},
    {"pieces", pieces, 1, 64, 4096},
    {"mma_f16", products<false>, 1, 32, 0, 128},
    {"mma_bf16", products<true>, 1, 32, 0, 128},
    {"halves_to_floats", halves_to_floats, 1, 64},
    {"floats_to_halves", floats_to_halves, 1, 64},
    {"floats_to_bf16", floats_to_bf16, 1, 64},
    {"pairs", pairs, 1, 64},
    {"asynchronous_copies", asynchronous_copies, 1, 32, shared_bytes<Word>(256)},
    {"aligned_objects", aligned_objects, 1, 64, 0, 64},
    {"read_behind", read_behind},
    {"read_in_front", read_in_front},
    {"read_far", read_far},
    {"read_nothing", read_nothing},
    {"write_behind", write_behind},
    {"write_in_front", write_in_front},
    {"write_outside_of_pieces", write_outside_of_pieces, 1, 32, shared_bytes<Word>(8)},
    {"take_too_much", take_too_much, 1, 32, 128},
    {"take_differently", take_differently, 1, 32, 128},
    {"miss_the_barrier", miss_the_barrier, 1, 64},
    {"end_early", end_early, 1, 64},
    {"miss_the_warp", miss_the_warp},
    {"mix_collectives", mix_collectives},
    {"mix_barriers", mix_barriers, 1, 64},
    {"read_early", read_early, 1, 32, shared_bytes<Word>(128), 32},
    {"never_wait", never_wait, 1, 32, shared_bytes<Word>(128), 32},
    {"copy_crookedly", copy_crookedly, 1, 32, shared_bytes<Word>(8)},
    {"copy_elsewhere", copy_elsewhere, 1, 32, shared_bytes<Word>(8)},
    {"load_crookedly", load_crookedly, 1, 32, shared_bytes<Word>(8)},
    {"load_tile_crookedly", load_tile_crookedly, 1, 32, shared_bytes<std::uint16_t>(16 * 20)},
    {"read_unwritten", read_unwritten, 1, 32, shared_bytes<Word>(32), 32},
    {"race", race, 1, 256, shared_bytes<Word>(256), 512},
    {"throws", throws},
    {"no_threads", ballots, 1, 0},
    {"half_a_warp", ballots, 1, 48},
};

Words run_case(const Case& wanted, std::span<const Word> words) {
  const auto runtime = make_runtime(0);
  const Memory in(*runtime, words.size());
  const Memory out(*runtime, wanted.outputs > 0 ? static_cast<std::size_t>(wanted.outputs) : words.size());
  runtime->copy_in(in.data(), words.data(), words.size_bytes());
  CommandList commands(*runtime);
  commands.launch(wanted.name, wanted.kernel, {wanted.blocks}, wanted.threads, wanted.shared_bytes, in.data(),
                  static_cast<int>(words.size()), out.data());
  commands.wait();
  return out.read();
}

constexpr std::pair<const char*, Words (*)(std::span<const Word>)> kOthers[] = {
    {"command_lists", run_lists},
    {"release_early", release_early},
    {"fail_early", fail_early},
    {"touch_device", touch_device},
};

}  // namespace
}  // namespace frspec::FRSPEC_CUDA_NAMESPACE

namespace frspec {

std::vector<std::uint32_t> run_cuda_self_test(const std::string& name, std::span<const std::uint32_t> words) {
  using namespace FRSPEC_CUDA_NAMESPACE;
  for (const Case& wanted : kCases) {
    if (name == wanted.name) return run_case(wanted, words);
  }
  for (const auto& [other, function] : kOthers) {
    if (name == other) return function(words);
  }
  fail("self test: found '", name, "', expected one of cuda/emulation/self_test.cu");
}

}  // namespace frspec

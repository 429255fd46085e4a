// What the machine can do at best: plain reading, and multiply-adds that wait for nothing.

namespace {

#ifndef FRSPEC_BASE
std::int32_t read(const std::byte* memory, std::int64_t bytes) {
  Ints digest[4] = {};
  constexpr std::int64_t kAhead = 4096;
  constexpr std::int64_t kStep = 4 * static_cast<std::int64_t>(sizeof(Ints));
  for (std::int64_t at = 0; at + kStep <= bytes; at += kStep) {
    for (std::int64_t line = 0; line < kStep; line += kLine) __builtin_prefetch(memory + at + kAhead + line, 0, 3);
    for (int i = 0; i < 4; ++i) digest[i] |= load_ints(memory + at + i * static_cast<std::int64_t>(sizeof(Ints)));
  }
  const Ints all = digest[0] | digest[1] | digest[2] | digest[3];
  std::int32_t result = 0;
  for (int lane = 0; lane < kLanes; ++lane) result |= all[lane];
  return result;
}
#endif

constexpr int kBurnSums = 12;  // in flight, enough to hide the latency of any of the instructions

template <int kMacsPerLane, class Vector, class Add>
inline double burn_with(std::int64_t rounds, Vector start, Add&& add) {
  Vector sums[kBurnSums];
#pragma GCC unroll 12
  for (int i = 0; i < kBurnSums; ++i) sums[i] = start + static_cast<decltype(start[0] + 0)>(i);  // else all are one
  // Weights come from L1, one line for several sums, as in a product; the compiler cannot know them.
  alignas(kLine) std::byte lines[4 * kLine] = {};
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 4
    for (int step = 0; step < 4; ++step) {
      const Ints w = load_ints(lines + step * kLine);
#pragma GCC unroll 12
      for (int i = 0; i < kBurnSums; ++i) sums[i] = add(sums[i], w, i);
    }
    asm volatile("" : "+m"(lines));
  }
  Vector all = sums[0];
#pragma GCC unroll 12
  for (int i = 1; i < kBurnSums; ++i) all += sums[i];
  asm volatile("" : : "m"(all));
  return static_cast<double>(rounds) * 4 * kBurnSums * kLanes * kMacsPerLane;
}

#if FRSPEC_AMX
// Four sums of tiles in flight, 64 bytes deep.
template <class Dot>
inline double burn_tiles(std::int64_t rounds, std::int64_t macs_per_dot, Dot&& dot) {
  alignas(kLine) static const std::byte zeros[16 * kLine] = {};
  shape_tiles(TileShape::Bf16);
  tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
  tile_load<4>(zeros, kLine), tile_load<5>(zeros, kLine), tile_load<6>(zeros, kLine), tile_load<7>(zeros, kLine);
#if FRSPEC_AMX_EMULATED
  rounds = rounds / 50000 + 1;  // what the ceiling of software is interests nobody
#endif
  for (std::int64_t round = 0; round < rounds; ++round) dot();
  return static_cast<double>(rounds) * 4.0 * static_cast<double>(macs_per_dot);
}
#endif

double burn(Form form, std::int64_t rounds) {
#if FRSPEC_AMX
  if (form == Form::Int8) {
    return burn_tiles(rounds, 16 * 16 * 64, [] {
      tile_dot_bytes<0, 4, 6>(), tile_dot_bytes<1, 4, 7>(), tile_dot_bytes<2, 5, 6>(), tile_dot_bytes<3, 5, 7>();
    });
  }
  if (form == Form::Bf16) {
    return burn_tiles(rounds, 16 * 16 * 32, [] {
      tile_dot_bf16<0, 4, 6>(), tile_dot_bf16<1, 4, 7>(), tile_dot_bf16<2, 5, 6>(), tile_dot_bf16<3, 5, 7>();
    });
  }
#endif
  const Ints x = splat_ints(0x01010101);
  switch (form) {
    case Form::Int8:
#if FRSPEC_PAIRS
      // A product is an instruction of its own here: every sum has its own x, else all sums would share one product.
      Ints own[kBurnSums];
      for (int i = 0; i < kBurnSums; ++i) own[i] = x + i;
      asm volatile("" : "+m"(own));
      return burn_with<4>(rounds, Ints{},
                          [&](Ints sum, Ints w, int i) { return add_pairs(sum, pair_products(w, own[i])); });
#else
      return burn_with<4>(rounds, Ints{}, [&](Ints sum, Ints w, int) { return dot_bytes(sum, w, x); });
#endif
#if FRSPEC_BF16
    case Form::Bf16:
      return burn_with<2>(rounds, Floats{}, [&](Floats sum, Ints w, int) { return dot_bf16(sum, w, x); });
#endif
    default:
      return burn_with<1>(rounds, Floats{},
                          [&](Floats sum, Ints w, int) { return multiply_add(as_floats(w), as_floats(x), sum); });
  }
}

}  // namespace

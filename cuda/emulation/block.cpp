// Running blocks of threads as fibers.
#include "cuda/emulation/block.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <numeric>

#include "base/error.h"

namespace frspec::emulation {
namespace {

constexpr std::size_t kStack = std::size_t{256} << 10;
constexpr int kGuard = 64;  // bytes between two pieces of shared memory, and in front of the first
constexpr int kMostPieces = 62;
constexpr std::size_t kMostShared = std::size_t{227} << 10;
constexpr std::byte kPoison{0xFB};  // as f32 or f16 a huge negative number, as an index one that is out of every range

thread_local Block* t_running = nullptr;

// Which block this thread of the host runs, until it is left in whatever way.
class Running {
 public:
  explicit Running(Block* block) : outer_(t_running) { t_running = block; }
  ~Running() { t_running = outer_; }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  Block* outer_;
};

// Bytes from an allocation of `bytes` shared bytes to its end, guards included.
constexpr std::size_t with_guards(std::size_t bytes) {
  return (bytes + (kMostPieces + 1) * static_cast<std::size_t>(kGuard) + kPage - 1) / kPage * kPage;
}

}  // namespace

Block& current_block() { return *t_running; }
Block* running_block() { return t_running; }

Block::Block() : shared_region_(with_guards(kMostShared)) {
  const char* seed = std::getenv("FRSPEC_CUDA_EMULATION_SEED");
  random_ = 0x9E3779B97F4A7C15u ^ (seed != nullptr ? std::strtoull(seed, nullptr, 10) : 0);
  for (int i = 0; i < 8; ++i) random();  // small seeds differ in few bits
}

std::uint64_t Block::random() {
  if (random_ == 0) random_ = 1;
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return random_;
}

void Block::shuffle(std::vector<int>& order) {
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random() % i]);
}

void Block::run(const char* kernel, GridSize grid, int threads, std::size_t shared_bytes, void (*body)(void*),
                void* context) {
  kernel_ = kernel;
  if (threads < kWarp || threads > kMostThreads || threads % kWarp != 0 || grid.x < 1 || grid.y < 1 || grid.z < 1 ||
      grid.y > 65535 || grid.z > 65535 || shared_bytes > kMostShared) {
    throw Error(concat("emulated CUDA: kernel ", kernel, ": found a launch of ", grid.x, " x ", grid.y, " x ", grid.z,
                       " blocks of ", threads, " threads with ", shared_bytes, " bytes of shared memory"));
  }
  grid_ = grid;
  threads_ = threads;
  shared_bytes_ = shared_bytes;
  body_ = body;
  context_ = context;
  while (fibers_.size() < static_cast<std::size_t>(threads)) fibers_.push_back(std::make_unique<Fiber>(kStack));
  state_.resize(std::max(state_.size(), static_cast<std::size_t>(threads)));
  warps_.resize(static_cast<std::size_t>(threads) / kWarp);
  warp_order_.resize(warps_.size());
  std::iota(warp_order_.begin(), warp_order_.end(), 0);
  shared_used_ = with_guards(shared_bytes);
  shared_ = shared_region_.open(shared_used_);
  block_order_.resize(static_cast<std::size_t>(grid.x) * static_cast<std::size_t>(grid.y) *
                      static_cast<std::size_t>(grid.z));
  std::iota(block_order_.begin(), block_order_.end(), 0);
  shuffle(block_order_);
  failure_.clear();
  const Running running(this);
  for (const int block : block_order_) {
    index_[0] = block % grid.x;
    index_[1] = block / grid.x % grid.y;
    index_[2] = block / grid.x / grid.y;
    run_block();
    if (!failure_.empty()) break;
  }
  permit(shared_, shared_used_);
  if (!failure_.empty()) throw Error(concat("emulated CUDA: kernel ", kernel_, ", ", failure_));
}

std::string Block::place() const {
  const std::string block = concat("block (", index_[0], ", ", index_[1], ", ", index_[2], ")");
  return running_ < 0 ? block + ": " : concat(block, ", thread ", running_, ": ");
}

void Block::run_block() {
  permit(shared_, shared_used_);
  std::fill_n(shared_, shared_used_, kPoison);
  pieces_.clear();
  met_ = 0;
  arrived_ = 0;
  kind_ = Meeting::None;
  for (Warp& w : warps_) {
    w.met = 0;
    w.arrived = 0;
    w.kind = Meeting::None;
  }
  for (int t = 0; t < threads_; ++t) {
    Thread& thread = state_[static_cast<std::size_t>(t)];
    thread.state = Thread::State::Ready;
    thread.copies.clear();
    thread.groups = 0;
    fibers_[static_cast<std::size_t>(t)]->prepare(&Block::thread_main, this);
  }
  for (int done = 0; done < threads_ && failure_.empty();) {
    bool progress = false;
    shuffle(warp_order_);
    for (const int w : warp_order_) run_warp(w, done, progress);
    if (!progress && failure_.empty() && done < threads_) {
      const auto waits = std::find_if(state_.begin(), state_.begin() + threads_, [](const Thread& thread) {
        return thread.state == Thread::State::WaitsForWarp || thread.state == Thread::State::WaitsForBlock;
      });
      running_ = static_cast<int>(waits - state_.begin());
      failure_ = concat(place(), "waits for ", waits->state == Thread::State::WaitsForWarp ? "its warp" : "its block",
                        ", of which some threads have ended or wait elsewhere");
    }
  }
  running_ = -1;
  if (failure_.empty()) check_guards();
}

// Every lane that can runs until it waits again, in an order that is no order of the lanes.
void Block::run_warp(int w, int& done, bool& progress) {
  const std::uint64_t order = random();
  const auto first = static_cast<int>(order >> 8 & (kWarp - 1)), step = static_cast<int>(order >> 16 & (kWarp - 1)) | 1;
  for (int i = 0; i < kWarp && failure_.empty(); ++i) {
    const int t = w * kWarp + ((first + i * step) & (kWarp - 1));
    Thread& thread = state_[static_cast<std::size_t>(t)];
    if (!can_run(thread, warps_[static_cast<std::size_t>(w)])) continue;
    thread.state = Thread::State::Ready;
    progress = true;
    running_ = t;
    Fiber& fiber = *fibers_[static_cast<std::size_t>(t)];
    fiber.resume();
    if (!failure_.empty() || !fiber.finished()) continue;
    thread.state = Thread::State::Done;
    ++done;
    if (!thread.copies.empty()) failure_ = place() + "ends with asynchronous copies that nobody waited for";
  }
}

// What lies around the pieces of shared memory must be as it was.
void Block::check_guards() {
  permit(shared_, shared_used_);
  const std::byte* at = shared_;
  std::size_t guard = kGuard;
  for (std::size_t piece = 0;; ++piece) {
    if (piece == pieces_.size()) guard = static_cast<std::size_t>(shared_ + shared_used_ - at);
    if (!are_all(at, guard, kPoison)) {
      failure_ = concat(place(), "wrote outside of its shared memory, ",
                        piece == pieces_.size() ? "behind everything" : concat("in front of piece ", piece));
      return;
    }
    if (piece == pieces_.size()) return;
    at += guard + static_cast<std::size_t>(pieces_[piece]);
    guard = kGuard;
  }
}

void Block::thread_main(void* block) {
  auto* self = static_cast<Block*>(block);
  try {
    self->body_(self->context_);
  } catch (const std::exception& error) {
    self->failure_ = self->place() + "throws: " + error.what();
  } catch (...) {
    self->failure_ = self->place() + "throws";
  }
}

bool Block::can_run(const Thread& thread, const Warp& warp) const {
  switch (thread.state) {
    case Thread::State::Ready:
      return true;
    case Thread::State::WaitsForWarp:
      return warp.met != thread.met;
    case Thread::State::WaitsForBlock:
      return met_ != thread.met;
    case Thread::State::Done:
      break;
  }
  return false;
}

void Block::give_up(const std::string& what) {
  if (failure_.empty()) failure_ = place() + what;
  for (;;) fibers_[static_cast<std::size_t>(running_)]->pause();
}

Block::Slot& Block::slot() {
  Warp& warp = warps_[static_cast<std::size_t>(running_ / kWarp)];
  return warp.slots[warp.met & 1][running_ % kWarp];
}

Block::Warp& Block::arrive(Meeting kind) {
  Warp& warp = warps_[static_cast<std::size_t>(running_ / kWarp)];
  if (warp.arrived > 0 && warp.kind != kind) give_up("meets its warp in another operation than the lanes before it");
  warp.kind = kind;
  ++warp.arrived;
  return warp;
}

void Block::wait_for(const Warp& warp) {
  Thread& thread = state_[static_cast<std::size_t>(running_)];
  thread.met = warp.met;
  thread.state = Thread::State::WaitsForWarp;
  fibers_[static_cast<std::size_t>(running_)]->pause();
}

bool Block::meet_block(Meeting kind, bool predicate) {
  if (arrived_ > 0 && kind_ != kind) give_up("meets its block in another barrier than the threads before it");
  kind_ = kind;
  any_ = (arrived_ > 0 && any_) || predicate;
  if (++arrived_ == threads_) {
    arrived_ = 0;
    said_ = any_;
    ++met_;
    return said_;
  }
  Thread& thread = state_[static_cast<std::size_t>(running_)];
  thread.met = met_;
  thread.state = Thread::State::WaitsForBlock;
  fibers_[static_cast<std::size_t>(running_)]->pause();
  // No thread can have met again before this one has.
  return said_;
}

unsigned Block::ballot(bool predicate) {
  slot().in[0] = predicate ? 1 : 0;
  const Slot* slots = meet_warp(Meeting::Ballot, [](Slot* all) {
    for (unsigned l = 1; l < kWarp; ++l) all[0].in[0] |= all[l].in[0] << l;
  });
  return slots[0].in[0];
}

void Block::mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Half type) {
  Slot& mine = slot();
  const int lane = running_ % kWarp;
  std::copy_n(a, 4, mine.in);
  std::copy_n(b, 2, mine.in + 4);
  std::copy_n(d, 4, mine.out);
  const Slot* slots =
      meet_warp(type == Half::F16 ? Meeting::MmaF16 : Meeting::MmaBf16, [type](Slot* all) { multiply(all, type); });
  std::copy_n(slots[lane].out, 4, d);
}

// The k of an element of D are added in ascending order to what D was, each product and sum in double, rounded to f32
// in the end: hardware keeps a few bits beyond f32, too, and no two generations the same.
void Block::multiply(Slot* slots, Half type) {
  constexpr int kRows = 16, kCols = 8, kDepth = 16;
  double a[kRows][kDepth], b[kDepth][kCols], d[kRows][kCols];
  const auto value = [type](std::uint32_t word, int half) {
    const auto bits = static_cast<std::uint16_t>(word >> (16 * half));
    return static_cast<double>(type == Half::F16 ? half_to_float(bits)
                                                 : std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16));
  };
  for (int l = 0; l < kWarp; ++l) {
    const int g = l / 4, t = l % 4;
    const Slot& slot = slots[l];
    for (int half = 0; half < 2; ++half) {
      const int k = 2 * t + half;
      a[g][k] = value(slot.in[0], half);
      a[g + 8][k] = value(slot.in[1], half);
      a[g][k + 8] = value(slot.in[2], half);
      a[g + 8][k + 8] = value(slot.in[3], half);
      b[k][g] = value(slot.in[4], half);
      b[k + 8][g] = value(slot.in[5], half);
      d[g][k] = static_cast<double>(slot.out[half]);
      d[g + 8][k] = static_cast<double>(slot.out[2 + half]);
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int col = 0; col < kCols; ++col) d[row][col] += a[row][k] * b[k][col];
    }
  }
  for (int l = 0; l < kWarp; ++l) {
    const int g = l / 4, t = l % 4;
    for (int half = 0; half < 2; ++half) {
      slots[l].out[half] = static_cast<float>(d[g][2 * t + half]);
      slots[l].out[2 + half] = static_cast<float>(d[g + 8][2 * t + half]);
    }
  }
}

void* Block::shared(int offset, int bytes) {
  // The first thread that comes makes the piece; the others find it by its place in the order.
  int start = 0;
  std::size_t piece = 0;
  for (; piece < pieces_.size() && start < offset; ++piece) start += pieces_[piece];
  if (start != offset || bytes < 0 || (piece < pieces_.size() && pieces_[piece] != bytes)) {
    give_up("takes other pieces of shared memory than the threads before it");
  }
  std::byte* at = shared_ + static_cast<std::size_t>(offset) + (piece + 1) * kGuard;
  if (piece == pieces_.size()) {
    if (static_cast<std::size_t>(offset + bytes) > shared_bytes_) {
      give_up(concat("takes ", offset + bytes, " bytes of shared memory, but the launch stated ", shared_bytes_));
    }
    if (piece == kMostPieces) give_up(concat("takes more than ", kMostPieces, " pieces of shared memory"));
    pieces_.push_back(bytes);
    forbid(at - kGuard, kGuard);
    forbid(at + bytes, kGuard);
  }
  return at;
}

void Block::copy_async(void* to, const void* from) {
  if (reinterpret_cast<std::uintptr_t>(to) % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0) {
    give_up("copies 16 bytes from or to an address that is not a multiple of 16");
  }
  bool is_shared = false;
  const std::byte* start = shared_ + kGuard;
  for (const int bytes : pieces_) {
    is_shared |= to >= start && static_cast<std::byte*>(to) + sizeof PendingCopy::bytes <= start + bytes;
    start += bytes + kGuard;
  }
  if (!is_shared) give_up("copies asynchronously to what is no piece of its shared memory");
  Thread& thread = state_[static_cast<std::size_t>(running_)];
  PendingCopy copy{to, {}, thread.groups};
  std::memcpy(copy.bytes, from, sizeof copy.bytes);
  std::memset(to, std::to_integer<int>(kPoison), sizeof copy.bytes);  // from now on nobody may read there
  thread.copies.push_back(copy);
}

void Block::copy_commit() { ++state_[static_cast<std::size_t>(running_)].groups; }

void Block::copy_wait(int pending) {
  Thread& thread = state_[static_cast<std::size_t>(running_)];
  const int arrived = thread.groups - pending;
  std::erase_if(thread.copies, [arrived](const PendingCopy& copy) {
    if (copy.group >= arrived) return false;
    std::memcpy(copy.to, copy.bytes, sizeof copy.bytes);
    return true;
  });
}

void Block::report_alignment(const void* at, std::size_t bytes) {
  give_up(concat("touches ", bytes, " bytes at once at ", at, ", which is not a multiple of them"));
}

void Block::report_fault(const void* address, const std::string& what) {
  give_up(concat("touched ", address, ", ", what));
}

}  // namespace frspec::emulation

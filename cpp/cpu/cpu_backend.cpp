#include "cpu/cpu_backend.h"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>
#include <unistd.h>

#include "backend/registry.h"
#include "base/error.h"
#include "cpu/packing.h"
#include "tensor/dequantize.h"

namespace frspec {

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options) {
  return std::make_unique<cpu::CpuBackend>(cpu::choose_kernels(), options.threads);
}

namespace cpu {
namespace {

constexpr std::size_t kAlignment = kLine;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

struct Memory {
  void* address;
  std::size_t bytes;  // as mapped
};

// Zeroed memory whose pages exist only once they are touched. Large pieces ask for `large` pages: a pass reads all of
// a model, and page tables are part of that traffic. K/V caches do not: a short text touches a little of each layer's,
// and would wait until the system has zeroed 2 MiB for it.
Memory map_memory(std::size_t bytes, bool large) {
  const std::size_t whole = (bytes + kAlignment + kHugePage - 1) / kHugePage * kHugePage;
  void* address = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) return {nullptr, 0};
#ifdef MADV_HUGEPAGE
  madvise(address, whole, large ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);  // a wish: without it all works, a little slower
#endif
  return {address, whole};
}

// Whatever a weight may be has a panel: its own, or that of the form to which it is brought.
#define CHECK(name) \
  static_assert(elements_per_line(panel_type(DType::name)) > 0 || panel_format(panel_type(DType::name)).bits > 0);
FRSPEC_WEIGHT_TYPES(CHECK)
#undef CHECK

// A row of a file in the form in which its type is packed, perhaps in `room`.
const std::byte* to_panel_type(DType type, const std::byte* row, std::int64_t cols, std::vector<std::byte>& room) {
  if (panel_type(type) == type) return row;
  room.resize(row_bytes(panel_type(type), static_cast<std::size_t>(cols)));
  code_row(type, row, room.data(), cols);
  return room.data();
}

}  // namespace

CpuWeight::CpuWeight(const WeightSource& source, std::int64_t rows, Buffer memory)
    : Weight(source.type, panel_type(source.type), rows, source.cols, source.logit_rule),
      memory_(std::move(memory)),
      panels_(memory_.as<std::byte>()),
      panel_bytes_(cpu::panel_bytes(kept_type(), source.cols)) {}

CpuWeight::CpuWeight(const WeightSource& source)
    : Weight(source.type, source.rows, source.cols, source.logit_rule), owner_(source.owner), table_(source.data) {}

void CpuWeight::dequantize(std::int64_t r, float* out) const {
  const std::size_t bytes = row_bytes(kept_type(), static_cast<std::size_t>(cols()));
  if (table_ != nullptr) {
    dequantize_row(type(), table_ + static_cast<std::size_t>(r) * bytes, out, cols());
    return;
  }
  thread_local std::vector<std::byte> row;  // grows on its first use
  row.resize(bytes);
  const std::int64_t index = r / kPanel;
  unpack_row(kept_type(), pair(index / kPair * kPair), place_of(index, panels()), static_cast<int>(r % kPanel),
             row.data(), cols());
  dequantize_row(kept_type(), row.data(), out, cols());
}

void CpuWeight::replace(std::int64_t r, const std::byte* row) {
  thread_local std::vector<std::byte> room;  // grows on its first use
  const std::int64_t index = r / kPanel;
  std::byte* pair = memory_.as<std::byte>() + index / kPair * kPair * panel_bytes_;
  pack_row(kept_type(), pair, place_of(index, panels()), static_cast<int>(r % kPanel),
           to_panel_type(type(), row, cols(), room), cols());
}

CpuBackend::CpuBackend(const Kernels& kernels, int threads)
    : Backend(Capabilities{}),
      kernels_(kernels),
      pool_(threads),
      product_scratch_(static_cast<std::size_t>(pool_.size())),
      row_scratch_(static_cast<std::size_t>(pool_.size())),
      selection_(static_cast<std::size_t>(pool_.size())),
      row_chains_(static_cast<std::size_t>(pool_.size())),
      allocated_(std::make_shared<std::atomic<std::size_t>>(0)) {}

std::string CpuBackend::description() const {
  return concat("cpu (", kernels_.name, ", ", pool_.size(), pool_.size() == 1 ? " thread)" : " threads)");
}

std::byte* CpuBackend::Scratch::bytes(std::size_t count) {
  if (memory_.size() < count + kAlignment) memory_.resize(count + kAlignment);
  const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
  return memory_.data() + ((kAlignment - address % kAlignment) % kAlignment);
}

Buffer CpuBackend::allocate(std::size_t bytes) { return allocate(bytes, true); }

Buffer CpuBackend::allocate_kv(const KvShape& shape) { return allocate(kv_bytes(shape), false); }

Buffer CpuBackend::allocate(std::size_t bytes, bool large_pages) {
  // Fresh pages cost nothing until they are touched, so an absurd size must fail here, by what the machine has.
  const auto physical =
      static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t before = allocated_->load();
  const auto out_of_memory = [&]() -> OutOfMemory {
    return OutOfMemory(
        concat("cannot allocate ", bytes, " bytes beside ", before, " in use: this machine has ", physical));
  };
  if (bytes > physical || before > physical - bytes) throw out_of_memory();
  if (bytes >= kHugePage) {
    const Memory memory = map_memory(bytes, large_pages);
    if (memory.address == nullptr) throw out_of_memory();
    allocated_->fetch_add(bytes);
    return Buffer(memory.address, bytes, [memory, bytes, allocated = allocated_](void*) {
      munmap(memory.address, memory.bytes);
      allocated->fetch_sub(bytes);
    });
  }
  void* memory = std::calloc(bytes + kAlignment, 1);
  if (memory == nullptr) throw out_of_memory();
  allocated_->fetch_add(bytes);
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  void* aligned = reinterpret_cast<void*>((address + kAlignment - 1) / kAlignment * kAlignment);
  return Buffer(aligned, bytes, [memory, bytes, allocated = allocated_](void*) {
    std::free(memory);
    allocated->fetch_sub(bytes);
  });
}

void CpuBackend::upload(void* to, const void* from_host, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from_host, bytes);
}

void CpuBackend::download(void* to_host, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to_host, from, bytes);
}

void CpuBackend::post(int slot, const void* from, std::size_t bytes) {
  const auto* begin = static_cast<const std::byte*>(from);
  posts_[static_cast<std::size_t>(slot)].assign(begin, begin + bytes);
}

void CpuBackend::collect(int slot, void* to_host, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to_host, posts_[static_cast<std::size_t>(slot)].data(), bytes);
}

// Rows `order` (null: all, in order) of a source as panels. Workers pack what they will multiply: the pages of a panel
// then lie near its worker where memory is not uniform.
std::unique_ptr<Weight> CpuBackend::pack(const WeightSource& source, std::int64_t rows, const std::int32_t* order) {
  check_weight_type(source);
  const auto bytes = static_cast<std::int64_t>(row_bytes(source.type, static_cast<std::size_t>(source.cols)));
  const DType type = panel_type(source.type);
  const std::int64_t panels = (rows + kPanel - 1) / kPanel, panel_size = panel_bytes(type, source.cols);
  Buffer memory = allocate(static_cast<std::size_t>(panels * panel_size));
  auto* packed = memory.as<std::byte>();
  pool_.parallel_for(panels, kPair, [&](std::int64_t begin, std::int64_t end, int) {
    std::array<std::vector<std::byte>, kPanel> rooms;
    for (std::int64_t panel = begin; panel < end; ++panel) {
      std::array<const std::byte*, kPanel> lanes{};
      for (std::int64_t lane = 0; lane < kPanel && panel * kPanel + lane < rows; ++lane) {
        const std::int64_t r = order != nullptr ? order[panel * kPanel + lane] : panel * kPanel + lane;
        check_finite_row(source, r);
        const auto at = static_cast<std::size_t>(lane);
        lanes[at] = to_panel_type(source.type, source.data + r * bytes, source.cols, rooms[at]);
      }
      pack_panel(type, packed + panel / kPair * kPair * panel_size, place_of(panel, panels), lanes, source.cols);
    }
  });
  return std::make_unique<CpuWeight>(source, rows, std::move(memory));
}

std::unique_ptr<Weight> CpuBackend::load(const WeightSource& source) { return pack(source, source.rows, nullptr); }

std::unique_ptr<Weight> CpuBackend::load_experts(std::span<const WeightSource> sources) {
  std::vector<std::unique_ptr<Weight>> experts;
  for (const WeightSource& source : sources) experts.push_back(load(source));
  return std::make_unique<CpuExperts>(std::move(experts));
}

std::size_t CpuBackend::weight_bytes(const WeightSource& source, std::int64_t rows, bool is_table) const {
  if (is_table) return 0;
  return static_cast<std::size_t>((rows + kPanel - 1) / kPanel * panel_bytes(panel_type(source.type), source.cols));
}

std::unique_ptr<Weight> CpuBackend::load_rows(const WeightSource& source, std::span<const std::int32_t> rows) {
  return pack(source, static_cast<std::int64_t>(rows.size()), rows.data());
}

void CpuBackend::replace_rows(Weight& weight, const WeightSource& source, std::span<const std::int32_t> places,
                              std::span<const std::int32_t> rows) {
  const std::size_t bytes = row_bytes(source.type, static_cast<std::size_t>(source.cols));
  for (std::size_t i = 0; i < places.size(); ++i) {
    check_finite_row(source, rows[i]);
    static_cast<CpuWeight&>(weight).replace(places[i], source.data + static_cast<std::size_t>(rows[i]) * bytes);
  }
}

std::unique_ptr<Weight> CpuBackend::load_table(const WeightSource& source) {
  check_weight_type(source);
  pool_.parallel_for(source.rows, 256, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) check_finite_row(source, r);
  });
  return std::make_unique<CpuWeight>(source);
}

void CpuBackend::dequantize(float* to_host, const WeightSource& source, std::int64_t row) {
  check_weight_type(source);
  const std::size_t bytes = row_bytes(source.type, static_cast<std::size_t>(source.cols));
  dequantize_row(source.type, source.data + static_cast<std::size_t>(row) * bytes, to_host, source.cols);
}

}  // namespace cpu
}  // namespace frspec

// CUDA backend: weights.
//
// Rows come to the device as the file has them, or coded (formats/all.cuh), some MB at a time, and are packed there.
// Memory access of `pack_rows`: a thread reads 16 quants of a row (scattered bytes of one block, which its neighbours
// read, too: L1) and writes them as two to eight words; done once for each weight. Of `embed_*`: a block for each row,
// a thread for each column, so a warp reads one block of 32 quants and writes 128 contiguous bytes; a row is a few KB.
#include "cuda/weight.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "cuda/cuda_backend.h"
#include "cuda/formats/all.cuh"
#include "cuda/matmul.h"
#include "tensor/coded.h"
#include "tensor/dequantize.h"

namespace frspec::FRSPEC_CUDA_NAMESPACE {

namespace {

constexpr std::size_t kStaging = std::size_t{16} << 20;  // bytes of rows that are packed by one launch
constexpr int kThreads = 256;

struct RowsToPack {
  const std::byte* raw;  // (count, raw_bytes)
  std::int64_t raw_bytes;
  const std::int32_t* places;  // (count); null: from `first` on
  std::int64_t first;
  std::int64_t count;
  std::int64_t cols;
  std::byte* to;
  int tiles;  // of a strip
};

// A thread for each row, 64 columns and t of a lane.
template <class Format>
__global__ void pack_rows(RowsToPack rows) {
  constexpr int kChunks = Format::kTileCols / kChunk;
  const std::int64_t units = std::int64_t{rows.tiles} * kChunks * 4;
  const std::int64_t index = std::int64_t{block_x()} * threads() + thread();
  if (index >= rows.count * units) return;
  const std::int64_t r = index / units;
  const int unit = static_cast<int>(index % units);
  const int t = unit % 4, chunk = unit / 4 % kChunks, tile_number = unit / 4 / kChunks;
  const std::byte* raw = rows.raw + r * rows.raw_bytes;
  const std::int64_t place = rows.places != nullptr ? rows.places[r] : rows.first + r;
  std::byte* tile = rows.to + (place / kStrip * rows.tiles + tile_number) * Format::kTileBytes;
  const int row = static_cast<int>(place % kStrip);
  const std::int64_t first = std::int64_t{tile_number} * Format::kTileCols;
  ChunkQuants quants;
  for (int b = 0; b < 2; ++b) {
    for (int i = 0; i < 4; ++i) {
      for (int e = 0; e < 2; ++e) {
        const std::int64_t col = first + kChunk * chunk + chunk_column(b, i, e, t);
        quants[8 * b + 2 * i + e] =
            col < rows.cols ? static_cast<std::uint16_t>(Format::quant(raw, col)) : std::uint16_t{0};
      }
    }
  }
  Format::store_quants(tile, row, chunk, t, quants);
  if (t == 0 && chunk == 0) Format::store_scales(tile, row, raw, first, rows.cols);
}

template <class Format>
__global__ void embed_packed(Tensor out, const std::byte* weight, int tiles, const std::int32_t* ids, float scale) {
  const std::int64_t id = ids[block_x()];
  const std::byte* strip = weight + id / kStrip * tiles * Format::kTileBytes;
  float* to = out.row(block_x());
  for (std::int64_t col = thread(); col < out.cols; col += threads()) {
    to[col] = scale * Format::element(strip + col / Format::kTileCols * Format::kTileBytes,
                                      static_cast<int>(id % kStrip), static_cast<int>(col % Format::kTileCols));
  }
}

template <class Format>
__global__ void embed_rows(Tensor out, const std::byte* table, std::int64_t row_size, const std::int32_t* ids,
                           float scale) {
  const std::byte* row = table + ids[block_x()] * row_size;
  float* to = out.row(block_x());
  for (std::int64_t col = thread(); col < out.cols; col += threads()) to[col] = scale * Format::value(row, col);
}

std::size_t bytes_of_row(const WeightSource& source) {
  return row_bytes(source.type, static_cast<std::size_t>(source.cols));
}
std::size_t device_bytes_of_row(const WeightSource& source) {
  return row_bytes(device_type(source.type), static_cast<std::size_t>(source.cols));
}

struct WeightSize {
  int tiles = 0;  // of a strip; 0: not packed
  std::size_t bytes = 0;
};

WeightSize size_of(const WeightSource& source, std::int64_t rows, bool packed) {
  if (!packed || source.type == DType::F32) return {0, static_cast<std::size_t>(rows) * device_bytes_of_row(source)};
  const MatmulKernels& kernels = matmul_kernels(device_type(source.type));
  const auto tiles = static_cast<int>((source.cols + kernels.tile_cols - 1) / kernels.tile_cols);
  const auto strips = static_cast<std::size_t>((rows + kStrip - 1) / kStrip);
  return {tiles, strips * static_cast<std::size_t>(tiles) * kernels.tile_bytes};
}

}  // namespace

// The one place where memory for weights comes from.
Buffer CudaBackend::weight_memory(std::size_t bytes, bool on_host) {
  if (!on_host) return allocate(bytes);
  device_->release_unused();
  void* memory = device_->runtime->allocate_pinned(bytes);
  std::memset(memory, 0, bytes);
  return device_->own(memory, bytes, true, device_);
}

std::size_t CudaBackend::weight_bytes(const WeightSource& source, std::int64_t rows, bool is_table) const {
  return source.on_host ? 0 : size_of(source, rows, !is_table).bytes;
}

// Throws where one of the rows (null: all from `first` on) holds a value that is not finite.
void CudaBackend::check_rows(const WeightSource& source, const std::int32_t* rows, std::int64_t first,
                             std::int64_t count) {
  const std::size_t bytes = bytes_of_row(source);
  const auto grain = static_cast<std::int64_t>((std::size_t{64} << 10) / bytes + 1);
  pool_.parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      check_finite_row(source, rows != nullptr ? rows[i] : first + i);
    }
  });
}

// Rows (null: all from `first` on) as the device wants them, one after the other: in the source, or in `room`.
const std::byte* CudaBackend::device_rows(const WeightSource& source, const std::int32_t* rows, std::int64_t first,
                                          std::int64_t count, std::vector<std::byte>& room) {
  const std::size_t from_bytes = bytes_of_row(source), to_bytes = device_bytes_of_row(source);
  const bool is_coded = device_type(source.type) != source.type;
  if (rows == nullptr && !is_coded) return source.data + static_cast<std::size_t>(first) * from_bytes;
  room.resize(static_cast<std::size_t>(count) * to_bytes);
  pool_.parallel_for(count, 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::byte* from =
          source.data + static_cast<std::size_t>(rows != nullptr ? rows[i] : first + i) * from_bytes;
      std::byte* to = room.data() + static_cast<std::size_t>(i) * to_bytes;
      if (is_coded) {
        code_row(source.type, from, to, source.cols);
      } else {
        std::memcpy(to, from, to_bytes);
      }
    }
  });
  return room.data();
}

// Writes rows of a source into a weight: rows[i] (null: row first + i) to places[i] on the host (null: first + i).
void CudaBackend::store_rows(const CudaWeight& weight, const WeightSource& source, const std::int32_t* rows,
                             const std::int32_t* places, std::int64_t first, std::int64_t count) {
  check_rows(source, rows, first, count);
  const std::size_t bytes = device_bytes_of_row(source);
  std::vector<std::byte> room;
  const std::byte* from = device_rows(source, rows, first, count, room);
  if (!weight.is_packed()) {
    for (std::int64_t i = 0; i < count; i += places != nullptr ? 1 : count) {
      const std::int64_t place = places != nullptr ? places[i] : first + i;
      upload(weight.data() + static_cast<std::size_t>(place) * bytes, from + static_cast<std::size_t>(i) * bytes,
             (places != nullptr ? 1 : static_cast<std::size_t>(count)) * bytes);
    }
    return;
  }
  auto* raw = staging_.take<std::byte>(static_cast<std::size_t>(count) * bytes);
  upload(raw, from, static_cast<std::size_t>(count) * bytes);
  RowsToPack job{raw,           static_cast<std::int64_t>(bytes), nullptr, first, count, weight.cols(), weight.data(),
                 weight.tiles()};
  if (places != nullptr) {
    auto* list = places_.take<std::int32_t>(static_cast<std::size_t>(count));
    upload(list, places, static_cast<std::size_t>(count) * sizeof *list);
    job.places = list;
  }
  with_packed_format(weight.kept_type(), [&]<class Format>(Chosen<Format>) {
    const std::int64_t units = count * job.tiles * (Format::kTileCols / kChunk) * 4;
    launch("pack_rows", pack_rows<Format>, {static_cast<int>((units + kThreads - 1) / kThreads)}, kThreads, 0, job);
  });
}

// `count` rows of a source, `rows` (null: all in order), as a weight.
std::unique_ptr<Weight> CudaBackend::make_weight(const WeightSource& source, bool packed, std::int64_t count,
                                                 const std::int32_t* rows) {
  check_weight_type(source);
  const std::size_t bytes = device_bytes_of_row(source);
  const WeightSize size = size_of(source, count, packed);
  auto weight = std::make_unique<CudaWeight>(source, device_type(source.type), count, size.tiles,
                                             weight_memory(size.bytes, source.on_host));
  const auto batch = static_cast<std::int64_t>(std::max<std::size_t>(1, kStaging / std::max<std::size_t>(1, bytes)));
  for (std::int64_t done = 0; done < count; done += batch) {
    const std::int64_t some = std::min(batch, count - done);
    if (rows == nullptr) {
      store_rows(*weight, source, nullptr, nullptr, done, some);
    } else {
      std::vector<std::int32_t> places(static_cast<std::size_t>(some));
      for (std::size_t i = 0; i < places.size(); ++i) {
        places[i] = static_cast<std::int32_t>(done + static_cast<std::int64_t>(i));
      }
      store_rows(*weight, source, rows + done, places.data(), 0, some);
    }
  }
  return weight;
}

std::unique_ptr<Weight> CudaBackend::load(const WeightSource& source) {
  return make_weight(source, true, source.rows, nullptr);
}

std::unique_ptr<Weight> CudaBackend::load_table(const WeightSource& source) {
  return make_weight(source, false, source.rows, nullptr);
}

std::unique_ptr<Weight> CudaBackend::load_rows(const WeightSource& source, std::span<const std::int32_t> rows) {
  return make_weight(source, true, static_cast<std::int64_t>(rows.size()), rows.data());
}

void CudaBackend::replace_rows(Weight& weight, const WeightSource& source, std::span<const std::int32_t> places,
                               std::span<const std::int32_t> rows) {
  if (places.empty()) return;
  store_rows(static_cast<const CudaWeight&>(weight), source, rows.data(), places.data(), 0,
             static_cast<std::int64_t>(places.size()));
}

void CudaBackend::dequantize(float* to_host, const WeightSource& source, std::int64_t row) {
  check_weight_type(source);
  dequantize_row(source.type, source.data + static_cast<std::size_t>(row) * bytes_of_row(source), to_host, source.cols);
}

void CudaBackend::embed(Tensor out, const Weight& table, const std::int32_t* ids, float scale) {
  if (out.rows == 0) return;
  const auto& weight = static_cast<const CudaWeight&>(table);
  const Grid grid{static_cast<int>(out.rows)};
  const int threads = static_cast<int>(std::clamp<std::int64_t>((out.cols + 31) / 32 * 32, 32, kThreads));
  if (weight.is_packed()) {
    with_packed_format(weight.kept_type(), [&]<class Format>(Chosen<Format>) {
      launch("embed", embed_packed<Format>, grid, threads, 0, out, weight.data(), weight.tiles(), ids, scale);
    });
    return;
  }
  const auto bytes = static_cast<std::int64_t>(row_bytes(weight.kept_type(), static_cast<std::size_t>(weight.cols())));
  with_format(weight.kept_type(), [&]<class Format>(Chosen<Format>) {
    launch("embed", embed_rows<Format>, grid, threads, 0, out, weight.data(), bytes, ids, scale);
  });
}

}  // namespace frspec::FRSPEC_CUDA_NAMESPACE

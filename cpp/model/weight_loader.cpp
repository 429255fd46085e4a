// Checked access to the tensors of a GGUF file.
#include "model/weight_loader.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace frspec {

WeightSource WeightLoader::source(const std::string& name, std::int64_t rows, std::int64_t cols, std::int64_t all) {
  const GgufTensor& tensor = file_->tensor(name);
  if (tensor.shape[0] != cols || tensor.shape[1] != rows || tensor.shape[2] != all || tensor.shape[3] != 1) {
    std::string shape;
    for (int d = 0; d < tensor.dims; ++d) {
      shape += concat(d > 0 ? ", " : "", tensor.shape[static_cast<std::size_t>(d)]);
    }
    fail(file_->path().string(), ": tensor '", name, "': found shape {", shape, "}, expected {", cols,
         rows == 1 ? "" : concat(", ", rows), all == 1 ? "" : concat(", ", all), "}");
  }
  read_.insert(name);
  return WeightSource{file_->path().string(), name, tensor.type, rows, cols, tensor.data, file_};
}

std::unique_ptr<Weight> WeightLoader::load(const WeightSource& source) {
  auto weight = device_.load(source);
  has_read(source);
  return weight;
}

std::unique_ptr<Weight> WeightLoader::matrix(const std::string& name, std::int64_t rows, std::int64_t cols) {
  return load(source(name, rows, cols));
}

std::unique_ptr<Weight> WeightLoader::experts(const std::string& name, std::int64_t experts, std::int64_t rows,
                                              std::int64_t cols) {
  return expert_rows(name, experts, rows, 0, rows, cols);
}

std::unique_ptr<Weight> WeightLoader::expert_rows(const std::string& name, std::int64_t experts, std::int64_t of,
                                                  std::int64_t first, std::int64_t rows, std::int64_t cols) {
  WeightSource all = source(name, of, cols, experts);
  all.rows = rows;
  const std::size_t row = row_bytes(all.type, static_cast<std::size_t>(cols));
  std::vector<WeightSource> each(static_cast<std::size_t>(experts), all);
  for (std::size_t e = 0; e < each.size(); ++e) {
    each[e].data += (e * static_cast<std::size_t>(of) + static_cast<std::size_t>(first)) * row;
  }
  auto weight = device_.load_experts(each);
  for (const WeightSource& one : each) has_read(one);
  return weight;
}

std::unique_ptr<Weight> WeightLoader::matrix_rows(const std::string& name, std::int64_t of, std::int64_t first,
                                                  std::int64_t rows, std::int64_t cols) {
  WeightSource from = source(name, of, cols);
  from.data += static_cast<std::size_t>(first) * row_bytes(from.type, static_cast<std::size_t>(cols));
  from.rows = rows;
  return load(from);
}

std::unique_ptr<Weight> WeightLoader::picked_rows(const std::string& name, std::int64_t of,
                                                  std::span<const std::int32_t> rows, std::int64_t cols) {
  WeightSource from = source(name, of, cols);
  auto weight = device_.load_rows(from, rows);
  from.rows = static_cast<std::int64_t>(rows.size());
  has_read(from);
  return weight;
}

std::unique_ptr<Weight> WeightLoader::table(const std::string& name, std::int64_t rows, std::int64_t cols) {
  const WeightSource from = source(name, rows, cols);
  auto weight = device_.load_table(from);
  has_read(from);
  return weight;
}

void WeightLoader::has_read(const WeightSource& source) {
  const std::size_t bytes =
      static_cast<std::size_t>(source.rows) * row_bytes(source.type, static_cast<std::size_t>(source.cols));
  file_->release_pages(source.data, bytes);
  if (on_bytes_) on_bytes_(bytes);
}

std::unique_ptr<Weight> WeightLoader::find_matrix(const std::string& name, std::int64_t rows, std::int64_t cols) {
  return has(name) ? matrix(name, rows, cols) : nullptr;
}

std::vector<float> WeightLoader::host_vector(const std::string& name, std::int64_t size) {
  std::vector<float> values(static_cast<std::size_t>(size));
  device_.dequantize(values.data(), source(name, 1, size), 0);
  check_finite(name, values);
  return values;
}

void WeightLoader::check_finite(const std::string& name, std::span<const float> values) const {
  if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); })) {
    fail(file_->path().string(), ": tensor '", name, "': found a value that is NaN or infinite");
  }
}

Buffer WeightLoader::vector(const std::string& name, std::int64_t size) { return upload(host_vector(name, size)); }

Buffer WeightLoader::vector_up_to(const std::string& name, std::int64_t size, float most) {
  const std::vector<float> values = host_vector(name, size);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] > most) {
      fail(file_->path().string(), ": tensor '", name, "', entry ", i, ": found ", values[i], ", expected at most ",
           most);
    }
  }
  return upload(values);
}

Buffer WeightLoader::upload(std::span<const float> values) {
  Buffer buffer = device_.allocate(values.size_bytes());
  device_.upload(buffer.as<void>(), values.data(), values.size_bytes());
  return buffer;
}

Buffer WeightLoader::find_vector(const std::string& name, std::int64_t size) {
  return has(name) ? vector(name, size) : Buffer();
}

std::vector<float> WeightLoader::host_matrix(const std::string& name, std::int64_t rows, std::int64_t cols) {
  const WeightSource from = source(name, rows, cols);
  std::vector<float> values(static_cast<std::size_t>(rows * cols));
  for (std::int64_t r = 0; r < rows; ++r) device_.dequantize(values.data() + r * cols, from, r);
  check_finite(name, values);
  return values;
}

Buffer WeightLoader::find_vectors(const std::string& name, std::int64_t rows, std::int64_t cols) {
  return has(name) ? upload(host_matrix(name, rows, cols)) : Buffer();
}

Buffer WeightLoader::transposed(const std::string& name, std::int64_t rows, std::int64_t cols) {
  const std::vector<float> values = host_matrix(name, rows, cols);
  std::vector<float> turned(values.size());
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    turned[static_cast<std::size_t>(i % cols * rows + i / cols)] = values[static_cast<std::size_t>(i)];
  }
  return upload(turned);
}

Buffer WeightLoader::find_vector_part(const std::string& name, std::int64_t of, std::int64_t first, std::int64_t size) {
  if (!has(name)) return {};
  const std::vector<float> values = host_vector(name, of);
  return upload(std::span(values).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(size)));
}

std::vector<float> WeightLoader::rope_factors(const RopeConfig& rope, int context) {
  const std::int64_t size = rope.dims / 2;
  if (has("rope_freqs.weight")) return factors("rope_freqs.weight", size);
  const bool has_any = has("rope_factors_long.weight") || has("rope_factors_short.weight");
  if (!has_any && !rope.longrope) return {};
  std::vector<float> of_long = factors("rope_factors_long.weight", size);
  std::vector<float> of_short = factors("rope_factors_short.weight", size);
  return context > rope.original_context ? of_long : of_short;
}

std::vector<float> WeightLoader::factors(const std::string& name, std::int64_t size) {
  std::vector<float> values = host_vector(name, size);
  for (std::size_t i = 0; i < values.size(); ++i) {
    // Frequencies are divided by them.
    if (!(values[i] > 0.0f)) {
      fail(file_->path().string(), ": tensor '", name, "', entry ", i, ": found ", values[i],
           ", expected a number above 0");
    }
  }
  return values;
}

void WeightLoader::leave(std::string_view prefix) {
  for (const GgufTensor& tensor : file_->tensors()) {
    if (tensor.name.starts_with(prefix)) read_.emplace(tensor.name);
  }
}

void WeightLoader::expect_all_read(std::span<const std::string_view> ignored) const {
  for (const GgufTensor& tensor : file_->tensors()) {
    if (read_.contains(tensor.name)) continue;
    if (std::find(ignored.begin(), ignored.end(), tensor.name) != ignored.end()) continue;
    unknown(tensor);
  }
}

void WeightLoader::expect_block_read(int index, std::string_view ignored) const {
  const std::string prefix = concat("blk.", index, ".");
  for (const GgufTensor& tensor : file_->tensors()) {
    if (tensor.name.starts_with(prefix) && tensor.name != ignored && !read_.contains(tensor.name)) unknown(tensor);
  }
}

void WeightLoader::unknown(const GgufTensor& tensor) const {
  fail(file_->path().string(), ": found tensor '", tensor.name, "', which architecture '",
       file_->get_string("general.architecture"), "' does not have");
}

}  // namespace frspec

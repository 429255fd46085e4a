// Checked access to the tensors of a GGUF file.
#include "model/weight_loader.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace frspec {

WeightSource WeightLoader::source(const std::string& name, std::int64_t rows, std::int64_t cols) {
  const GgufTensor& tensor = file_->tensor(name);
  if (tensor.shape[0] != cols || tensor.shape[1] != rows || tensor.shape[2] != 1 || tensor.shape[3] != 1) {
    std::string shape;
    for (int d = 0; d < tensor.dims; ++d) {
      shape += concat(d > 0 ? ", " : "", tensor.shape[static_cast<std::size_t>(d)]);
    }
    fail(file_->path().string(), ": tensor '", name, "': found shape {", shape, "}, expected {", cols,
         rows == 1 ? "" : concat(", ", rows), "}");
  }
  read_.insert(name);
  return WeightSource{file_->path().string(), name, tensor.type, rows, cols, tensor.data, file_};
}

std::unique_ptr<Weight> WeightLoader::matrix(const std::string& name, std::int64_t rows, std::int64_t cols,
                                             bool on_host) {
  WeightSource from = source(name, rows, cols);
  from.on_host = on_host;
  auto weight = backend_->load(from);
  has_read(from);
  return weight;
}

std::unique_ptr<Weight> WeightLoader::matrix_rows(const std::string& name, std::int64_t of, std::int64_t first,
                                                  std::int64_t rows, std::int64_t cols) {
  WeightSource from = source(name, of, cols);
  from.data += static_cast<std::size_t>(first) * row_bytes(from.type, static_cast<std::size_t>(cols));
  from.rows = rows;
  auto weight = backend_->load(from);
  has_read(from);
  return weight;
}

std::unique_ptr<Weight> WeightLoader::table(const std::string& name, std::int64_t rows, std::int64_t cols) {
  const WeightSource from = source(name, rows, cols);
  auto weight = backend_->load_table(from);
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
  backend_->dequantize(values.data(), source(name, 1, size), 0);
  if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); })) {
    fail(file_->path().string(), ": tensor '", name, "': found a value that is NaN or infinite");
  }
  return values;
}

Buffer WeightLoader::vector(const std::string& name, std::int64_t size) { return upload(host_vector(name, size)); }

Buffer WeightLoader::upload(std::span<const float> values) {
  Buffer buffer = backend_->allocate(values.size_bytes());
  backend_->upload(buffer.as<void>(), values.data(), values.size_bytes());
  return buffer;
}

Buffer WeightLoader::find_vector(const std::string& name, std::int64_t size) {
  return has(name) ? vector(name, size) : Buffer();
}

Buffer WeightLoader::find_vector_part(const std::string& name, std::int64_t of, std::int64_t first, std::int64_t size) {
  if (!has(name)) return {};
  const std::vector<float> values = host_vector(name, of);
  return upload(std::span(values).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(size)));
}

std::vector<float> WeightLoader::rope_factors(std::int64_t size) {
  const std::string name = "rope_freqs.weight";
  if (!has(name)) return {};
  std::vector<float> factors = host_vector(name, size);
  for (std::size_t i = 0; i < factors.size(); ++i) {
    // Frequencies are divided by them.
    if (!(factors[i] > 0.0f)) {
      fail(file_->path().string(), ": tensor '", name, "', entry ", i, ": found ", factors[i],
           ", expected a number above 0");
    }
  }
  return factors;
}

void WeightLoader::expect_all_read(std::span<const std::string_view> ignored) const {
  for (const GgufTensor& tensor : file_->tensors()) {
    if (read_.contains(tensor.name)) continue;
    if (std::find(ignored.begin(), ignored.end(), tensor.name) != ignored.end()) continue;
    fail(file_->path().string(), ": found tensor '", tensor.name, "', which architecture '",
         file_->get_string("general.architecture"), "' does not have");
  }
}

}  // namespace frspec

// Reads a model's tensors into a backend, checking every name and shape, and that nothing in the file was left unread.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/device.h"
#include "gguf/gguf_file.h"
#include "model/config.h"

namespace frspec {

class WeightLoader {
 public:
  // `on_bytes` is told how many bytes of the file each tensor took, once it is read; what it throws ends the loading.
  WeightLoader(std::shared_ptr<const GgufFile> file, Device& device,
               std::function<void(std::size_t)> on_bytes = nullptr)
      : file_(std::move(file)), device_(device), on_bytes_(std::move(on_bytes)) {}

  // A matrix (rows, cols); rows are outputs. Throws InvalidInput naming file, tensor, found and expected shape.
  std::unique_ptr<Weight> matrix(const std::string& name, std::int64_t rows, std::int64_t cols);
  // What source() gave.
  std::unique_ptr<Weight> load(const WeightSource& source);
  // Rows [first, first + rows) of a matrix that has `of` of them.
  std::unique_ptr<Weight> matrix_rows(const std::string& name, std::int64_t of, std::int64_t first, std::int64_t rows,
                                      std::int64_t cols);
  // The given rows of a matrix that has `of` of them.
  std::unique_ptr<Weight> picked_rows(const std::string& name, std::int64_t of, std::span<const std::int32_t> rows,
                                      std::int64_t cols);
  std::unique_ptr<Weight> find_matrix(const std::string& name, std::int64_t rows, std::int64_t cols);  // null if absent
  // A matrix (rows, cols) for each of so many experts.
  std::unique_ptr<Weight> experts(const std::string& name, std::int64_t experts, std::int64_t rows, std::int64_t cols);
  // Rows [first, first + rows) of each expert's matrix that has `of` of them.
  std::unique_ptr<Weight> expert_rows(const std::string& name, std::int64_t experts, std::int64_t of,
                                      std::int64_t first, std::int64_t rows, std::int64_t cols);
  // A matrix whose rows are only looked up.
  std::unique_ptr<Weight> table(const std::string& name, std::int64_t rows, std::int64_t cols);
  // The same, not loaded yet: for head subsets. One of several in a tensor of three dimensions: (rows, cols) of `all`.
  WeightSource source(const std::string& name, std::int64_t rows, std::int64_t cols, std::int64_t all = 1);

  // A vector as f32; find_vector gives an empty buffer where it is absent.
  Buffer vector(const std::string& name, std::int64_t size);
  // One whose values are at most `most`.
  Buffer vector_up_to(const std::string& name, std::int64_t size, float most);
  Buffer find_vector(const std::string& name, std::int64_t size);
  // A vector (cols) for each of so many rows; find_ as above.
  Buffer find_vectors(const std::string& name, std::int64_t rows, std::int64_t cols);
  // The columns of a matrix (rows, cols) as rows.
  Buffer transposed(const std::string& name, std::int64_t rows, std::int64_t cols);
  // Elements [first, first + size) of a vector that has `of` of them.
  Buffer find_vector_part(const std::string& name, std::int64_t of, std::int64_t first, std::int64_t size);
  // Divisors of the frequencies of a rope, one per rotated pair, all above 0; empty where there are none. Llama 3's; or
  // longrope's, of which there are two: for contexts up to the original one, and for longer ones.
  std::vector<float> rope_factors(const RopeConfig& rope, int context);

  // Whatever has a name that begins so is read by others.
  void leave(std::string_view prefix);

  bool has(std::string_view name) const { return file_->find_tensor(name) != nullptr; }
  const GgufFile& file() const { return *file_; }

  // Fails if the file holds a tensor that nobody asked for: the architecture is not quite the one we implement.
  void expect_all_read(std::span<const std::string_view> ignored) const;
  // The same for block `index` alone, but for one tensor.
  void expect_block_read(int index, std::string_view ignored) const;

 private:
  [[noreturn]] void unknown(const GgufTensor& tensor) const;
  // Tells the listener, and gives the mapped pages back: the backend has what it wants of them.
  void has_read(const WeightSource& source);
  Buffer upload(std::span<const float> values);
  std::vector<float> host_matrix(const std::string& name, std::int64_t rows, std::int64_t cols);
  std::vector<float> host_vector(const std::string& name, std::int64_t size);
  void check_finite(const std::string& name, std::span<const float> values) const;
  std::vector<float> factors(const std::string& name, std::int64_t size);

  std::shared_ptr<const GgufFile> file_;
  Device& device_;
  std::function<void(std::size_t)> on_bytes_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace frspec

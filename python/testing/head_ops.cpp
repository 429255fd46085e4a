// `_core.head_ops`: what draft heads are made of, on arrays of the host, for tests of the kernels.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <tuple>

#include <nanobind/nanobind.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bindings/arrays.h"
#include "ops_support.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace frspec {
namespace {

struct HeadOps {};
using BestWithSums = std::tuple<OutputMatrix<std::int32_t>, OutputMatrix<float>, OutputVector<float>>;

// BestTokens in the backend's memory, and back.
struct DeviceBest {
  DeviceBest(Backend& backend, std::size_t states, std::size_t best)
      : ids(backend.allocate(states * best * sizeof(std::int32_t))),
        scores(backend.allocate(states * best * sizeof(float))),
        sums(backend.allocate(states * sizeof(float))),
        rows(states),
        k(best) {}

  BestTokens view() const {
    return {ids.as<std::int32_t>(), scores.as<float>(), sums.as<float>(), static_cast<int>(k)};
  }
  BestWithSums host(Backend& backend) const {
    return {to_host<OutputMatrix<std::int32_t>, std::int32_t>(backend, ids, {rows, k}),
            to_host<OutputMatrix<float>, float>(backend, scores, {rows, k}),
            to_host<OutputVector<float>, float>(backend, sums, {rows})};
  }

  Buffer ids, scores, sums;
  std::size_t rows, k;
};

// Noise at temperature 0 is none.
struct Noise {
  Noise(Backend& backend, float temperature, std::uint64_t seed, int position, int top_k)
      : memory(to_device(backend, &position, 1)) {
    if (temperature == 0.0f) return;
    draw = {.draw = {temperature, seed}, .position = memory.as<std::int32_t>(), .offset = 0, .top_k = top_k};
  }
  const DraftNoise* get() const { return draw ? &*draw : nullptr; }

  Buffer memory;
  std::optional<DraftNoise> draw;
};

void check_ids(const std::optional<Ints>& ids, std::int64_t rows) {
  if (ids && static_cast<std::int64_t>(ids->size()) != rows) {
    fail("ids: found ", ids->size(), ", expected ", rows, ", one for each row of the tensor");
  }
}

OutputMatrix<std::int32_t> candidates(const std::filesystem::path& path, const std::string& tensor,
                                      const InputMatrix& hidden, int count, const std::optional<Ints>& ids,
                                      float temperature, std::uint64_t seed, int position, int top_k, float scale,
                                      float cap, int n_threads, const std::string& device) {
  const Head head(path, tensor, hidden, n_threads, device, {scale, cap});
  if (count < 1 || count > head.weight->rows()) fail("count: found ", count, ", expected 1 to ", head.weight->rows());
  check_ids(ids, head.weight->rows());
  Backend& backend = *head.backend;
  const Buffer names = ids ? to_device(backend, ids->data(), ids->size()) : Buffer();
  const std::size_t rows = head.hidden->rows, width = static_cast<std::size_t>(count);
  const Buffer columns = backend.allocate(rows * width * sizeof(std::int32_t));
  const Noise noise(backend, temperature, seed, position, top_k);
  backend.head_candidates(columns.as<std::int32_t>(), count, head.hidden->view(),
                          {.weight = head.weight.get(), .ids = names.as<std::int32_t>()}, noise.get());
  return to_host<OutputMatrix<std::int32_t>, std::int32_t>(backend, columns, {rows, width});
}

BestWithSums top_k(const std::filesystem::path& path, const std::string& tensor, const InputMatrix& hidden, int k,
                   const std::optional<Ints>& listed, const std::optional<Ints>& ids, int first, float temperature,
                   std::uint64_t seed, int position, int top_k, float scale, float cap, int n_threads,
                   const std::string& device) {
  const auto backend = make_backend({device, n_threads});
  const WeightSource source = open_source(path, tensor, {scale, cap});
  if (hidden.shape(1) != static_cast<std::size_t>(source.cols)) {
    fail("hidden: found ", hidden.shape(1), " columns, expected ", source.cols);
  }
  check_ids(ids, source.rows);
  const DeviceMatrix states(*backend, hidden);
  for (const std::int32_t row : listed.value_or(Ints{})) {
    if (row < 0 || row >= source.rows) fail("listed: found ", row, ", expected 0 to ", source.rows - 1);
  }
  if (listed && (listed->empty() || listed->size() % states.rows != 0)) {
    fail("listed: found ", listed->size(), " rows, expected as many for each of ", states.rows, " states");
  }
  const auto weight = listed ? backend->load_table(source) : backend->load(source);
  const Buffer names = ids ? to_device(*backend, ids->data(), ids->size()) : Buffer();
  const Buffer lists = listed ? to_device(*backend, listed->data(), listed->size()) : Buffer();
  const int count = listed ? static_cast<int>(listed->size() / states.rows) : first;
  const std::int64_t most = count > 0 ? count : source.rows;
  if (k < 1 || k > most || most > source.rows) fail("k: found ", k, ", expected 1 to ", most);
  const DeviceBest best(*backend, states.rows, static_cast<std::size_t>(k));
  const Noise noise(*backend, temperature, seed, position, top_k);
  backend->head_top_k(best.view(), states.view(),
                      {.weight = weight.get(),
                       .ids = names.as<std::int32_t>(),
                       .listed = listed ? lists.as<std::int32_t>() : nullptr,
                       .count = count},
                      noise.get());
  return best.host(*backend);
}

// Both heads are the rows of one tensor, each some of them.
BestWithSums merged_top_k(const std::filesystem::path& path, const std::string& tensor, const InputMatrix& hidden,
                          int k, const Ints& one, const Ints& other, float temperature, std::uint64_t seed,
                          int position, float scale, float cap) {
  const auto backend = make_backend({default_device(), 1});
  const WeightSource source = open_source(path, tensor, {scale, cap});
  const DeviceMatrix states(*backend, hidden);
  const Noise noise(*backend, temperature, seed, position, 0);
  const auto width = static_cast<std::size_t>(k);
  const DeviceBest best(*backend, states.rows, width), second(*backend, states.rows, width);
  for (const auto& [rows, out] : {std::pair{&one, &best}, std::pair{&other, &second}}) {
    const auto weight = backend->load_rows(source, *rows);
    const Buffer ids = to_device(*backend, rows->data(), rows->size());
    backend->head_top_k(out->view(), states.view(), {.weight = weight.get(), .ids = ids.as<std::int32_t>()},
                        noise.get());
  }
  backend->merge_top_k(best.view(), second.view(), static_cast<int>(states.rows), noise.get() != nullptr);
  return best.host(*backend);
}

std::pair<OutputVector<std::int32_t>, OutputMatrix<std::int32_t>> sample_with_best(
    const std::filesystem::path& path, const std::string& tensor, const InputMatrix& hidden, int k, float temperature,
    std::uint64_t seed, int position, float scale, float cap, int n_threads, const std::string& device) {
  const Head head(path, tensor, hidden, n_threads, device, {scale, cap});
  Backend& backend = *head.backend;
  const std::size_t rows = head.hidden->rows;
  if (k < 1 || k > 64) fail("k: found ", k, ", expected 1 to 64");
  const DeviceBest best(backend, rows, static_cast<std::size_t>(k));
  const Buffer tokens = backend.allocate(rows * sizeof(std::int32_t));
  const Ints depths(rows, -1);
  const Buffer prefix = to_device(backend, &position, 1), depth = to_device(backend, depths.data(), rows);
  const BestTokens view = best.view();
  backend.head_sample(tokens.as<std::int32_t>(), head.hidden->view(), *head.weight,
                      {.count = static_cast<int>(rows),
                       .sequence = {.length = prefix.as<std::int32_t>()},
                       .depth = depth.as<std::int32_t>()},
                      {temperature, seed}, &view);
  return {to_host<OutputVector<std::int32_t>, std::int32_t>(backend, tokens, {rows}),
          to_host<OutputMatrix<std::int32_t>, std::int32_t>(backend, best.ids, {rows, best.k})};
}

OutputMatrix<float> replaced_matmul(const std::filesystem::path& path, const std::string& tensor, const InputMatrix& x,
                                    const Ints& rows, const Ints& places, const Ints& new_rows,
                                    const std::string& device) {
  const auto backend = make_backend({device, 1});
  const WeightSource source = open_source(path, tensor);
  const auto weight = backend->load_rows(source, rows);
  backend->replace_rows(*weight, source, places, new_rows);
  const DeviceMatrix input(*backend, x);
  const Buffer out = backend->allocate(input.rows * rows.size() * sizeof(float));
  const Projection projection{
      .out = out.matrix(static_cast<std::int64_t>(input.rows), static_cast<std::int64_t>(rows.size())),
      .weight = weight.get()};
  backend->matmul({input.view()}, {&projection, 1});
  return to_host<OutputMatrix<float>, float>(*backend, out, {input.rows, rows.size()});
}

}  // namespace

void init_head_ops(nb::module_& m) {
  nb::class_<HeadOps>(m, "head_ops",
                      "What draft heads are made of, for tests of the kernels. Logits are ``scale`` times the "
                      "products, soft-capped by ``cap``.")
      .def_static("candidates", &candidates, "path"_a, "tensor"_a, "hidden"_a, "count"_a, "ids"_a = nb::none(),
                  "temperature"_a = 0.0F, "seed"_a = 0, "position"_a = 0, "top_k"_a = 0, "scale"_a = 1.0F,
                  "cap"_a = 0.0F, "n_threads"_a = 0, "device"_a = default_device(),
                  "The ``count`` best columns of each row of x W^T, ascending; under noise where there is a "
                  "temperature: (m, count) int32.")
      .def_static(
          "top_k", &top_k, "path"_a, "tensor"_a, "hidden"_a, "k"_a, "listed"_a = nb::none(), "ids"_a = nb::none(),
          "first"_a = 0, "temperature"_a = 0.0F, "seed"_a = 0, "position"_a = 0, "top_k"_a = 0, "scale"_a = 1.0F,
          "cap"_a = 0.0F, "n_threads"_a = 0, "device"_a = default_device(),
          "Tokens, scores (m, k) and their log-sums (m,): of all rows of W, of the first ones, or of those that "
          "``listed`` picks, as many for each state.")
      .def_static("merged_top_k", &merged_top_k, "path"_a, "tensor"_a, "hidden"_a, "k"_a, "one"_a, "other"_a,
                  "temperature"_a = 0.0F, "seed"_a = 0, "position"_a = 0, "scale"_a = 1.0F, "cap"_a = 0.0F,
                  "What two heads of the given rows of W say together.")
      .def_static("sample_with_best", &sample_with_best, "path"_a, "tensor"_a, "hidden"_a, "k"_a,
                  "temperature"_a = 0.0F, "seed"_a = 0, "position"_a = 0, "scale"_a = 1.0F, "cap"_a = 0.0F,
                  "n_threads"_a = 0, "device"_a = default_device(),
                  "The token that each row chooses for ``position``, and the k largest logits' without noise; -1 "
                  "where there are not so many numbers: (m,), (m, k) int32.")
      .def_static("replaced_matmul", &replaced_matmul, "path"_a, "tensor"_a, "x"_a, "rows"_a, "places"_a, "new_rows"_a,
                  "device"_a = default_device(),
                  "x W^T for the given rows of a tensor, of which some places were given new rows.");
}

}  // namespace frspec

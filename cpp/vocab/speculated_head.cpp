#include "vocab/speculated_head.h"

#include <array>

#include "base/error.h"

namespace frspec {
namespace {

class SpeculatedHead final : public DraftHead {
 public:
  SpeculatedHead(Backend& backend, const HeadRows& rows, Sketch sketch, int size, int max_rows)
      : backend_(backend),
        table_(backend.load_table(rows.source)),
        sketch_(std::move(sketch)),
        rows_(rows.count()),
        size_(size),
        max_rows_(max_rows),
        small_(backend.allocate(sizeof(float) * static_cast<std::size_t>(max_rows) *
                                static_cast<std::size_t>(sketch_.down->rows()))),
        columns_(backend.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(max_rows) *
                                  static_cast<std::size_t>(size))) {
    if (rows.ids.empty()) return;
    ids_ = backend.allocate(rows.ids.size() * sizeof(TokenId));
    backend.upload(ids_.as<void>(), rows.ids.data(), rows.ids.size() * sizeof(TokenId));
  }

  int size() const override { return size_; }
  std::vector<const Weight*> matrices() const override { return {sketch_.down.get(), sketch_.vocab.get()}; }

  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    if (hidden.rows > max_rows_) {
      throw Error(concat("speculated head: found ", hidden.rows, " rows, expected at most ", max_rows_));
    }
    const DraftNoise* draw = noise ? &*noise : nullptr;
    const auto* ids = ids_.as<std::int32_t>();
    auto* columns = columns_.as<std::int32_t>();
    const Tensor small = small_.matrix(hidden.rows, sketch_.down->rows());
    backend_.matmul({hidden}, std::array{Projection{small, sketch_.down.get()}});
    const HeadColumns sketched{.weight = sketch_.vocab.get(), .ids = ids, .count = rows_};
    backend_.head_candidates(columns, size_, small, sketched, draw);
    backend_.head_top_k(best, hidden, {.weight = table_.get(), .ids = ids, .listed = columns, .count = size_}, draw);
  }

 private:
  Backend& backend_;
  std::unique_ptr<Weight> table_;  // (V, d)
  Sketch sketch_;
  int rows_, size_, max_rows_;
  Buffer small_;    // (max_rows, d')
  Buffer columns_;  // (max_rows, size)
  Buffer ids_;      // (V) ascending; empty: the row numbers
};

}  // namespace

std::unique_ptr<DraftHead> make_speculated_head(Backend& backend, const HeadRows& rows, Sketch sketch, int size,
                                                int max_rows) {
  if (size < 1 || size > rows.count()) {
    fail("head: found speculated:", size, ", expected 1 to ", rows.count(), ", the rows of the head");
  }
  return std::make_unique<SpeculatedHead>(backend, rows, std::move(sketch), size, max_rows);
}

}  // namespace frspec

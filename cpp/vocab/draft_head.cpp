// Head policies.
#include "vocab/draft_head.h"

#include <array>
#include <charconv>

#include "base/error.h"

namespace frspec {
namespace {

Buffer allocate_logits(Backend& backend, int rows, std::int64_t cols) {
  return backend.allocate(sizeof(float) * static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols));
}

// Shared by both policies: a matmul over the rows of `weight`, then the best columns, mapped by `ids` if not null.
void best_of(Backend& backend, const Weight& weight, const Buffer& logits, const std::int32_t* column_ids,
             Tensor hidden, int k, std::int32_t* ids, float* log_probs) {
  const Tensor out = logits.matrix(hidden.rows, weight.rows());
  backend.matmul(hidden, std::array{Projection{out, &weight}});
  backend.top_k(ids, log_probs, k, out, column_ids);
}

class FullHead final : public DraftHead {
 public:
  FullHead(Backend& backend, const Weight& head, int max_rows)
      : backend_(backend), head_(head), logits_(allocate_logits(backend, max_rows, head.rows())) {}

  int size() const override { return static_cast<int>(head_.rows()); }
  void top_k(Tensor hidden, int k, std::int32_t* ids, float* log_probs) override {
    best_of(backend_, head_, logits_, nullptr, hidden, k, ids, log_probs);
  }

 private:
  Backend& backend_;
  const Weight& head_;
  Buffer logits_;  // (max_rows, V)
};

class ListedHead final : public DraftHead {
 public:
  ListedHead(Backend& backend, const WeightSource& head, std::span<const TokenId> ids, int max_rows)
      : backend_(backend),
        rows_(backend.load_rows(head, ids)),
        ids_(backend.allocate(ids.size_bytes())),
        logits_(allocate_logits(backend, max_rows, rows_->rows())) {
    backend.upload(ids_.as<void>(), ids.data(), ids.size_bytes());
  }

  int size() const override { return static_cast<int>(rows_->rows()); }
  void top_k(Tensor hidden, int k, std::int32_t* ids, float* log_probs) override {
    best_of(backend_, *rows_, logits_, ids_.as<std::int32_t>(), hidden, k, ids, log_probs);
  }

 private:
  Backend& backend_;
  std::unique_ptr<Weight> rows_;  // (size, dim)
  Buffer ids_;                    // (size) ascending
  Buffer logits_;                 // (max_rows, size)
};

}  // namespace

std::string HeadSpec::text() const { return kind == Kind::Full ? "full" : concat("ranked:", size); }

HeadSpec parse_head_spec(std::string_view text) {
  if (text == "full") return {};
  constexpr std::string_view kRanked = "ranked:";
  if (text.starts_with(kRanked)) {
    const std::string_view digits = text.substr(kRanked.size());
    HeadSpec spec{HeadSpec::Kind::Ranked, 0};
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), spec.size);
    if (error == std::errc() && end == digits.data() + digits.size()) return spec;
  }
  fail("head: found '", text, "', expected 'full' or 'ranked:N' with a number of rows N");
}

std::unique_ptr<DraftHead> make_full_head(Backend& backend, const Weight& head, int max_rows) {
  return std::make_unique<FullHead>(backend, head, max_rows);
}

std::unique_ptr<DraftHead> make_listed_head(Backend& backend, const WeightSource& head, std::span<const TokenId> ids,
                                            int max_rows) {
  return std::make_unique<ListedHead>(backend, head, ids, max_rows);
}

}  // namespace frspec

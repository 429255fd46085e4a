// Head policies.
#include "vocab/draft_head.h"

#include <charconv>

#include "base/error.h"

namespace frspec {
namespace {

void best_tokens(Backend& backend, Tensor hidden, int k, std::int32_t* ids, float* scores, const Weight& rows,
                 const std::int32_t* column_ids, const std::optional<DraftNoise>& noise) {
  if (noise) {
    backend.head_noisy_top_k(ids, scores, k, hidden, rows, column_ids, *noise);
  } else {
    backend.head_top_k(ids, scores, k, hidden, rows, column_ids);
  }
}

class FullHead final : public DraftHead {
 public:
  FullHead(Backend& backend, const Weight& head) : backend_(backend), head_(head) {}

  const Weight& rows() const override { return head_; }
  void top_k(Tensor hidden, int k, std::int32_t* ids, float* scores, const std::optional<DraftNoise>& noise) override {
    best_tokens(backend_, hidden, k, ids, scores, head_, nullptr, noise);
  }

 private:
  Backend& backend_;
  const Weight& head_;
};

class ListedHead final : public DraftHead {
 public:
  ListedHead(Backend& backend, const WeightSource& head, std::span<const TokenId> ids,
             std::span<const std::int32_t> rows)
      : backend_(backend), rows_(backend.load_rows(head, rows)), ids_(backend.allocate(ids.size_bytes())) {
    backend.upload(ids_.as<void>(), ids.data(), ids.size_bytes());
  }

  const Weight& rows() const override { return *rows_; }
  void top_k(Tensor hidden, int k, std::int32_t* ids, float* scores, const std::optional<DraftNoise>& noise) override {
    best_tokens(backend_, hidden, k, ids, scores, *rows_, ids_.as<std::int32_t>(), noise);
  }

 private:
  Backend& backend_;
  std::unique_ptr<Weight> rows_;  // (size, dim)
  Buffer ids_;                    // (size) ascending
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

std::unique_ptr<DraftHead> make_full_head(Backend& backend, const Weight& head) {
  return std::make_unique<FullHead>(backend, head);
}

std::unique_ptr<DraftHead> make_listed_head(Backend& backend, const WeightSource& head, std::span<const TokenId> ids,
                                            std::span<const std::int32_t> rows) {
  return std::make_unique<ListedHead>(backend, head, ids, rows.empty() ? ids : rows);
}

}  // namespace frspec

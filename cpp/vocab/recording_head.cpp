#include "vocab/recording_head.h"

#include <algorithm>

namespace frspec {
namespace {

class RecordingHead final : public DraftHead {
 public:
  RecordingHead(Backend& backend, std::unique_ptr<DraftHead> head, std::shared_ptr<StateRecord> record)
      : backend_(backend), head_(std::move(head)), record_(std::move(record)) {}

  int size() const override { return head_->size(); }
  std::vector<const Weight*> matrices() const override { return head_->matrices(); }
  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    record_->dim = static_cast<std::size_t>(hidden.cols);
    const std::size_t noted = record_->states.size() / record_->dim;
    const std::size_t rows =
        std::min(static_cast<std::size_t>(hidden.rows), record_->most - std::min(noted, record_->most));
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t at = record_->states.size();
      record_->states.resize(at + record_->dim);
      backend_.download(record_->states.data() + at, hidden.row(static_cast<std::int64_t>(r)),
                        record_->dim * sizeof(float));
    }
    head_->top_k(hidden, best, noise);
  }
  std::optional<bool> holds(TokenId token) const override { return head_->holds(token); }
  void begin() override { head_->begin(); }
  void observe(const TextNews& news) override { head_->observe(news); }
  bool follows_device() const override { return false; }  // the states are looked at on the host
  int wanted_candidates() const override { return head_->wanted_candidates(); }
  std::vector<HeadChoice> choices() const override { return head_->choices(); }
  void use(int choice) override { head_->use(choice); }
  std::uint32_t holders(TokenId token) const override { return head_->holders(token); }

 private:
  Backend& backend_;
  std::unique_ptr<DraftHead> head_;
  std::shared_ptr<StateRecord> record_;
};

}  // namespace

std::unique_ptr<DraftHead> make_recording_head(Backend& backend, std::unique_ptr<DraftHead> head,
                                               std::shared_ptr<StateRecord> record) {
  return std::make_unique<RecordingHead>(backend, std::move(head), std::move(record));
}

}  // namespace frspec

#include "vocab/timed_head.h"

#include <utility>

namespace frspec {
namespace {

class TimedHead final : public DraftHead {
 public:
  TimedHead(std::unique_ptr<DraftHead> head, HeadClock& clock) : head_(std::move(head)), clock_(clock) {}

  int size() const override { return head_->size(); }
  std::vector<const Weight*> matrices() const override { return head_->matrices(); }
  void top_k(Tensor hidden, const BestTokens& best, const std::optional<DraftNoise>& noise) override {
    clock_.time([&] { head_->top_k(hidden, best, noise); });
  }
  std::optional<bool> holds(TokenId token) const override { return head_->holds(token); }
  void begin() override { head_->begin(); }
  void observe(const TextNews& news) override { head_->observe(news); }
  int wanted_candidates() const override { return head_->wanted_candidates(); }
  bool follows_device() const override { return head_->follows_device(); }
  std::vector<HeadChoice> choices() const override { return head_->choices(); }
  void use(int choice) override { head_->use(choice); }
  std::uint32_t holders(TokenId token) const override { return head_->holders(token); }

 private:
  std::unique_ptr<DraftHead> head_;
  HeadClock& clock_;
};

}  // namespace

double HeadClock::seconds() {
  for (; calls_ > 0; --calls_) {
    const int point = first_ + 2 * (calls_ - 1);
    seconds_ += backend_.instruments().seconds_between(point, point + 1);
  }
  return seconds_;
}

// Deep trees, and SLRS, which waits for each answer anyway: a wait now and then is little beside so many calls.
void HeadClock::make_room() {
  if (calls_ < most_) return;
  backend_.wait();
  (void)seconds();
}

std::unique_ptr<DraftHead> make_timed_head(std::unique_ptr<DraftHead> head, HeadClock& clock) {
  return std::make_unique<TimedHead>(std::move(head), clock);
}

}  // namespace frspec

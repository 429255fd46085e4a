// What a user may choose when an engine is made, and for each text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "draft/options.h"
#include "tree/limited_growth.h"
#include "verify/grammar.h"
#include "verify/sampler.h"

namespace frspec {

// Bytes of a device's memory that an engine will take (engine/memory_plan.h).
struct MemoryPlan {
  std::size_t target_weights = 0;
  std::size_t drafter_weights = 0;
  std::size_t head_rows = 0;  // that a draft head picked of a larger one
  std::size_t working = 0;    // activations, logits, scratch memory
  std::size_t per_token = 0;  // keys, values and all else that grows with the context
  int context = 0;            // tokens
  std::size_t free = 0;       // of the device, before

  std::size_t caches() const { return per_token * static_cast<std::size_t>(context); }
  // What there is for caches.
  std::size_t room() const { return free > bytes() ? free - bytes() + caches() : caches(); }
  std::size_t bytes() const { return target_weights + drafter_weights + head_rows + caches() + working; }
};

// "target 4.7 GiB, drafter 0.5 GiB, caches 512 MiB for 4096 tokens, working memory 300 MiB"
std::string describe(const MemoryPlan& plan);

struct EngineOptions : DraftOptions {
  std::filesystem::path target;  // GGUF
  // Tokens of prompt and text together; 0: as many as the model was trained for; none: so many, at most
  // kDefaultContext.
  std::optional<int> context;
  int batch = 512;                       // prompt tokens per pass
  std::optional<int> parallel;           // texts that are written at once, at most; none: 1
  std::optional<std::size_t> kv_memory;  // bytes of the target's keys and values; none: by the memory that is free
  // The same as room beside one context, as a share of it, which goes before; for tests.
  std::optional<double> spare;
  // Milliseconds that a pass may take in which a prompt is read beside texts that are written, or twice a pass without
  // it, where that is more; 0: a fixed number of tokens are read.
  int step_ms = 0;
  BackendOptions backend;
  // Whether the target's head stays in host memory, from where a device with memory of its own reads it.
  bool head_on_host = false;
  std::function<void(const MemoryPlan&)> on_plan;  // before loading, where the device has memory of its own
  std::function<void(std::size_t done, std::size_t total)> on_load;  // bytes of weights; throwing ends the loading
  // Each thing that was corrected in the files, as llama.cpp corrects it: one line, once all is loaded.
  std::function<void(const std::string& warning)> on_warning;
  std::vector<int> taps;  // layers whose inputs Lab::forward hands out
};

// A tree as users name it: by a word, "auto" or "DEPTH,BRANCH,SIZE", or by its numbers, of which one is enough.
struct TreeChoice {
  std::string word = "auto";
  std::optional<int> depth, branch, size;

  // None: as far as pays. Throws InvalidInput for other words, both at once, or a shape that no tree has.
  std::optional<TreeShape> shape() const;
};

// "512MiB", "4G" or "1.5 GiB", in powers of 1024, or bytes; throws InvalidInput for others. `option`: whose it is.
std::size_t parse_memory(std::string_view option, std::string_view text);

KvType parse_kv_type(std::string_view name);  // "f16", "q8_0" or "f32"; throws InvalidInput for others

inline constexpr int kDefaultContext = 4096;
inline constexpr int kMaxParallel = 256;
inline constexpr int kMaxLogprobs = 1000;
// Rows of logits that exist at once: the nodes of a tree where tokens are drawn from them, at most so many.
inline constexpr int kLogitRows = 16, kMaxLogitRows = 64;

// Whether a text is drafted, where the engine has a drafter. Under the keyed rule the text is the same in any case;
// with rejection sampling Auto means Always, so that a seed gives one text.
enum class DraftMode : std::uint8_t {
  Auto,  // as long as it pays (tuner.h)
  Always,
  Never,   // plain decoding
  Sparse,  // in steps 0, 1, 3, 7, 15 ...: for tests of what a drafter is told late, in builds for tests
  Watch,   // wide trees in every step, which are traced and not verified: for simulations
};
// "auto", "always", "never" or "watch", and in builds for tests "sparse"; throws InvalidInput for others.
DraftMode parse_draft_mode(std::string_view name);

// How drafts are verified.
enum class VerifyMode : std::uint8_t {
  Keyed,      // the text of a seed does not depend on drafts (contract 2)
  Rejection,  // rejection sampling of chains: exact in distribution
  Block,      // block verification of chains (2403.10444): likewise, and never accepts less
};
VerifyMode parse_verify_mode(std::string_view name);  // "keyed", "rejection", "block"; throws InvalidInput for others

// Values of GenerateOptions::max_tokens, as llama.cpp knows them: as many as the context holds.
inline constexpr int kUntilFull = -1, kUntilContextFilled = -2;

struct GenerateOptions {
  int max_tokens = 128;  // or kUntilFull
  int min_tokens = 0;    // before that many, neither a token nor a string ends the text
  // So many of the prompt's last tokens are the text's own, written elsewhere: it goes on behind them as if it had
  // never stopped. They count for max_tokens, min_tokens and stop strings, and are not told of again.
  int committed = 0;
  bool ignore_eos = false;  // go on after an end-of-generation token
  DraftMode draft = DraftMode::Auto;
  DraftLimits limits = {};               // of its drafts
  std::vector<TokenId> prediction = {};  // what it is likely to be: n-grams are looked up there, too
  VerifyMode verify = VerifyMode::Keyed;
  SamplingOptions sampling = {};
  std::vector<std::string> stop = {};     // strings that end the text, and are not part of it
  std::vector<TokenId> stop_tokens = {};  // tokens that do
  std::optional<int> logprobs = {};       // log-probabilities of each token, and of that many best ones beside it
  // What earlier texts have left in the caches is used where a prompt begins like them, and what this one leaves is
  // kept; the text is the same without. Texts of different salts share nothing.
  bool reuse = true;
  std::string salt = {};
  bool trace = false;                     // a record of each step: Sequence::trace
  LogitsProcessor logits_processor = {};  // none, or a function on the host that has the last word on logits
  std::shared_ptr<Grammar> grammar = {};  // what the text may be, of this text alone; null: anything
};

}  // namespace frspec

// What a user may choose when an engine is made, and for each text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "tree/draft_tree.h"
#include "verify/sampler.h"

namespace frspec {

struct EngineOptions {
  std::filesystem::path target;                  // GGUF
  std::optional<std::filesystem::path> drafter;  // GGUF; none: plain decoding
  std::optional<std::filesystem::path> ranks;    // a ranks file; none: those in the drafter
  std::string head = "full";                     // "full", "ranked:N"
  TreeShape tree;
  int context = 0;  // tokens of prompt and text together; 0: the model's own, at most kDefaultContext
  int batch = 512;  // prompt tokens per pass
  BackendOptions backend;
  KvType kv_type = KvType::F16;                                      // of the target's and the drafter's cache
  std::function<void(std::size_t done, std::size_t total)> on_load;  // bytes of weights; throwing ends the loading
  std::vector<int> taps;                                             // layers whose inputs Engine::forward hands out
};

KvType parse_kv_type(std::string_view name);  // "f16" or "q8_0"; throws InvalidInput for others

inline constexpr int kDefaultContext = 4096;
inline constexpr int kLogitRows = 16;  // rows of logits that Engine::forward computes at once

struct GenerateOptions {
  int max_tokens = 128;
  bool ignore_eos = false;  // go on after an end-of-generation token
  bool draft = true;        // false: plain decoding, although the engine has a drafter
  SamplingOptions sampling = {};
};

}  // namespace frspec

#include "vocab/token_ranks.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "vocab/builtin_ranks.h"

namespace frspec {
namespace {

void check_vocabulary(const GgufFile& file, const Tokenizer& target) {
  const std::string path = file.path().string();
  const auto size = file.find_int("frspec.ranks.vocab_size");
  if (size && *size != target.size()) {
    fail(path, ": key 'frspec.ranks.vocab_size': found ", *size, ", expected the target's vocabulary size ",
         target.size());
  }
  const auto fingerprint = file.find_string("frspec.ranks.vocab_fingerprint");
  if (fingerprint && *fingerprint != target.fingerprint()) {
    fail(path, ": key 'frspec.ranks.vocab_fingerprint': found ", *fingerprint, ", expected ", target.fingerprint(),
         ": the ranks were counted for another vocabulary than the target's");
  }
}

// Occurrences by token id; empty where the file has none.
std::vector<double> read_counts(const GgufFile& file, std::int64_t vocab) {
  const GgufTensor* tensor = file.find_tensor("token_counts");
  if (tensor == nullptr) return {};
  const std::string path = file.path().string();
  if (tensor->type != DType::I64 || tensor->dims != 1 || tensor->shape[0] != vocab) {
    fail(path, ": tensor 'token_counts': found type ", dtype_name(tensor->type), " of ", tensor->dims,
         " dimensions and ", tensor->shape[0], " columns, expected I64 of 1 and ", vocab);
  }
  const std::int64_t unit = file.find_int("frspec.ranks.count_unit").value_or(1);
  if (unit < 1) fail(path, ": key 'frspec.ranks.count_unit': found ", unit, ", expected at least 1");
  std::vector<std::int64_t> stored(static_cast<std::size_t>(vocab));
  std::memcpy(stored.data(), tensor->data, tensor->bytes);
  std::vector<double> counts;
  counts.reserve(stored.size());
  for (const std::int64_t count : stored) {
    if (count < 0) {
      fail(path, ": tensor 'token_counts', entry ", counts.size(), ": found ", count, ", expected 0 or more");
    }
    counts.push_back(static_cast<double>(count) / static_cast<double>(unit));
  }
  return counts;
}

}  // namespace

std::optional<TokenRanks> read_ranks(const GgufFile& file, const Tokenizer& target) {
  const GgufTensor* tensor = file.find_tensor("token_ranks");
  if (tensor == nullptr) return std::nullopt;
  const std::string path = file.path().string();
  if (tensor->type != DType::I32 || tensor->dims != 1) {
    fail(path, ": tensor 'token_ranks': found type ", dtype_name(tensor->type), " of ", tensor->dims,
         " dimensions, expected I32 of 1");
  }
  check_vocabulary(file, target);
  TokenRanks ranks{.file = path, .ids = std::vector<TokenId>(static_cast<std::size_t>(tensor->shape[0]))};
  std::memcpy(ranks.ids.data(), tensor->data, tensor->bytes);
  ranks.counts = read_counts(file, target.size());
  std::vector<bool> seen(static_cast<std::size_t>(target.size()), false);
  for (std::size_t i = 0; i < ranks.ids.size(); ++i) {
    const TokenId id = ranks.ids[i];
    if (id < 0 || id >= target.size()) {
      fail(path, ": tensor 'token_ranks', entry ", i, ": found id ", id, ", expected 0 to ", target.size() - 1);
    }
    if (seen[static_cast<std::size_t>(id)])
      fail(path, ": tensor 'token_ranks', entry ", i, ": id ", id, " stands twice");
    seen[static_cast<std::size_t>(id)] = true;
  }
  return ranks;
}

TokenRanks load_ranks(const std::filesystem::path& path, const Tokenizer& target) {
  const auto file = GgufFile::open(path, {.map = false});
  auto ranks = read_ranks(*file, target);
  if (!ranks) fail(path.string(), ": tensor 'token_ranks' is missing: expected a file made by frspec-rank");
  return *std::move(ranks);
}

bool ranks_are_of(const std::filesystem::path& path, const Tokenizer& vocabulary) {
  return GgufFile::open(path)->find_string("frspec.ranks.vocab_fingerprint") == vocabulary.fingerprint();
}

TokenRanks find_ranks(const std::optional<std::filesystem::path>& given, const GgufFile& drafter,
                      const Tokenizer& target) {
  if (given) {
    TokenRanks ranks = load_ranks(*given, target);
    ranks.source = "file";
    return ranks;
  }
  if (auto ranks = read_ranks(drafter, target)) {
    ranks->source = "drafter";
    return *std::move(ranks);
  }
  return builtin_ranks(target);
}

bool is_always_kept(const Tokenizer& target, TokenId id) {
  if (target.token_type(id) != TokenType::Control) return false;
  const std::string_view text = target.token_text(id);
  const std::size_t last = text.find_last_not_of("|>]");
  const bool is_numbered = last != std::string_view::npos && text[last] >= '0' && text[last] <= '9';
  return !is_numbered || target.is_end_of_generation(id) || target.bos() == id;
}

std::vector<TokenId> ranked_order(const TokenRanks& ranks, const Tokenizer& target) {
  std::vector<TokenId> order, spare;
  for (TokenId id = 0; id < target.size(); ++id) {
    if (target.token_type(id) == TokenType::Control) (is_always_kept(target, id) ? order : spare).push_back(id);
  }
  for (const TokenId id : ranks.ids) {
    const TokenType type = target.token_type(id);
    if (type != TokenType::Control && type != TokenType::Unused) order.push_back(id);
  }
  order.insert(order.end(), spare.begin(), spare.end());
  return order;
}

std::vector<TokenId> ranked_subset(const TokenRanks& ranks, int size, const Tokenizer& target) {
  if (size < 1 || size > target.size()) {
    fail("head: found ranked:", size, ", expected 1 to ", target.size(), " rows, the size of the vocabulary");
  }
  int controls = 0;
  for (TokenId id = 0; id < target.size(); ++id) controls += is_always_kept(target, id) ? 1 : 0;
  if (controls > size) {
    fail("head: found ranked:", size, ", expected at least ", controls,
         " rows: the control tokens of the vocabulary are always kept");
  }
  std::vector<TokenId> subset = frequent_tokens(ranks, size, target);
  if (static_cast<int>(subset.size()) < size) {
    fail("head: found ranked:", size, ", expected at most ", subset.size(), " rows: ", ranks.file,
         " ranks no more tokens");
  }
  return subset;
}

std::vector<TokenId> frequent_tokens(const TokenRanks& ranks, int size, const Tokenizer& target) {
  std::vector<TokenId> subset = ranked_order(ranks, target);
  subset.resize(std::min(subset.size(), static_cast<std::size_t>(size)));
  std::sort(subset.begin(), subset.end());  // so that ties go to the lower id, as in the full head
  return subset;
}

}  // namespace frspec

// Reduced vocabularies of drafters.
#include "vocab/draft_vocabulary.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"

namespace frspec {
namespace {

constexpr std::int32_t kNoRow = -1;

}  // namespace

std::optional<DraftVocabulary> read_draft_vocabulary(const GgufFile& file, std::int64_t rows, const Tokenizer& target) {
  const std::string path = file.path().string();
  const GgufTensor* tensor = file.find_tensor("d2t");
  if (tensor == nullptr) {
    if (rows == 0 || rows == target.size()) return std::nullopt;
    fail(path, ": tensor 'd2t' is missing: found ", rows, " rows in tensor 'output.weight', expected ", target.size(),
         ", one for each token of the target, or a tensor that names the token of each row");
  }
  if (rows == 0) {
    fail(path, ": tensor 'output.weight' is missing: expected ", tensor->shape[0], " rows, for the tokens of 'd2t'");
  }
  if (tensor->type != DType::I64 || tensor->dims != 1) {
    fail(path, ": tensor 'd2t': found type ", dtype_name(tensor->type), " of ", tensor->dims,
         " dimensions, expected I64 of 1");
  }
  if (tensor->shape[0] != rows) {
    fail(path, ": tensor 'd2t': found ", tensor->shape[0], " entries, expected ", rows,
         ", one for each row of 'output.weight'");
  }
  std::vector<std::int64_t> ids(static_cast<std::size_t>(rows));
  std::memcpy(ids.data(), tensor->data, tensor->bytes);
  std::vector<std::int32_t> row_of(static_cast<std::size_t>(target.size()), kNoRow);
  for (std::size_t row = 0; row < ids.size(); ++row) {
    if (ids[row] < 0 || ids[row] >= target.size()) {
      fail(path, ": tensor 'd2t', entry ", row, ": found id ", ids[row], ", expected 0 to ", target.size() - 1);
    }
    std::int32_t& known = row_of[static_cast<std::size_t>(ids[row])];
    if (known != kNoRow) {
      fail(path, ": tensor 'd2t', entry ", row, ": found id ", ids[row], ", which entry ", known,
           " has, too; expected each id once");
    }
    known = static_cast<std::int32_t>(row);
  }
  DraftVocabulary vocabulary;
  for (TokenId id = 0; id < target.size(); ++id) {
    const std::int32_t row = row_of[static_cast<std::size_t>(id)];
    if (row == kNoRow) continue;
    vocabulary.rows.push_back(row);
    vocabulary.tokens.push_back(id);
  }
  return vocabulary;
}

DraftVocabulary ranked_part(const DraftVocabulary& vocabulary, const TokenRanks& ranks, int size,
                            const Tokenizer& target) {
  const std::size_t count = vocabulary.tokens.size();
  if (size < 1 || static_cast<std::size_t>(size) > count) {
    fail("head: found ranked:", size, ", expected 1 to ", count, " rows, those of the drafter's own head");
  }
  // The place of each token in the order of preference; what is not ranked comes last.
  std::vector<std::size_t> place(static_cast<std::size_t>(target.size()), ranks.ids.size() + 1);
  for (std::size_t i = 0; i < ranks.ids.size(); ++i) place[static_cast<std::size_t>(ranks.ids[i])] = i + 1;
  for (const TokenId id : vocabulary.tokens) {
    if (target.token_type(id) == TokenType::Control) place[static_cast<std::size_t>(id)] = 0;
  }
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto place_of = [&](std::size_t i) { return place[static_cast<std::size_t>(vocabulary.tokens[i])]; };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return place_of(a) < place_of(b); });
  if (place_of(order[static_cast<std::size_t>(size) - 1]) > ranks.ids.size()) {
    const auto ranked =
        std::count_if(order.begin(), order.end(), [&](std::size_t i) { return place_of(i) <= ranks.ids.size(); });
    fail("head: found ranked:", size, ", expected at most ", ranked, " rows: ", ranks.file,
         " ranks no more of the tokens that the drafter's own head has");
  }
  const auto control = std::count_if(order.begin(), order.end(), [&](std::size_t i) { return place_of(i) == 0; });
  if (control > size) {
    fail("head: found ranked:", size, ", expected at least ", control,
         " rows: the control tokens of the drafter's own head are always kept");
  }
  order.resize(static_cast<std::size_t>(size));
  std::sort(order.begin(), order.end());  // so that ties go to the lower id
  DraftVocabulary part;
  for (const std::size_t i : order) {
    part.rows.push_back(vocabulary.rows[i]);
    part.tokens.push_back(vocabulary.tokens[i]);
  }
  return part;
}

}  // namespace frspec

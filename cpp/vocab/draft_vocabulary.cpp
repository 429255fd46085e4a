#include "vocab/draft_vocabulary.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace frspec {
namespace {

constexpr std::int32_t kNoRow = -1;

}  // namespace

std::optional<DraftVocabulary> read_draft_vocabulary(const GgufFile& file, std::int64_t rows, const Tokenizer& target,
                                                     std::string_view head) {
  const std::string path = file.path().string();
  const GgufTensor* tensor = file.find_tensor("d2t");
  if (tensor == nullptr) {
    if (rows == 0 || rows == target.size()) return std::nullopt;
    fail(path, ": tensor 'd2t' is missing: found ", rows, " rows in tensor '", head, "', expected ", target.size(),
         ", one for each token of the target, or a tensor that names the token of each row");
  }
  if (rows == 0) {
    fail(path, ": tensor '", head, "' is missing: expected ", tensor->shape[0], " rows, for the tokens of 'd2t'");
  }
  if (tensor->type != DType::I64 || tensor->dims != 1) {
    fail(path, ": tensor 'd2t': found type ", dtype_name(tensor->type), " of ", tensor->dims,
         " dimensions, expected I64 of 1");
  }
  if (tensor->shape[0] != rows) {
    fail(path, ": tensor 'd2t': found ", tensor->shape[0], " entries, expected ", rows, ", one for each row of '", head,
         "'");
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

std::vector<TokenId> ranked_part(const DraftVocabulary& vocabulary, const TokenRanks& ranks, int size,
                                 const Tokenizer& target) {
  const std::vector<TokenId>& tokens = vocabulary.tokens;
  if (size < 1 || static_cast<std::size_t>(size) > tokens.size()) {
    fail("head: found ranked:", size, ", expected 1 to ", tokens.size(), " rows, ", vocabulary.whose);
  }
  std::vector<TokenId> part;
  int kept = 0;
  for (const TokenId id : ranked_order(ranks, target)) {
    if (!std::binary_search(tokens.begin(), tokens.end(), id)) continue;
    part.push_back(id);
    kept += is_always_kept(target, id) ? 1 : 0;
  }
  if (part.size() < static_cast<std::size_t>(size)) {
    fail("head: found ranked:", size, ", expected at most ", part.size(), " rows: ", ranks.file, " ranks no more of ",
         vocabulary.whose);
  }
  if (kept > size) {
    fail("head: found ranked:", size, ", expected at least ", kept, " rows: the control tokens among ",
         vocabulary.whose, " are always kept");
  }
  part.resize(static_cast<std::size_t>(size));
  std::sort(part.begin(), part.end());  // so that ties go to the lower id
  return part;
}

}  // namespace frspec

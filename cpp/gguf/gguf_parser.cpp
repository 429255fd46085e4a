// The GGUF grammar: header, metadata, tensor directory, data. All numbers are little-endian and may lie unaligned.
#include "gguf/gguf_parser.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "gguf/gguf_values.h"

namespace frspec {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF numbers are read as they lie in memory");

constexpr std::size_t kDefaultAlignment = 32;
constexpr std::size_t kMinAlignment = 8;     // of the widest element: data is read through typed pointers
constexpr std::size_t kMaxNameBytes = 63;    // as in ggml
constexpr std::size_t kMaxNesting = 8;       // arrays of arrays; nobody writes them
constexpr std::size_t kMinEntryBytes = 13;   // empty key, type, one byte of value
constexpr std::size_t kMinTensorBytes = 32;  // empty name, one dimension, type, offset
constexpr std::size_t kStringLengthBytes = 8;
constexpr std::size_t kArrayHeaderBytes = 12;  // element type and count

// Parses one file front to back. `what_` says what is being read, for messages.
class Parser {
 public:
  explicit Parser(const MappedFile& file) : file_(file) {}

  GgufPart run() {
    read_header();
    read_metadata();
    read_alignment();
    read_directory();
    place_tensors();
    return std::move(part_);
  }

 private:
  std::size_t left() const { return file_.bytes() - at_; }

  template <class... Parts>
  [[noreturn]] void reject(const Parts&... parts) const {
    fail(file_.name(), ": ", parts...);
  }

  // "header", "metadata key "x"" or "tensor "y"": the place a message is about.
  std::string place() const { return subject_.empty() ? std::string(kind_) : concat(kind_, ' ', subject_); }

  void need(std::size_t bytes, const char* what) const {
    if (bytes > left()) {
      reject("ends inside ", what, " of ", place(), " (needs ", bytes, " bytes at offset ", at_, ", ", left(),
             " are left)");
    }
  }

  template <class T>
  T read(const char* what) {
    need(sizeof(T), what);
    T value;
    std::memcpy(&value, file_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  std::string_view read_string(const char* what) {
    const auto length = read<std::uint64_t>(what);
    if (length > left()) {
      reject(what, " of ", place(), " has a length of ", length, " bytes, but only ", left(),
             " bytes are left in the file");
    }
    const std::string_view text(reinterpret_cast<const char*>(file_.data() + at_), static_cast<std::size_t>(length));
    at_ += text.size();
    return text;
  }

  // A count can be believed only where the bytes left could hold that many of the smallest item.
  std::size_t check_count(std::uint64_t count, std::size_t min_bytes, const char* items) const {
    if (count > left() / min_bytes) {
      reject(place(), " declares ", count, ' ', items, ", but the ", left(), " bytes left in the file hold at most ",
             left() / min_bytes);
    }
    return static_cast<std::size_t>(count);
  }

  void read_header();
  void read_metadata();
  GgufType read_type(const char* what);
  GgufValue read_value(GgufType type);
  GgufValue read_array(std::size_t depth);
  GgufStrings read_strings(std::size_t count);
  void check_bools(const std::byte* data, std::size_t count) const;
  void read_alignment();
  void read_directory();
  void read_tensor(GgufTensor& tensor);
  void read_shape(GgufTensor& tensor);
  void check_size(GgufTensor& tensor) const;
  void place_tensors();
  void check_overlaps() const;

  const MappedFile& file_;
  std::size_t at_ = 0;
  const char* kind_ = "the header";
  std::string subject_;
  GgufPart part_;
  std::size_t tensor_count_ = 0;
  std::size_t entry_count_ = 0;
  std::vector<std::uint64_t> offsets_;  // of part_.tensors, from the start of the data
};

void Parser::read_header() {
  if (file_.bytes() < 4 || std::memcmp(file_.data(), "GGUF", 4) != 0) {
    const std::string_view start(reinterpret_cast<const char*>(file_.data()), std::min<std::size_t>(file_.bytes(), 4));
    reject("is not a GGUF file: begins with ", quoted(start), ", expected \"GGUF\"");
  }
  at_ = 4;
  part_.version = read<std::uint32_t>("the version");
  if ((part_.version & 0xFFFFU) == 0 && part_.version != 0) {
    reject("is a big-endian GGUF file, expected little-endian");
  }
  if (part_.version == 1) reject("has GGUF version 1, which is no longer read; expected 2 or 3: convert it again");
  if (part_.version != 2 && part_.version != 3) reject("has GGUF version ", part_.version, ", expected 2 or 3");
  const auto tensors = read<std::uint64_t>("the tensor count");
  const auto entries = read<std::uint64_t>("the metadata count");
  tensor_count_ = check_count(tensors, kMinTensorBytes, "tensors");
  entry_count_ = check_count(entries, kMinEntryBytes, "metadata entries");
}

void Parser::read_metadata() {
  part_.metadata.reserve(entry_count_);
  for (std::size_t i = 0; i < entry_count_; ++i) {
    kind_ = "metadata entry";
    subject_ = std::to_string(i);
    const std::string_view key = read_string("the key");
    kind_ = "metadata key";
    subject_ = quoted(key);
    if (!part_.entry_by_key.emplace(key, i).second) reject(place(), " appears twice, expected once");
    const GgufType type = read_type("the value type");
    part_.metadata.push_back({key, type, read_value(type)});
  }
}

GgufType Parser::read_type(const char* what) {
  const auto number = read<std::uint32_t>(what);
  if (number > static_cast<std::uint32_t>(GgufType::F64)) {
    reject(place(), ": ", what, " is ", number, ", expected 0 to 12");
  }
  return static_cast<GgufType>(number);
}

GgufValue Parser::read_value(GgufType type) {
  if (type == GgufType::String) return read_string("the string");
  if (type == GgufType::Array) return read_array(1);
  const std::size_t bytes = gguf_type_bytes(type);
  need(bytes, "the value");
  const GgufNumberArray value{type, 1, file_.data() + at_};
  at_ += bytes;
  switch (type) {
    case GgufType::Bool:
      check_bools(value.data, 1);
      return gguf_unsigned_at(value, 0) != 0;
    case GgufType::F32:
    case GgufType::F64:
      return gguf_float_at(value, 0);
    case GgufType::I8:
    case GgufType::I16:
    case GgufType::I32:
    case GgufType::I64:
      return gguf_signed_at(value, 0);
    default:
      return gguf_unsigned_at(value, 0);
  }
}

GgufValue Parser::read_array(std::size_t depth) {
  if (depth > kMaxNesting) reject(place(), " nests arrays more than ", kMaxNesting, " deep");
  const GgufType element = read_type("the array's element type");
  const auto declared = read<std::uint64_t>("the array's count");
  if (element == GgufType::String) return read_strings(check_count(declared, kStringLengthBytes, "strings"));
  if (element == GgufType::Array) {
    const std::size_t count = check_count(declared, kArrayHeaderBytes, "arrays");
    for (std::size_t i = 0; i < count; ++i) read_array(depth + 1);
    return GgufNestedArray{count};
  }
  const std::size_t bytes = gguf_type_bytes(element);
  const GgufNumberArray array{element, check_count(declared, bytes, "array elements"), file_.data() + at_};
  if (element == GgufType::Bool) check_bools(array.data, array.count);
  at_ += array.count * bytes;
  return array;
}

GgufStrings Parser::read_strings(std::size_t count) {
  GgufStrings strings(count);
  for (std::string_view& text : strings) text = read_string("a string");
  return strings;
}

void Parser::check_bools(const std::byte* data, std::size_t count) const {
  const auto is_bool = [](std::byte value) { return value == std::byte{0} || value == std::byte{1}; };
  const std::byte* bad = std::find_if_not(data, data + count, is_bool);
  if (bad != data + count) {
    reject(place(), " holds a boolean of ", std::to_integer<unsigned>(*bad), ", expected 0 or 1");
  }
}

void Parser::read_alignment() {
  part_.alignment = kDefaultAlignment;
  const auto found = part_.entry_by_key.find("general.alignment");
  if (found == part_.entry_by_key.end()) return;
  const GgufEntry& entry = part_.metadata[found->second];
  if (entry.type != GgufType::U32) {
    reject("metadata key \"general.alignment\" is of type ", gguf_type_name(entry.type), ", expected u32");
  }
  const std::uint64_t alignment = std::get<std::uint64_t>(entry.value);
  if (!std::has_single_bit(alignment) || alignment < kMinAlignment) {
    reject("metadata key \"general.alignment\" is ", alignment, ", expected a power of two of at least ",
           kMinAlignment);
  }
  part_.alignment = static_cast<std::size_t>(alignment);
}

void Parser::read_directory() {
  kind_ = "the tensor directory";
  subject_.clear();
  check_count(tensor_count_, kMinTensorBytes, "tensors");
  part_.tensors.resize(tensor_count_);
  offsets_.reserve(tensor_count_);
  std::unordered_set<std::string_view> names;
  for (std::size_t i = 0; i < tensor_count_; ++i) {
    kind_ = "tensor number";
    subject_ = std::to_string(i);
    GgufTensor& tensor = part_.tensors[i];
    tensor.name = read_string("the name");
    kind_ = "tensor";
    subject_ = quoted(tensor.name);
    if (tensor.name.size() > kMaxNameBytes) {
      reject(place(), " has a name of ", tensor.name.size(), " bytes, expected at most ", kMaxNameBytes);
    }
    if (!names.insert(tensor.name).second) reject(place(), " appears twice, expected once");
    read_tensor(tensor);
  }
}

void Parser::read_tensor(GgufTensor& tensor) {
  read_shape(tensor);
  const auto number = read<std::uint32_t>("the type");
  const DTypeInfo* info = find_dtype(number);
  if (info == nullptr) reject(place(), " has type number ", number, ", which is unknown");
  tensor.type = info->type;
  check_size(tensor);
  const auto offset = read<std::uint64_t>("the offset");
  if (offset % part_.alignment != 0) {
    reject(place(), " has its data at offset ", offset, ", expected a multiple of the alignment ", part_.alignment);
  }
  offsets_.push_back(offset);
}

void Parser::read_shape(GgufTensor& tensor) {
  const auto dims = read<std::uint32_t>("the number of dimensions");
  if (dims < 1 || dims > tensor.shape.size()) {
    reject(place(), " has ", dims, " dimensions, expected 1 to ", tensor.shape.size());
  }
  tensor.dims = static_cast<int>(dims);
  tensor.shape.fill(1);
  std::int64_t elements = 1;
  for (std::size_t d = 0; d < dims; ++d) {
    tensor.shape[d] = read<std::int64_t>("the shape");
    if (tensor.shape[d] <= 0) {
      reject(place(), " has a size of ", tensor.shape[d], " in dimension ", d, ", expected at least 1");
    }
    if (__builtin_mul_overflow(elements, tensor.shape[d], &elements)) {
      reject(place(), " has a shape whose number of elements overflows 64 bits (dimension ", d, " is ", tensor.shape[d],
             ")");
    }
  }
}

void Parser::check_size(GgufTensor& tensor) const {
  const DTypeInfo& info = dtype_info(tensor.type);
  const auto cols = static_cast<std::uint64_t>(tensor.cols());
  if (cols % info.block_size != 0) {
    reject(place(), " has rows of ", cols, " elements, expected a multiple of ", info.block_size, " for type ",
           info.name);
  }
  const std::uint64_t row = cols / info.block_size;  // blocks; at most 2^63, so only the products can overflow
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(row, info.block_bytes, &bytes) ||
      __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(tensor.rows()), &bytes)) {
    reject(place(), " has a shape whose number of bytes overflows 64 bits");
  }
  tensor.bytes = bytes;
}

// The data begins at the first aligned offset after the directory.
void Parser::place_tensors() {
  if (part_.tensors.empty()) return;
  const std::size_t start = (at_ + part_.alignment - 1) / part_.alignment * part_.alignment;
  const std::size_t room = file_.bytes() > start ? file_.bytes() - start : 0;
  for (std::size_t i = 0; i < part_.tensors.size(); ++i) {
    GgufTensor& tensor = part_.tensors[i];
    if (offsets_[i] > room || tensor.bytes > room - offsets_[i]) {
      reject("tensor ", quoted(tensor.name), " needs ", tensor.bytes, " bytes at offset ", offsets_[i],
             " of the data, which has only ", room, " bytes: the file is truncated or corrupted");
    }
    tensor.data = file_.data() + start + offsets_[i];
  }
  check_overlaps();
}

void Parser::check_overlaps() const {
  std::vector<const GgufTensor*> order;
  order.reserve(part_.tensors.size());
  for (const GgufTensor& tensor : part_.tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const GgufTensor* a, const GgufTensor* b) { return a->data < b->data; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const GgufTensor& before = *order[i - 1];
    if (before.bytes > static_cast<std::size_t>(order[i]->data - before.data)) {
      reject("tensor ", quoted(order[i]->name), " begins inside the data of tensor ", quoted(before.name),
             ", expected tensors that do not overlap");
    }
  }
}

}  // namespace

GgufPart parse_gguf(const MappedFile& file) { return Parser(file).run(); }

}  // namespace frspec

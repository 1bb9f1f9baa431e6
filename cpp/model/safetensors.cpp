// The safetensors format: 8 bytes of header length (little endian), a JSON header, the data. Every number in the header
// is checked before it is used: the file may come from anyone.
#include "model/model.h"

#include <algorithm>
#include <array>
#include <set>

namespace warpjet {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own library
constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kBasePrefix = "model.";  // base_model_prefix of every family
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

// "<file>: tensor "<name>": " in front of every complaint.
struct TensorPlace {
  const std::string& source;
  std::string_view name;
};
std::ostream& operator<<(std::ostream& out, const TensorPlace& place) {
  return out << place.source << ": tensor " << quote(place.name) << ": ";
}

struct Extent {
  std::int64_t begin, end;
};

// A non-negative integer out of the header.
std::int64_t size_of(const TensorPlace& place, std::string_view what, const Json& json) {
  WJ_REQUIRE(json.is_integer() && json.as_int() >= 0, corrupt, place, what, " must be integers from 0, got ",
             quote(json.dump()));
  return json.as_int();
}

const Json& member(const TensorPlace& place, const Json& json, std::string_view key, Json::Kind kind) {
  const Json* value = json.find(key);
  WJ_REQUIRE(value != nullptr && value->kind() == kind, corrupt, place, key, " must be ", to_string(kind), ", got ",
             value == nullptr ? "nothing" : to_string(value->kind()));
  return *value;
}

Shape read_shape(const TensorPlace& place, const Json& json) {
  const Json::Array& extents = member(place, json, "shape", Json::Kind::array).as_array();
  WJ_REQUIRE(extents.size() <= Shape::kMaxRank, corrupt, place, "shape has ", extents.size(),
             " axes, expected at most ", Shape::kMaxRank);
  std::vector<std::int64_t> sizes;
  for (const Json& extent : extents) sizes.push_back(size_of(place, "shape", extent));
  return Shape(sizes);
}

Extent read_extent(const TensorPlace& place, const Json& json, std::int64_t data_bytes) {
  const Json::Array& offsets = member(place, json, "data_offsets", Json::Kind::array).as_array();
  WJ_REQUIRE(offsets.size() == 2, corrupt, place, "data_offsets must be two numbers, got ", offsets.size());
  const Extent extent{size_of(place, "data_offsets", offsets[0]), size_of(place, "data_offsets", offsets[1])};
  WJ_REQUIRE(extent.begin <= extent.end, corrupt, place, "data_offsets [", extent.begin, ", ", extent.end,
             "] are descending");
  WJ_REQUIRE(extent.end <= data_bytes, corrupt, place, "data_offsets [", extent.begin, ", ", extent.end,
             "] reach beyond the file, which has ", data_bytes, " bytes of data; is it truncated?");
  return extent;
}

// Where the tensors are in the file.
struct Data {
  std::int64_t begin, bytes;
};

TensorEntry read_entry(const TensorPlace& place, const Json& json, const Data& data) {
  WJ_REQUIRE(json.is_object(), corrupt, place, "expected an object, got ", to_string(json.kind()));
  const std::string& type = member(place, json, "dtype", Json::Kind::string).as_string();
  const std::optional<DType> dtype = dtype_from_string(type);
  WJ_REQUIRE(dtype.has_value(), corrupt, place, "unknown dtype ", quote(type));
  const Shape shape = read_shape(place, json);
  const Extent extent = read_extent(place, json, data.bytes);
  std::int64_t elements = 1, bytes = 0;
  bool overflow = false;
  for (const std::int64_t size : shape.extents()) overflow |= __builtin_mul_overflow(elements, size, &elements);
  overflow |= __builtin_mul_overflow(elements, std::int64_t{dtype_bytes(*dtype)}, &bytes);
  WJ_REQUIRE(!overflow && bytes == extent.end - extent.begin, corrupt, place, shape.to_string(), " of ", type,
             " does not fill its data_offsets [", extent.begin, ", ", extent.end, "]");
  WJ_REQUIRE(extent.begin % dtype_bytes(*dtype) == 0, corrupt, place, "data_offsets begin at ", extent.begin,
             ", which is not aligned to ", type);
  return {.name = std::string(place.name),
          .dtype = *dtype,
          .shape = shape,
          .offset = data.begin + extent.begin,
          .bytes = bytes,
          .file = nullptr};
}

// Laid end to end in order of their offsets, the tensors must fill the data: no byte belongs to two, none to nobody.
void require_exact_cover(std::vector<TensorEntry>& entries, const Data& data, const std::string& source) {
  const auto offset = [&](const TensorEntry& entry) { return entry.offset - data.begin; };
  std::sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  std::int64_t end = 0;
  for (const TensorEntry& entry : entries) {
    const TensorPlace place{source, entry.name};
    WJ_REQUIRE(offset(entry) >= end, corrupt, place, "overlaps the tensor before it: begins at ", offset(entry),
               ", expected ", end);
    WJ_REQUIRE(offset(entry) == end, corrupt, place, "leaves a gap: begins at ", offset(entry), ", expected ", end);
    end += entry.bytes;
  }
  WJ_REQUIRE(end == data.bytes, corrupt, source, ": the tensors end at byte ", end, " of the data, but the file has ",
             data.bytes, " bytes of data");
}

void check_shard_name(const fs::path& index, const std::string& shard) {
  const bool plain =
      !shard.empty() && shard[0] != '.' && shard.find_first_of(std::string_view("/\\\0", 3)) == shard.npos;
  WJ_REQUIRE(plain, corrupt, index.string(), ": shard ", quote(shard), " must be the name of a file beside the index");
}

// The length that the file begins with.
std::size_t read_header_bytes(std::span<const std::byte, kLengthBytes> begin, std::int64_t file_bytes,
                              const std::string& source) {
  std::uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | static_cast<std::uint8_t>(begin[i]);
  const auto most = std::min(kMaxHeaderBytes, static_cast<std::uint64_t>(file_bytes) - kLengthBytes);
  WJ_REQUIRE(header_bytes > 0 && header_bytes <= most, corrupt, source, ": header of ", header_bytes,
             " bytes, expected 1 to ", most, "; is this a safetensors file?");
  return static_cast<std::size_t>(header_bytes);
}

void require_length(std::int64_t file_bytes, const std::string& source) {
  WJ_REQUIRE(std::cmp_greater_equal(file_bytes, kLengthBytes), corrupt, source, ": ", file_bytes,
             " bytes are too few for a safetensors file");
}

// The length and the header.
std::vector<std::byte> read_head(const FileReader& file) {
  const std::string source = file.path().string();
  require_length(file.size(), source);
  std::array<std::byte, kLengthBytes> length;
  file.read(0, length);
  std::vector<std::byte> head(kLengthBytes + read_header_bytes(length, file.size(), source));
  file.read(0, head);
  return head;
}

}  // namespace

std::vector<TensorEntry> parse_safetensors(std::span<const std::byte> head, std::int64_t file_bytes,
                                           const std::string& source) {
  require_length(file_bytes, source);
  const std::size_t header_bytes = read_header_bytes(head.first<kLengthBytes>(), file_bytes, source);
  const std::span<const std::byte> bytes = head.subspan(kLengthBytes, header_bytes);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const Json header = Json::parse(text, {.source = source + " header"});
  WJ_REQUIRE(header.is_object(), corrupt, source, ": the header must be an object, got ", to_string(header.kind()));
  const auto begin = static_cast<std::int64_t>(kLengthBytes + header_bytes);
  const Data data{.begin = begin, .bytes = file_bytes - begin};
  std::vector<TensorEntry> entries;
  for (const auto& [name, json] : header.as_object()) {
    if (name == "__metadata__") {
      WJ_REQUIRE(json.is_object(), corrupt, source, ": __metadata__ must be an object");
    } else {
      entries.push_back(read_entry({source, name}, json, data));
    }
  }
  require_exact_cover(entries, data, source);
  return entries;
}

void SafeTensors::add_file(const fs::path& path) {
  const FileReader& file = *files_.emplace_back(std::make_unique<FileReader>(path));
  for (TensorEntry& entry : parse_safetensors(read_head(file), file.size(), path.string())) {
    entry.file = &file;
    const auto [place, fresh] = tensors_.try_emplace(entry.name, entry);
    WJ_REQUIRE(fresh, corrupt, path.string(), ": tensor ", quote(entry.name), " is also in ",
               place->second.file->path().string());
  }
}

SafeTensors SafeTensors::open_file(const fs::path& file) {
  SafeTensors tensors;
  tensors.add_file(file);
  return tensors;
}

SafeTensors SafeTensors::open(const fs::path& directory) {
  if (path_exists(directory / kSingleFile)) return open_file(directory / kSingleFile);
  const fs::path index = directory / kIndexFile;
  WJ_REQUIRE(path_exists(index), io, directory.string(), " holds neither ", kSingleFile, " nor ", kIndexFile,
             "; other weight formats are not read");
  const Json json = Json::load(index);
  const Json* map = json.find("weight_map");
  WJ_REQUIRE(map != nullptr && map->is_object(), corrupt, index.string(), ": weight_map must be an object");

  SafeTensors tensors;
  std::set<std::string> shards;
  for (const auto& [name, shard] : map->as_object()) {
    WJ_REQUIRE(shard.is_string(), corrupt, index.string(), ": weight_map of ", quote(name), " must be a string");
    check_shard_name(index, shard.as_string());
    shards.insert(shard.as_string());
  }
  for (const std::string& shard : shards) tensors.add_file(directory / shard);
  for (const auto& [name, shard] : map->as_object()) {
    const TensorEntry* entry = tensors.find(name);
    WJ_REQUIRE(entry != nullptr && entry->file->path().filename() == shard.as_string(), corrupt, index.string(),
               ": tensor ", quote(name), " is not in ", shard.as_string());
  }
  return tensors;
}

const TensorEntry* SafeTensors::find(std::string_view name) const {
  auto found = tensors_.find(name);
  if (found == tensors_.end() && name.starts_with(kBasePrefix)) found = tensors_.find(name.substr(kBasePrefix.size()));
  return found == tensors_.end() ? nullptr : &found->second;
}

std::int64_t SafeTensors::bytes() const {
  std::int64_t total = 0;
  for (const auto& [name, entry] : tensors_) total += entry.bytes;
  return total;
}

}  // namespace warpjet

// The engine directory: engine.json (versions and the plan), weights.bin (aligned blobs in load order) and the
// tokenizer's files. Written beside its final place and renamed, so that it is there whole or not at all.
#include <unistd.h>

#include <warpjet/warpjet.h>

#include "plan/loader.h"

#include <algorithm>

namespace warpjet {
namespace {

namespace fs = std::filesystem;

constexpr const char* kEngineJson = "engine.json";
constexpr const char* kWeightsBin = "weights.bin";
constexpr const char* kCopiedFiles[] = {"tokenizer.json",          "tokenizer_config.json", "generation_config.json",
                                        "special_tokens_map.json", "added_tokens.json",     "chat_template.jinja"};

// Runs a std::filesystem call and turns its failure into our error.
template <class F>
void file_action(const char* what, const fs::path& path, F&& action) {
  std::error_code error;
  action(error);
  WJ_REQUIRE(!error, io, "cannot ", what, " ", path.string(), ": ", error.message());
}

// A directory that removes itself unless it was moved to its final place.
class StagingDirectory {
 public:
  explicit StagingDirectory(const fs::path& target) : path_(target.string() + cat(".partial-", ::getpid())) {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
    file_action("create", path_, [&](std::error_code& e) { fs::create_directories(path_, e); });
  }
  ~StagingDirectory() {
    std::error_code ignored;
    if (!moved_) fs::remove_all(path_, ignored);
  }
  StagingDirectory(const StagingDirectory&) = delete;
  StagingDirectory& operator=(const StagingDirectory&) = delete;

  const fs::path& path() const { return path_; }

  // An old directory at `target` is moved aside first and removed last: readers see one or the other.
  void move_to(const fs::path& target) {
    const fs::path old = target.string() + cat(".old-", ::getpid());
    std::error_code ignored;
    const bool replaces = fs::exists(target, ignored);
    if (replaces) file_action("move aside", target, [&](std::error_code& e) { fs::rename(target, old, e); });
    file_action("move into place", target, [&](std::error_code& e) { fs::rename(path_, target, e); });
    moved_ = true;
    if (replaces) fs::remove_all(old, ignored);
  }

 private:
  fs::path path_;
  bool moved_ = false;
};

void write_weights(const Checkpoint& checkpoint, Plan& plan, const fs::path& file, const BuildProgress& progress) {
  FileWriter writer(file);
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    WeightRef& ref = plan.weights[i];
    writer.pad_to(ref.offset);
    Checksum checksum;
    read_slot(checkpoint.slots[i], checkpoint.tensors, ref.format, [&](std::span<const std::byte> piece) {
      checksum.update(piece);
      writer.write(piece);
      if (progress) progress(writer.size(), plan.weight_bytes());
    });
    ref.checksum = checksum.hex();
  }
  writer.pad_to(plan.weight_bytes());
  writer.close();
}

std::string rebuild_command(const Json& engine, const fs::path& directory) {
  const Json* source = engine.find("source");
  const Json* plan = engine.find("plan");
  const Json* scheme = plan ? plan->find("scheme") : nullptr;
  return cat("warpjet build ", source && source->is_string() ? source->as_string() : "CHECKPOINT", " -o ",
             directory.string(), scheme && scheme->is_string() ? " --scheme " + scheme->as_string() : "",
             " --overwrite");
}

void require_size(const fs::path& file, std::int64_t bytes, const Plan& plan) {
  WJ_REQUIRE(bytes == plan.weight_bytes(), corrupt, file.string(), " has ", bytes, " bytes, the plan expects ",
             plan.weight_bytes(), ": truncated or of another engine; rebuild it");
}

void require_checksum(const fs::path& file, const WeightRef& ref, const Checksum& checksum) {
  WJ_REQUIRE(checksum.hex() == ref.checksum, corrupt, file.string(), ": weight ", ref.name,
             " does not match its checksum: the file is damaged; rebuild it");
}

}  // namespace

void write_engine(const Checkpoint& checkpoint, Plan plan, const fs::path& source, const fs::path& out, bool overwrite,
                  const BuildProgress& progress) {
  std::error_code ignored;
  const fs::path target = fs::absolute(out).lexically_normal();
  const fs::path clean = target.filename().empty() ? target.parent_path() : target;
  WJ_REQUIRE(overwrite || !fs::exists(clean, ignored), invalid_argument, "engine directory ", clean.string(),
             " exists; remove it, or replace it with overwrite (--overwrite)");
  WJ_REQUIRE(!fs::exists(clean, ignored) || is_engine_directory(clean) || fs::is_empty(clean, ignored),
             invalid_argument, clean.string(), " is not an engine directory: refusing to overwrite it");

  StagingDirectory staging(clean);
  write_weights(checkpoint, plan, staging.path() / kWeightsBin, progress);
  const Json engine = Json::Object{{"format", kEngineFormat},
                                   {"warpjet", WARPJET_VERSION},
                                   {"source", fs::absolute(source).lexically_normal().string()},
                                   {"plan", plan_to_json(plan)}};
  write_text_file(staging.path() / kEngineJson, engine.dump(1));
  for (const char* name : kCopiedFiles) {
    if (!fs::exists(source / name, ignored)) continue;
    file_action("copy", source / name,
                [&](std::error_code& e) { fs::copy_file(source / name, staging.path() / name, e); });
  }
  staging.move_to(clean);
}

bool is_engine_directory(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path / kEngineJson, ignored);
}

Plan read_engine_plan(const fs::path& directory) {
  const fs::path file = directory / kEngineJson;
  const Json engine = Json::load(file);
  const Json* format = engine.find("format");
  WJ_REQUIRE(format && format->is_integer() && engine.find("plan"), corrupt, file.string(),
             ": not the description of an engine; rebuild it: ", rebuild_command(engine, directory));
  const Json* version = engine.find("warpjet");
  WJ_REQUIRE(format->as_int() == kEngineFormat, unsupported, file.string(), " has format ", format->as_int(),
             ", written by warpjet ", version && version->is_string() ? version->as_string() : "of an unknown version",
             "; this is warpjet ", WARPJET_VERSION, ", which reads format ", kEngineFormat,
             "; rebuild it: ", rebuild_command(engine, directory));
  try {
    return plan_from_json(engine.at("plan"));
  } catch (const Error& e) {
    WJ_FAIL(corrupt, file.string(), ": ", e.message(), "; rebuild it: ", rebuild_command(engine, directory));
  }
}

Weights read_engine_weights(const fs::path& directory, const Plan& plan, Device& device) {
  const fs::path path = directory / kWeightsBin;
  const FileReader file(path);
  require_size(path, file.size(), plan);
  Weights weights;
  weights.owned = device.allocate(plan.weight_bytes());
  weights.readers = load_weights(plan, device, [&](std::size_t i, Lane& lane) {
    const WeightRef& ref = plan.weights[i];
    const std::int64_t total = weight_bytes(ref);
    Checksum checksum;
    for (std::int64_t done = 0, count = 0; done < total; done += count) {
      std::span<std::byte> slot = lane.slot();
      count = std::min<std::int64_t>(total - done, std::ssize(slot));
      slot = slot.first(static_cast<std::size_t>(count));
      file.read(ref.offset + done, slot);
      file.prefetch(ref.offset + done + count, std::min<std::int64_t>(total - done - count, kSlotBytes));
      lane.send(weights.owned.at(ref.offset + done), count);
      checksum.update(slot);  // while it is copied
    }
    require_checksum(path, ref, checksum);
  });
  return weights;
}

}  // namespace warpjet

// Token ids -> text, for native programs. Reads the tokenizer.json of a checkpoint or an engine directory; byte-level
// (Llama 3, Qwen) and byte-fallback (Llama 2, Mistral) vocabularies. Encoding text is the tokenizer's business: native
// programs bring token ids, Python brings the tokenizers package.
#pragma once

#include <warpjet/error.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace warpjet {

class WJ_API Vocabulary {
 public:
  // Throws io, corrupt, or unsupported for another kind of decoder.
  static Vocabulary load(const std::filesystem::path& directory);

  // The same from the text of a tokenizer.json; `source` names it in errors.
  static Vocabulary parse(std::string_view text, const std::string& source);

  // The bytes of these tokens, special tokens left out. A piece of a stream may end within a UTF-8 character; the
  // pieces joined are exact. Ids outside the vocabulary give nothing.
  std::string text(std::span<const std::int32_t> tokens) const;

  std::int64_t size() const { return static_cast<std::int64_t>(bytes_.size()); }

 private:
  std::vector<std::string> bytes_;  // by id; special tokens are empty
};

}  // namespace warpjet

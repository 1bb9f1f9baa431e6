// Token ids to text, for native programs.
#include <warpjet/vocabulary.h>

#include <gtest/gtest.h>

#include "error_kit.h"

namespace warpjet {
namespace {

Vocabulary parse(const std::string& model_and_rest) {
  return Vocabulary::parse("{" + model_and_rest + "}", "test");
}

std::string text(const Vocabulary& vocabulary, std::vector<std::int32_t> tokens) {
  return vocabulary.text(tokens);
}

TEST(Vocabulary, ByteLevelCharactersAreBytes) {
  const Vocabulary v =
      parse(R"("decoder":{"type":"ByteLevel"},"model":{"vocab":{"H":0,"\u0120i":1,"\u00c3":2,"\u00a9":3,"\u010a":4}})");
  EXPECT_EQ(text(v, {0, 1, 2, 3, 4}), "H i\xc3\xa9\n");
}

TEST(Vocabulary, ByteFallbackKnowsBytesAndSpaces) {
  const Vocabulary v = parse(R"("decoder":{"type":"Sequence","decoders":[{"type":"Replace"},{"type":"ByteFallback"}]},)"
                             R"("model":{"vocab":{"\u2581Hi":0,"a\u2581b\u2581":1,"<0x0A>":2,"<0xc3>":3,"<0xG0>":4}})");
  EXPECT_EQ(text(v, {0, 1, 2, 3, 4}), " Hia b \n\xc3<0xG0>");
}

TEST(Vocabulary, SpecialTokensAndUnknownIdsAreSilent) {
  const Vocabulary v =
      parse(R"("decoder":{"type":"ByteLevel"},"model":{"vocab":{"a":0,"<s>":1}},)"
            R"("added_tokens":[{"id":1,"content":"<s>","special":true},{"id":2,"content":"\u00fc","special":false}])");
  EXPECT_EQ(text(v, {1, 0, 2, -5, 99}), "a\u00fc");
}

TEST(Vocabulary, RefusesWhatItCannotDecode) {
  expect_error(ErrorCode::unsupported, "decoder",
               [] { parse(R"("model":{"vocab":{}},"decoder":{"type":"WordPiece"})"); });
  expect_error(ErrorCode::corrupt, "-1", [] { parse(R"("decoder":{"type":"ByteLevel"},"model":{"vocab":{"a":-1}})"); });
  expect_error(ErrorCode::corrupt, "model", [] { parse(R"("decoder":{"type":"ByteLevel"})"); });
}

}  // namespace
}  // namespace warpjet

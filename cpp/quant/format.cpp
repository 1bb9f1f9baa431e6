#include "quant/format.h"

namespace warpjet {

std::string to_string(const Format& format) {
  std::string element(to_string(format.element));
  if (!format.scaled()) return element;
  return cat(element, "[", format.block_rows, "x", format.block_columns, ":", to_string(format.scale), "]");
}

Json json_of(const Format& format) {
  if (!format.scaled()) return json_of(format.element);
  return Json::Object{{"element", json_of(format.element)},
                      {"block_rows", format.block_rows},
                      {"block_columns", format.block_columns},
                      {"scale", json_of(format.scale)}};
}

void from_json(const Json& json, Format& format) {
  format = Format{};
  if (json.is_string()) return from_json(json, format.element);
  from_json(json.at("element"), format.element);
  from_json(json.at("block_rows"), format.block_rows);
  from_json(json.at("block_columns"), format.block_columns);
  from_json(json.at("scale"), format.scale);
  constexpr int kMostRows = 1 << 20;
  WJ_REQUIRE(format.block_rows > 0 && format.block_rows <= kMostRows && format.block_columns > 0 &&
                 format.block_columns <= kMostRows,
             corrupt, "blocks of ", format.block_rows, " x ", format.block_columns);
}

}  // namespace warpjet

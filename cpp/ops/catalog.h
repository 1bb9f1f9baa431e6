// All catalogues together, and who fills them.
#pragma once

#include "ops/attention.h"
#include "ops/linear.h"
#include "ops/sampling.h"
#include "ops/step.h"
#include "ops/token.h"

#include <tuple>

namespace warpjet {

struct Catalogs {
  std::tuple<Catalog<Embed>, Catalog<Norm>, Catalog<Gather>, Catalog<Gemm>, Catalog<RopeTable>, Catalog<RopeAppendKv>,
             Catalog<Attention>, Catalog<Penalize>, Catalog<Select>, Catalog<Logprob>, Catalog<AppendTokens>,
             Catalog<Edit>, Catalog<PrepareRows>, Catalog<CopyBlocks>>
      all;

  template <class Op>
  Catalog<Op>& of() {
    return std::get<Catalog<Op>>(all);
  }
  template <class Op>
  const Catalog<Op>& of() const {
    return std::get<Catalog<Op>>(all);
  }
};

// Adds the CPU reference rows; a GPU backend adds its own before them.
void register_reference(Catalogs& catalogs);

}  // namespace warpjet

// THE TABLE of ops. Catalogues, reference rows and everything that walks all ops are derived from it: a new op is its
// header, its reference in ops/ref, and a name here.
#pragma once

#include "ops/attention.h"
#include "ops/linear.h"
#include "ops/sampling.h"
#include "ops/step.h"
#include "ops/token.h"

#include <tuple>

namespace warpjet {

template <class... Op>
struct OpList {
  using Catalogs = std::tuple<Catalog<Op>...>;
  // visit.template operator()<Op>() for every op.
  template <class Visit>
  static void for_each(Visit visit) {
    (visit.template operator()<Op>(), ...);
  }
};
using Ops = OpList<Embed, Norm, Gather, Gemm, RopeTable, RopeAppendKv, Attention, Penalize, Select, Logprob,
                   AppendTokens, Edit, PrepareRows, CopyBlocks>;

}  // namespace warpjet

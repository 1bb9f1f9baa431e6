// All catalogues together, and who fills them.
#pragma once

#include "ops/ops.h"

namespace warpjet {

struct Catalogs {
  Ops::Catalogs all;

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
inline void register_reference(Catalogs& catalogs) {
  Ops::for_each([&]<class Op>() { catalogs.of<Op>().add(Op::reference()); });
}

}  // namespace warpjet

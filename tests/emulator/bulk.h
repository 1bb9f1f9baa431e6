// How bulk copies report to the barriers that count them.
#pragma once

#include "emulator/machine.h"

namespace emu {

// These bytes have arrived: counts them at the block's barrier (by its offset), which may complete its phase.
void deliver(Machine& machine, Block& block, int barrier, int offset, int bytes, Site site);

}  // namespace emu

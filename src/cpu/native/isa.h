// Which kernels this processor can run. What a processor has is asked here alone; which of the kernels is chosen is a
// matter of src/cpu/tuner.ts.
#pragma once
#include <vector>

#include "kernels.h"

namespace lutra {

/// The tables of kernels that this processor can run: the fastest first, the scalar one, which all can, last.
std::vector<const Kernels*> usableKernels();

}  // namespace lutra

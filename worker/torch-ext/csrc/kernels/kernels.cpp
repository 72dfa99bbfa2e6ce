// Compiled for each instruction set with MTX_ISA set to its name. No header with inline functions that others include too may
// be included: the linker would keep one copy of such a function, perhaps the one that this processor cannot run.

#include "attention.h"
#include "dropout.h"
#include "first_block.h"
#include "norm_relu.h"

namespace mtx {

extern const Kernels MTX_ISA;
const Kernels MTX_ISA = {
    patch_sums, first_forward, first_backward, moments, norm_relu, norm_relu_sums, norm_relu_backward, pool, pool_sums, pool_backward, softmax, softmax_backward, narrow_attention, narrow_attention_backward, dropout,
};

} // namespace mtx

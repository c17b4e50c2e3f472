// The fused engine for one instruction set and dtype: the operations on vectors under short names,
// then the parts.

#include "fused.h"
#include "pool.h"

#ifndef V
#define V R(V)
#define VI R(VI)
#define vset1 R(vset1)
#define vload R(vload)
#define vstore R(vstore)
#define vload_n R(vload_n)
#define vstore_n R(vstore_n)
#define vadd R(vadd)
#define vsub R(vsub)
#define vmul R(vmul)
#define vdiv R(vdiv)
#define vmax R(vmax)
#define vmin R(vmin)
#define vsqrt R(vsqrt)
#define vfma R(vfma)
#define vfma_in_place R(vfma_in_place)
#define vfnma R(vfnma)
#define vkeep R(vkeep)
#define vselect_lt R(vselect_lt)
#define vsum R(vsum)
#define vlargest R(vlargest)
#define vtranspose R(vtranspose)
#define vnonzero R(vnonzero)
#define vstore_where R(vstore_where)
#define vbits R(vbits)
#define vreal R(vreal)
#define iset1 R(iset1)
#define iadd R(iadd)
#define isub R(isub)
#define iand R(iand)
#define ior R(ior)
#define ishl R(ishl)
#define ishr R(ishr)
#endif

#define WIDTH (FM_PANEL * FM_LANES) // columns of a full panel

INLINE ptrdiff_t R(min)(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
INLINE ptrdiff_t R(max)(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }

#include "vecmath.h"
#include "layout.inc.c"
#include "panels.inc.c"
#include "update.inc.c"
#include "errands.inc.c"
#include "tile.inc.c"
#include "few_rows.inc.c"
#include "activations.inc.c"
#include "softmax.inc.c"
#include "loss.inc.c"
#include "gather.inc.c"
#include "few_outputs.inc.c"
#include "csr.inc.c"
#include "zeros.inc.c"
#include "rows.inc.c"
#include "columns.inc.c"
#include "weights.inc.c"
#include "passes.inc.c"
#include "forward.inc.c"

static const fm_functions R(functions) = {
    .layout = R(layout),
    .prepare = R(prepare),
    .load = R(load),
    .store = R(store),
    .finite = R(finite),
    .forward_part = R(forward_part),
    .outputs = R(outputs),
    .gather = R(gather),
    .list_columns = R(list_columns),
    .lists_pay = R(lists_pay),
    .list_rows = R(list_rows),
    .n_by_columns = R(n_by_columns),
    .columns_part = R(columns_part),
    .rows_part = R(rows_part),
    .weights_part = R(weights_part),
    .clipped_update = R(clipped_update),
    .penalty = R(penalty),
    .gathers_ahead = R(gathers_ahead),
    .loss = R(loss),
    .math = R(math),
};

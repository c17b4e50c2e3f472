// Vectors of the largest tile.
enum { R(MOST_VECTORS) = FM_ROWS(FM_PANEL) * FM_PANEL };
_Static_assert(FM_ROWS(1) <= R(MOST_VECTORS) && FM_ROWS(2) * 2 <= R(MOST_VECTORS), "a larger tile");

// The update of the tile before: where it goes; and where that of this tile will go, to bring it nearer.
typedef struct R(waiting) {
    real *W, *moment1, *moment2;
    real *own_W, *own_moment1, *own_moment2;
} R(waiting);

// A row of the next batch to copy, of which `copied` of all whole blocks are done; and a later one to ask for.
typedef struct R(copying) {
    const real *from, *later;
    real *to;                    // in blocks, `stride` apart
    ptrdiff_t stride, copied, blocks;
} R(copying);

// A part of the next batch to ask for: rows from `row` on, of which the first from a column on; and how many
// lines of it beside a tile.
typedef struct R(asking) {
    ptrdiff_t row, end, column, lines_of_tile;
} R(asking);

// What a weight tile does beside its sum, a vector at a time between the multiplications, where it
// costs next to nothing. In one piece it would hold them up: a burst of stores, or rows that come
// from far away in memory.
typedef struct R(errands) {
    R(rule) rule;
    int is_plain;                // momentum and nothing else, in place
    ptrdiff_t shift;             // from parameters and moments to where the new ones go: 0 but for a backup
    ptrdiff_t updates;           // vectors that wait in dW
    R(waiting) waiting;
    ptrdiff_t row, end;          // of the next batch, to gather
    ptrdiff_t copies, copies_of_tile; // blocks of the row, for this tile and for any
    R(copying) copying;
    R(asking) asking;            // where the inputs are listed
    const real *so_far;          // what the sums of the tile begin with, or NULL for zeros
    _Alignas(FM_ALIGN) real dW[R(MOST_VECTORS) * FM_LANES];
} R(errands);

INLINE void R(update)(const R(errands) *errands, const R(waiting) *of, ptrdiff_t vector,
                      const int is_plain)
{
    const ptrdiff_t at = vector * FM_LANES;
    const V dW = vload(errands->dW + at);
    FM_PREFETCH_TO_WRITE(of->own_W + at);
    FM_PREFETCH_TO_WRITE(of->own_moment1 + at);
    if (is_plain) {
        R(momentum)(of->W + at, of->moment1 + at, dW, &errands->rule);
        return;
    }
    FM_PREFETCH_TO_WRITE(of->own_moment2 + at);
    R(update_vector)(of->W + at, of->moment1 + at, of->moment2 + at, errands->shift, dW,
                     &errands->rule, 1);
}

// Copies what one block has of a row, and asks for that of a later row.
INLINE void R(copy)(const R(copying) *row, ptrdiff_t i)
{
    enum { LINE = FM_ALIGN / sizeof(real) };
    const ptrdiff_t block = row->copied + i;
    const real *from = row->from + block * FM_BLOCK, *later = row->later + block * FM_BLOCK;
    real *to = row->to + block * row->stride;
    FM_UNROLL
    for (int j = 0; j < FM_BLOCK; j += FM_LANES)
        vstore(to + j, vload(from + j));
    FM_UNROLL
    for (int j = 0; j < FM_BLOCK; j += LINE)
        FM_PREFETCH(later + j);
}

// Does all updates that wait, from vector `first` on.
INLINE void R(update_all)(const R(errands) *errands, const R(waiting) *of, ptrdiff_t first)
{
    if (errands->is_plain)
        for (ptrdiff_t i = first; i < errands->updates; i++)
            R(update)(errands, of, i, 1);
    else
        for (ptrdiff_t i = first; i < errands->updates; i++)
            R(update)(errands, of, i, 0);
}
static void R(flush)(R(errands) *errands)
{
    R(update_all)(errands, &errands->waiting, 0);
    errands->updates = 0;
}

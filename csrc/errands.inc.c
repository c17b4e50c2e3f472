// Vectors of the largest tile.
enum { R(MOST_VECTORS) = FM_ROWS(FM_PANEL) * FM_PANEL };
_Static_assert(FM_ROWS(1) <= R(MOST_VECTORS) && FM_ROWS(2) * 2 <= R(MOST_VECTORS), "a larger tile");

// What a weight tile does beside its sum, a vector at a time between the multiplications, where it
// costs next to nothing. In one piece it would hold them up: a burst of stores, or rows that come
// from far away in memory.
typedef struct R(errands) {
    R(rule) rule;
    // The update of the tile before, whose gradient waits in dW.
    ptrdiff_t updates;
    real *W, *moment1, *moment2;
    ptrdiff_t shift;             // from there to where the new ones go: 0 but for a backup
    int is_plain;                // momentum and nothing else, in place
    const real *next_W, *next_moment1; // of this tile: to bring nearer
    // Rows [row, end) of the next batch to gather, into blocks `stride` apart: of the first of them
    // `copied` vectors are done, and the next `copies` are this tile's; `later` is a row to ask for.
    ptrdiff_t row, end, copied, copies, copies_of_tile, stride;
    const real *from, *later;
    real *to;
    _Alignas(FM_ALIGN) real dW[R(MOST_VECTORS) * FM_LANES];
} R(errands);

INLINE void R(update)(R(errands) *errands, ptrdiff_t vector)
{
    FM_FORGET();
    const ptrdiff_t at = vector * FM_LANES;
    const V dW = vload(errands->dW + at);
    FM_PREFETCH_TO_WRITE(errands->next_W + at);
    FM_PREFETCH_TO_WRITE(errands->next_moment1 + at);
    R(update_vector)(errands->W + at, errands->moment1 + at, errands->moment2 + at, errands->shift,
                     dW, &errands->rule, 1);
}

// The same where nothing has to be asked: by momentum alone, in place.
INLINE void R(plain_update)(R(errands) *errands, ptrdiff_t vector)
{
    const ptrdiff_t at = vector * FM_LANES;
    FM_PREFETCH_TO_WRITE(errands->next_W + at);
    FM_PREFETCH_TO_WRITE(errands->next_moment1 + at);
    R(momentum)(errands->W + at, errands->moment1 + at, vload(errands->dW + at), &errands->rule);
}

// Copies one vector of a row, and asks for that of a later row.
INLINE void R(copy)(R(errands) *errands, ptrdiff_t vector)
{
    enum { OF_BLOCK = FM_BLOCK / FM_LANES };
    FM_FORGET();
    const size_t i = (size_t)(errands->copied + vector);
    real *to = errands->to + i / OF_BLOCK * (size_t)errands->stride + i % OF_BLOCK * FM_LANES;
    vstore(to, vload(errands->from + i * FM_LANES));
    FM_PREFETCH(errands->later + i * FM_LANES);
}

// Does at once all updates that wait.
static void R(flush)(R(errands) *errands)
{
    for (ptrdiff_t i = 0; i < errands->updates; i++)
        R(update)(errands, i);
    errands->updates = 0;
}

# Rows of inputs as engines take them: a matrix, or a sparse one.


cdef class SparseRows:
    """A sparse matrix in compressed rows, as SciPy's CSR has it.

    Parameters
    ----------
    data : C-contiguous ndarray of float32 or float64
    indices, indptr : ndarrays of integers
        Row b has the numbers from indptr[b] up to indptr[b + 1], in columns that increase. Of both it
        keeps copies, which stay as they have been checked whatever becomes of the arrays.
    shape : (n, n_columns)

    Raises
    ------
    ValueError
        The columns of a row do not increase, or are not there, or the rows are not among the values.
    """

    cdef readonly tuple shape
    cdef readonly object dtype, data, indices, indptr
    cdef Pointer memory
    cdef fm_rows rows

    has_canonical_format = True

    def __init__(self, data, indices, indptr, shape):
        cdef ptrdiff_t n = shape[0], n_columns = shape[1], n_values, wrong
        cdef const int32_t[::1] column
        cdef const int64_t[::1] start
        self.indptr = array(indptr, "int64")
        start = self.indptr
        if start.shape[0] != n + 1 or start[0] != 0:
            raise ValueError(f"indptr of {n} rows is not {n + 1} numbers, 0 the first of them")
        n_values = start[n]
        if not 0 <= n_values <= min(len(data), len(indices)):
            raise ValueError(f"indptr ends with {n_values}, but there are {len(data)} numbers in "
                             f"data and {len(indices)} in indices")
        self.indices = zeros(n_values + FM_CSR_AHEAD, "int32")
        self.indices[:n_values] = indices[:n_values]
        column = self.indices
        with nogil:
            wrong = _wrong_row(&column[0], &start[0], n, n_columns, n_values)
        if wrong >= 0:
            raise ValueError(f"the columns of row {wrong} do not increase, or not from 0 to "
                             f"{n_columns - 1}, or it ends before it begins")
        self.data, self.dtype, self.shape = data[:n_values], data.dtype, (n, n_columns)
        self.memory = Pointer(self.data, n_values * data.itemsize)
        self.rows.values = self.memory.view.buf
        self.rows.columns = &column[0]
        self.rows.starts = &start[0]

    def __len__(self):
        return self.shape[0]

    def tocsr(self):
        """Itself."""
        return self

    cdef ptrdiff_t n_values(self) noexcept:
        return self.rows.starts[<ptrdiff_t>self.shape[0]]


cdef ptrdiff_t _wrong_row(const int32_t *columns, const int64_t *starts, ptrdiff_t n,
                          ptrdiff_t n_columns, ptrdiff_t n_values) noexcept nogil:
    # the first that is not as SparseRows says, or -1
    cdef ptrdiff_t b, i
    cdef int64_t least
    for b in range(n):
        if not starts[b] <= starts[b + 1] <= n_values:
            return b
        least = 0
        for i in range(starts[b], starts[b + 1]):
            if not least <= columns[i] < n_columns:
                return b
            least = <int64_t>columns[i] + 1
    return -1


cdef ptrdiff_t _most_values(const fm_rows *X, const ptrdiff_t *order, ptrdiff_t n,
                            ptrdiff_t batch_size) noexcept nogil:
    # of a batch of the rows in `order`, or of all n
    cdef ptrdiff_t i, most = 0, values = 0
    if order == NULL:
        return X.starts[n]
    for i in range(n):
        if i % batch_size == 0:
            values = 0
        values += X.starts[order[i] + 1] - X.starts[order[i]]
        most = max(most, values)
    return most


cdef ptrdiff_t _first_nonfinite(const fm_rows *X, ptrdiff_t n, ptrdiff_t I, int dtype) noexcept nogil:
    # among the numbers of the first n rows
    cdef const char *values = <const char *>X.values
    cdef ptrdiff_t first = 0, itemsize = 4 if dtype == FM_FLOAT32 else 8
    if X.columns != NULL:
        first, n, I = X.starts[0], X.starts[n] - X.starts[0], 1
    if dtype == FM_FLOAT32:
        return fm_first_nonfinite_float32(<const float *>(values + first * itemsize), n * I)
    return fm_first_nonfinite_float64(<const double *>(values + first * itemsize), n * I)


cdef fm_rows _rows_from(const fm_rows *X, ptrdiff_t first, ptrdiff_t I, int dtype) noexcept nogil:
    cdef fm_rows rows = X[0]
    if X.columns != NULL:
        rows.starts += first
    else:
        rows.values = <const char *>X.values + first * I * (4 if dtype == FM_FLOAT32 else 8)
    return rows

# Rows of inputs as engines take them: a matrix, or a sparse one.


@cython.final
cdef class SparseRows:
    """A sparse matrix in compressed rows, as SciPy's CSR has it.

    Parameters
    ----------
    data, indices, indptr : ndarrays
        Row b has the numbers from indptr[b] up to indptr[b + 1]. Columns in another order are sorted, and
        numbers in the same place summed, one after another as they come.
    shape : (n, n_columns)
    dtype : of the numbers as the engines take them, or None for that of `data`

    Attributes
    ----------
    data, indices, indptr
        Numbers of `dtype`, C-contiguous, which may be the caller's; and where they are, in increasing
        columns: copies that are read-only, so that they stay as they have been checked.
    given : ndarray
        The numbers before they were of that dtype.

    Raises
    ------
    ValueError
        The rows are not among the numbers, or a column is not in 0..n_columns - 1.
    """

    cdef readonly tuple shape
    cdef readonly object dtype, given, data, indices, indptr
    cdef Pointer memory
    cdef fm_rows rows

    def __cinit__(self, data, indices, indptr, shape, dtype=None):
        cdef ptrdiff_t n = shape[0], n_columns = shape[1], n_values
        cdef bint in_order = True
        cdef const int32_t[::1] column
        cdef const int64_t[::1] start
        self.shape = (n, n_columns)
        if n_columns > INT32_MAX:
            raise ValueError(f"{n_columns} columns, of which there may be {INT32_MAX}")
        starts = np.array(indptr)
        if starts.dtype.kind != "i" or starts.shape != (n + 1,) or starts[0] != 0:
            raise ValueError(f"indptr is not {n + 1} integers, the first of them 0")
        n_values = starts[n]
        if not 0 <= n_values <= min(len(data), len(indices)) or (starts[1:] < starts[:n]).any():
            raise ValueError(f"indptr does not rise from 0 to at most the {len(data)} numbers of data "
                             f"and the {len(indices)} of indices")
        columns = np.array(indices[:n_values])
        if columns.dtype.kind != "i" or n_values and not (
            0 <= columns.min() and columns.max() < n_columns
        ):
            raise ValueError(f"indices are not integers in 0..{n_columns - 1}")
        self.given, starts = data[:n_values], starts.astype("int64", copy=False)
        padded = np.zeros(n_values + FM_CSR_AHEAD, "int32")
        padded[:n_values] = columns
        column, start = padded, starts
        with nogil:
            in_order = _increase(&column[0], &start[0], n)
        if not in_order:
            self.given, columns, starts = _summed(self.given, columns, starts, n_columns)
            padded = np.zeros(len(columns) + FM_CSR_AHEAD, "int32")
            padded[:len(columns)] = columns
            column, start = padded, starts
        padded.flags.writeable = starts.flags.writeable = False
        self.indices, self.indptr = padded[:start[n]], starts
        self.data = np.require(self.given, dtype, ["C", "A"])
        self.dtype = self.data.dtype
        self.memory = Pointer(self.data, start[n] * self.data.itemsize)
        self.rows.values = self.memory.view.buf
        self.rows.columns = &column[0]
        self.rows.starts = &start[0]

    def __len__(self):
        return self.shape[0]

    cdef ptrdiff_t n_values(self) noexcept:
        return self.rows.starts[<ptrdiff_t>self.shape[0]]


cdef bint _increase(const int32_t *columns, const int64_t *starts, ptrdiff_t n) noexcept nogil:
    # whether the columns of every row do
    cdef ptrdiff_t b, i
    for b in range(n):
        for i in range(starts[b] + 1, starts[b + 1]):
            if columns[i] <= columns[i - 1]:
                return False
    return True


def _summed(numbers, columns, starts, n_columns):
    # the same matrix with increasing columns, each once in every row
    n = len(starts) - 1
    rows = np.repeat(np.arange(n), np.diff(starts))
    places = rows * n_columns + columns
    order = np.argsort(places, kind="stable")
    places = places[order]
    is_first = np.ones(len(places), bool)
    is_first[1:] = places[1:] != places[:len(places) - 1]
    totals = np.zeros(is_first.sum(), numbers.dtype)
    np.add.at(totals, np.cumsum(is_first) - 1, numbers[order])
    places = places[is_first]
    ends = np.cumsum(np.bincount(places // n_columns, minlength=n))
    return totals, places % n_columns, np.concatenate([[0], ends])


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

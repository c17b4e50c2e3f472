# The memory of arrays, and how parameters are written while others read them.


cdef class Pointer:
    """The memory of a C-contiguous array, held for as long as this object lives."""

    cdef Py_buffer view

    def __cinit__(self, array, ptrdiff_t n_bytes, bint writable=False):
        PyObject_GetBuffer(
            array, &self.view, PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if writable else 0)
        )
        if self.view.len != n_bytes:
            raise ValueError(f"array of {self.view.len} bytes where {n_bytes} are needed")

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef class Writes:
    """The writes to the parameters of a model, one after another and counted.

    They happen under the GIL, or where there is none under the lock of this object. Who reads
    without it and finds the count unchanged afterwards has seen the result of one write, whole; who
    does not takes a copy.
    """

    cdef uint64_t n

    cdef uint64_t count(self):
        cdef uint64_t n
        with cython.critical_section(self):
            n = self.n
        return n

    cdef void store(self, const fm_engine *engine, fm_run *run):
        with cython.critical_section(self):
            self.n += 1
            engine.store(run)

    def write(self, params, values):
        """params = values, all at once; both C-contiguous and of one length and dtype."""
        cdef ptrdiff_t n_bytes = values.nbytes
        cdef Pointer source = Pointer(values, n_bytes)
        cdef Pointer target = Pointer(params, n_bytes, True)
        with cython.critical_section(self):
            self.n += 1
            memcpy(target.view.buf, source.view.buf, n_bytes)

    def copy(self, params):
        """A copy of params as one write has left them."""
        out = empty(params.shape, params.dtype)
        cdef ptrdiff_t n_bytes = params.nbytes
        cdef Pointer source = Pointer(params, n_bytes)
        cdef Pointer target = Pointer(out, n_bytes, True)
        with cython.critical_section(self):
            memcpy(target.view.buf, source.view.buf, n_bytes)
        return out

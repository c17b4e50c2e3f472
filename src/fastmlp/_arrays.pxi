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

    They happen under the GIL, or where there is none under the lock of this object, and with the
    gate closed. Who reads without that goes in through the gate, for a while at a time; who finds
    another count there than before has seen the result of another write, and takes a copy.
    """

    cdef fm_gate *gate
    cdef uint64_t n

    def __cinit__(self):
        self.gate = fm_gate_make()
        if self.gate == NULL:
            raise MemoryError("no memory for the lock of a model")

    def __dealloc__(self):
        fm_gate_drop(self.gate)

    cdef uint64_t count(self):
        cdef uint64_t n
        with cython.critical_section(self):
            fm_gate_renew(self.gate)
            n = self.n
        return n

    cdef void store(self, const fm_engine *engine, fm_run *run):
        with cython.critical_section(self):
            self._close()
            engine.store(run)
            fm_gate_open(self.gate)

    cdef void _close(self):
        fm_gate_renew(self.gate)
        fm_gate_close(self.gate)
        self.n += 1

    def write(self, params, values):
        """params = values, all at once; both C-contiguous and of one length and dtype."""
        cdef ptrdiff_t n_bytes = values.nbytes
        cdef Pointer source = Pointer(values, n_bytes)
        cdef Pointer target = Pointer(params, n_bytes, True)
        with cython.critical_section(self):
            self._close()
            memcpy(target.view.buf, source.view.buf, n_bytes)
            fm_gate_open(self.gate)

    def copy(self, params):
        """A copy of params as one write has left them."""
        out = empty(params.shape, params.dtype)
        cdef ptrdiff_t n_bytes = params.nbytes
        cdef Pointer source = Pointer(params, n_bytes)
        cdef Pointer target = Pointer(out, n_bytes, True)
        with cython.critical_section(self):
            memcpy(target.view.buf, source.view.buf, n_bytes)
        return out

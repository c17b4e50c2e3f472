# Part of _core.pyx: functions of csrc/ that stand alone, as functions on arrays.

def fused_engine(str level):
    """The fused engine at an instruction set, as a capsule; None where there is none."""
    cdef const fm_engine *engine = fm_fused_engine(level.encode())
    if engine == NULL:
        return None
    return PyCapsule_New(<void *>engine, FM_ENGINE_CAPSULE, NULL)


def vector_math(engine, function, out, x, dtype):
    """out = function(x), x (n,), by the vectors of a fused engine; for tests."""
    cdef int which = {
        "exp": FM_EXP, "log": FM_LOG, "tanh": FM_MATH_TANH, "logistic": FM_MATH_LOGISTIC,
        "normal_cdf": FM_NORMAL_CDF,
    }[function]
    cdef ptrdiff_t n = x.shape[0], itemsize = 4 if dtype == "float32" else 8
    cdef Pointer result = Pointer(out, n * itemsize, True)
    cdef Pointer argument = Pointer(x, n * itemsize)
    fm_vector_math(<const fm_engine *>PyCapsule_GetPointer(engine, FM_ENGINE_CAPSULE),
                   DTYPES[dtype], which, result.view.buf, argument.view.buf, n)


def fma_probe(str level, dtype, double seconds):
    """GFLOP/s of fused multiply-adds at an instruction set, on registers alone and on this thread.

    The ceiling of what a core can compute. It runs for so many seconds without the GIL: call it
    in several threads at once for the ceiling of several cores.
    """
    cdef bytes name = level.encode()
    cdef const char *c_name = name
    cdef int c_dtype = DTYPES[dtype]
    cdef double gflops
    with nogil:
        gflops = fm_probe(c_name, c_dtype, seconds)
    if gflops < 0:
        raise ValueError(f"level is {level!r}, which this build or this CPU does not have")
    return gflops


cdef struct bitgen:  # NumPy's bitgen_t
    void *state
    uint64_t (*next_uint64)(void *state) noexcept nogil


def draw(bit_generator, uint64_t[::1] room):
    """room[0] = the next 64 bits of a bit generator, as `Generator.integers` takes them.

    Nothing that could fail comes after the draw, by which they would be lost.
    """
    cdef bitgen *bits = <bitgen *>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
    with bit_generator.lock:
        room[0] = bits.next_uint64(bits.state)


def shuffled(ptrdiff_t n, uint64_t seed):
    """The row numbers 0..n-1 in a random order, as an array of intp."""
    order = empty(n, "intp")
    cdef Pointer numbers = Pointer(order, n * sizeof(ptrdiff_t), True)
    with nogil:
        fm_shuffle(<ptrdiff_t *>numbers.view.buf, n, seed)
    return order


def dropout_words(uint64_t key, uint64_t step, ptrdiff_t layer, ptrdiff_t row, ptrdiff_t block):
    """The 32 numbers that decide which outputs of a block of columns dropout takes; for tests."""
    words = empty(32, "uint32")
    cdef Pointer out = Pointer(words, 32 * sizeof(uint32_t), True)
    fm_dropout_words(<uint32_t *>out.view.buf, key, step, layer, row, block)
    return words


def first_nonfinite(const floating[::1] x):
    """Index of the first NaN or infinity in x, or -1."""
    cdef ptrdiff_t found
    if x.shape[0] == 0:
        return -1
    with nogil:
        if floating is float:
            found = fm_first_nonfinite_float32(&x[0], x.shape[0])
        else:
            found = fm_first_nonfinite_float64(&x[0], x.shape[0])
    return found

// Random bits for dropout, made from a counter: whoever asks, in whatever order, gets the same.
#include "fastmlp.h"

// Philox4x32 with 10 rounds (J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as
// easy as 1, 2, 3", 2011), eight counters side by side. Word w of counter i is words[8 w + i].
void fm_dropout_words(uint32_t words[FM_DROPOUT_WORDS], uint64_t key, uint64_t step, ptrdiff_t layer,
                      ptrdiff_t row, ptrdiff_t block)
{
    enum { N = 8, ROUNDS = 10 };
    uint32_t c0[N], c1[N], c2[N], c3[N], key0 = (uint32_t)key, key1 = (uint32_t)(key >> 32);
    for (int i = 0; i < N; i++) {
        c0[i] = (uint32_t)(block * N + i);
        c1[i] = (uint32_t)row;
        c2[i] = (uint32_t)step;
        c3[i] = (uint32_t)(step >> 32) ^ (uint32_t)layer << 16;
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < N; i++) {
            const uint64_t a = (uint64_t)0xd2511f53u * c0[i], b = (uint64_t)0xcd9e8d57u * c2[i];
            c0[i] = (uint32_t)(b >> 32) ^ c1[i] ^ key0;
            c1[i] = (uint32_t)b;
            c2[i] = (uint32_t)(a >> 32) ^ c3[i] ^ key1;
            c3[i] = (uint32_t)a;
        }
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    for (int i = 0; i < N; i++) {
        words[i] = c0[i];
        words[N + i] = c1[i];
        words[2 * N + i] = c2[i];
        words[3 * N + i] = c3[i];
    }
}

uint32_t fm_dropout_threshold(double dropout) { return (uint32_t)(dropout * 4294967296.0); }

// A team of threads that run the same work together: spins, then sleeps; survives fork.
#ifndef FM_POOL_H
#define FM_POOL_H

#include <stddef.h>

typedef struct fm_team fm_team;

// Gathers up to n_threads threads, the caller's among them, of which the process has at most
// max_workers besides its callers'. Fewer may come; NULL where there is no other or no memory.
fm_team *fm_team_open(int n_threads, int max_workers);
int fm_team_size(const fm_team *team);

// Runs work(argument, thread) on all threads of the team, the caller being thread 0, and returns
// when all have. Without a team, on the caller alone.
void fm_team_run(fm_team *team, void (*work)(void *argument, int thread), void *argument);

// Called by all threads from within the work: none goes on before all are here.
void fm_team_barrier(fm_team *team);

void fm_team_close(fm_team *team);

// Runs work(argument, thread, part) for the parts 0..n_parts-1 in turn, each once, on up to n_threads threads
// of which the caller is thread 0: whoever is free takes the next. A thread that comes too late, because waking
// it takes longer than the work, is not waited for. Only n_woken of them are woken, besides those that have not
// gone to sleep since the last work, or that calls in close succession keep awake. Where work returns 0, no
// further part is begun. Returns how many were done.
ptrdiff_t fm_share_out(int n_threads, int n_woken, ptrdiff_t n_parts,
                       int (*work)(void *argument, int thread, ptrdiff_t part), void *argument);

// The same for n_stages stages of up to FM_MOST_PARTS parts each: work(argument, stage, part) for all parts of
// one stage, in any order, then for those of the next. A thread takes the part of its own number where it can.
enum { FM_MOST_PARTS = 32 };
void fm_share_stages(int n_threads, int n_woken, int n_stages, int n_parts,
                     void (*work)(void *argument, int stage, int part), void *argument);

// How many forks lie between the process that first counted them, or had workers, and this one.
void fm_count_forks(void);
int fm_forks_so_far(void);

#endif

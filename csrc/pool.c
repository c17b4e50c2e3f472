// See pool.h. Workers belong to the process and wait for a team to take them; a team belongs to
// one run of one caller, so that two models in two threads share nothing but idle workers.
//
// Whoever waits spins first, for about the time that waking a thread would take, and then sleeps:
// steps follow each other in microseconds, but more threads than processors must not spin.
#include "pool.h"
#include "fastmlp.h"

#if defined(_WIN32) // one thread there, until there is a machine to test more on

fm_team *fm_team_open(int n_threads, int max_workers)
{
    (void)n_threads, (void)max_workers;
    return NULL;
}
int fm_team_size(const fm_team *team) { (void)team; return 1; }
void fm_team_run(fm_team *team, void (*work)(void *, int), void *argument)
{
    (void)team;
    work(argument, 0);
}
void fm_team_barrier(fm_team *team) { (void)team; }
void fm_team_close(fm_team *team) { (void)team; }
ptrdiff_t fm_share_out(int n_threads, int n_woken, ptrdiff_t n_parts,
                       int (*work)(void *, int, ptrdiff_t), void *argument)
{
    (void)n_threads, (void)n_woken;
    ptrdiff_t part = 0;
    while (part < n_parts && work(argument, 0, part++))
        ;
    return part;
}
void fm_share_stages(int n_threads, int n_woken, int n_stages, int n_parts,
                     void (*work)(void *, int, int), void *argument)
{
    (void)n_threads, (void)n_woken;
    for (int stage = 0; stage < n_stages; stage++)
        for (int part = 0; part < n_parts; part++)
            work(argument, stage, part);
}
int fm_forks_so_far(void) { return 0; }
void fm_count_forks(void) {}

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

// Who waits turns round so often, and for as long as makes sure that whoever is called again SOON is awake.
enum { SPINS = 2000, SOON = 20000 }; // nanoseconds, the latter

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("isb") // as long as a pause elsewhere, which "yield" is not
#else
#define RELAX() ((void)0)
#endif

// A number that only grows, and whoever waits for it to change.
typedef struct ticker {
    atomic_int value, sleepers;
    pthread_mutex_t lock;
    pthread_cond_t changed;
} ticker;

// On a cache line of its own, which is all that goes from the caller's core to the worker's.
typedef struct worker {
    _Atomic(struct fm_team *) team; // that has taken it, until it comes, or is no longer wanted
    struct worker *next;          // while idle, or of the same team
    int thread;                   // its number there
    int seen;                     // its returns before that
    ticker calls, returns;        // one more for every team that takes it, and that it comes back from
} worker;

struct fm_team {
    // on a line, too: what a team needs that goes through stages of some microseconds
    _Alignas(64) void (*take_part)(struct fm_team *, int thread); // what a worker does when it comes
    void (*stage_work)(void *, int, int);
    void *argument;
    int n_stages;
    atomic_int n_done;            // parts of all stages
    _Atomic uint64_t begun;       // the stage, and a bit for each of its parts that somebody has begun
    ptrdiff_t n_parts;            // of every stage, or of work without stages

    int size;
    int is_little;                // whether what it shares out is worth waking nobody
    int process;                  // in which it was opened
    worker *workers;              // all but the caller

    // of a team for job after job, to which all have to come
    ticker jobs;                  // one more for every job, and for the end
    ticker meetings;              // one more whenever all threads of a job have met
    atomic_int arrived;
    void (*work)(void *, int);    // NULL: the team is over

    // of a team for the parts of one piece of work
    int (*part_work)(void *, int, ptrdiff_t);
    atomic_ptrdiff_t next_part;   // n_parts and beyond: none is left
    atomic_ptrdiff_t n_begun;     // where somebody has ended it, else n_parts
};

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t pool_once = PTHREAD_ONCE_INIT;
static worker *idle;
static int n_workers;
static int process; // one more after every fork, in the child

static void ticker_init(ticker *t)
{
    atomic_init(&t->value, 0);
    atomic_init(&t->sleepers, 0);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
}

static void ticker_free(ticker *t)
{
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->lock);
}

static void tick(ticker *t)
{
    atomic_fetch_add(&t->value, 1);
    // Whoever has not yet seen the new value has counted itself a sleeper before it looked.
    if (atomic_load(&t->sleepers)) {
        pthread_mutex_lock(&t->lock);
        pthread_cond_broadcast(&t->changed);
        pthread_mutex_unlock(&t->lock);
    }
}

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void wait_beyond(ticker *t, int seen)
{
    const int64_t start = nanoseconds();
    for (int i = 0; i < SPINS || nanoseconds() - start < 2 * SOON; i++) {
        if (atomic_load_explicit(&t->value, memory_order_acquire) != seen)
            return;
        RELAX();
    }
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add(&t->sleepers, 1);
    while (atomic_load(&t->value) == seen)
        pthread_cond_wait(&t->changed, &t->lock);
    atomic_fetch_sub(&t->sleepers, 1);
    pthread_mutex_unlock(&t->lock);
}

void fm_team_barrier(fm_team *team)
{
    if (fm_team_size(team) == 1)
        return;
    int seen = atomic_load(&team->meetings.value);
    if (atomic_fetch_add(&team->arrived, 1) == team->size - 1) {
        atomic_store(&team->arrived, 0);
        tick(&team->meetings);
    } else {
        wait_beyond(&team->meetings, seen);
    }
}

static void do_jobs(fm_team *team, int thread)
{
    for (int jobs = 0;; jobs++) {
        wait_beyond(&team->jobs, jobs);
        if (team->work == NULL)
            break;
        team->work(team->argument, thread);
        fm_team_barrier(team);
    }
}

static void do_parts(fm_team *team, int thread)
{
    ptrdiff_t part;
    while ((part = atomic_fetch_add(&team->next_part, 1)) < team->n_parts)
        if (!team->part_work(team->argument, thread, part)) {
            part = atomic_exchange(&team->next_part, team->n_parts);
            if (part < team->n_parts)
                atomic_store(&team->n_begun, part);
        }
}

// Little work, for which nobody is worth waking, is shared with those who wait for work without sleeping. When
// work was last shared out: who calls again so soon will do so once more, and waking a thread pays after all,
// since it waits so until the calls end. And until when little work is not shared, because a thread was
// VERY_LATE with its part, or threads were LATE three times in a SPELL: they have no processor. Once they may
// be LATE while they read what has not been in their caches.
static _Atomic int64_t last_shared, last_late, late_before, crowded_until;
enum { LATE = 30000, VERY_LATE = 500000, SPELL = 20000000, CROWDED = 50000000 }; // nanoseconds

// Waiting for others, since then, is over.
static void note_wait(const fm_team *team, int64_t since)
{
    const int64_t now = nanoseconds();
    if (!team->is_little || now - since < LATE)
        return;
    if (now - since > VERY_LATE || now - atomic_load(&late_before) < SPELL)
        atomic_store(&crowded_until, now + CROWDED);
    atomic_store(&late_before, atomic_exchange(&last_late, now));
}

static void do_stages(fm_team *team, int thread)
{
    const int n_parts = (int)team->n_parts;
    const uint64_t all = (UINT64_C(1) << n_parts) - 1;
    int64_t waits_since = 0;
    for (int spins = 0;;) {
        uint64_t begun = atomic_load(&team->begun);
        const int stage = (int)(begun >> FM_MOST_PARTS);
        const uint64_t left = all & ~begun;
        if (!left) { // the others will soon be done with theirs, unless they have no processor
            if (spins++ == 0)
                waits_since = nanoseconds();
            if (spins % SPINS == 0)
                sched_yield();
            RELAX();
            continue;
        }
        if (spins >= SPINS && thread == 0)
            note_wait(team, waits_since);
        spins = 0;
        if (stage == team->n_stages)
            return;
        // the same part at every call, where it is left: what it reads is in this core's cache
        const int part = left >> thread & 1 ? thread : __builtin_ctzll(left);
        if (!atomic_compare_exchange_weak(&team->begun, &begun, begun | UINT64_C(1) << part))
            continue;
        team->stage_work(team->argument, stage, part);
        if (atomic_fetch_add(&team->n_done, 1) + 1 == (stage + 1) * n_parts)
            atomic_store(&team->begun, (uint64_t)(stage + 1) << FM_MOST_PARTS);
    }
}

static void *worker_main(void *argument)
{
    worker *self = argument;
    for (int calls = 0;;) {
        wait_beyond(&self->calls, calls);
        calls = atomic_load(&self->calls.value);
        fm_team *team = atomic_exchange(&self->team, NULL);
        if (!team) // it has come too late
            continue;
        team->take_part(team, self->thread);
        tick(&self->returns); // before that the team may not go, after it the team may be gone
    }
    return NULL;
}

static void hold_pool(void) { pthread_mutex_lock(&pool_lock); }
static void release_pool(void) { pthread_mutex_unlock(&pool_lock); }
static void forget_pool(void)
{
    // The child has none of the workers: forget them, and let new ones be made when needed.
    idle = NULL;
    n_workers = 0;
    process++;
    pthread_mutex_init(&pool_lock, NULL);
}
static void register_fork(void) { pthread_atfork(hold_pool, release_pool, forget_pool); }

void fm_count_forks(void) { pthread_once(&pool_once, register_fork); }

int fm_forks_so_far(void) { return process; }

// With pool_lock held: an idle worker, or a new one.
static worker *take_worker(int max_workers)
{
    worker *w = idle;
    if (w) {
        idle = w->next;
        return w;
    }
    if (n_workers >= max_workers || !(w = fm_allocate(sizeof *w)))
        return NULL;
    ticker_init(&w->calls);
    ticker_init(&w->returns);
    atomic_init(&w->team, NULL);
    // Signals are for the threads of the program that uses us.
    sigset_t all, old;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(&thread, NULL, worker_main, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failed) {
        ticker_free(&w->calls);
        ticker_free(&w->returns);
        fm_release(w);
        return NULL;
    }
    pthread_detach(thread);
    n_workers++;
    return w;
}

// Workers for a team: until it has n_woken threads any, new ones too, and after that, until it has n_threads,
// such as wait without sleeping.
static void take_workers(fm_team *team, int n_threads, int n_woken, int max_workers)
{
    team->size = 1;
    team->process = process;
    team->workers = NULL;
    if (n_threads < 2)
        return;
    fm_count_forks();
    pthread_mutex_lock(&pool_lock);
    while (team->size < n_threads && 
           (team->size < n_woken || (idle && !atomic_load(&idle->calls.sleepers)))) {
        worker *w = take_worker(max_workers);
        if (!w)
            break;
        w->next = team->workers;
        team->workers = w;
        w->thread = team->size++;
        w->seen = atomic_load(&w->returns.value);
        atomic_store(&w->team, team);
        tick(&w->calls);
    }
    pthread_mutex_unlock(&pool_lock);
}

// Waits for those who have come, and makes all of them idle.
static void return_workers(fm_team *team)
{
    worker *last = NULL;
    for (worker *w = team->workers; w; last = w, w = w->next)
        if (!atomic_exchange(&w->team, NULL))
            wait_beyond(&w->returns, w->seen);
    if (!last)
        return;
    pthread_mutex_lock(&pool_lock);
    last->next = idle;
    idle = team->workers;
    pthread_mutex_unlock(&pool_lock);
}

fm_team *fm_team_open(int n_threads, int max_workers)
{
    if (n_threads < 2)
        return NULL;
    fm_team *team = fm_allocate(sizeof *team);
    if (!team)
        return NULL;
    team->take_part = do_jobs;
    atomic_init(&team->arrived, 0);
    ticker_init(&team->jobs);
    ticker_init(&team->meetings);
    take_workers(team, n_threads, n_threads, max_workers);
    if (team->size == 1) {
        fm_team_close(team);
        return NULL;
    }
    return team;
}

// After a fork in the middle of a run the workers have stayed behind.
int fm_team_size(const fm_team *team)
{
    return team && team->process == process ? team->size : 1;
}

void fm_team_run(fm_team *team, void (*work)(void *, int), void *argument)
{
    if (fm_team_size(team) > 1) {
        team->work = work;
        team->argument = argument;
        tick(&team->jobs);
    }
    work(argument, 0);
    fm_team_barrier(team);
}

void fm_team_close(fm_team *team)
{
    if (!team)
        return;
    if (team->process != process) { // nobody is left, and the locks may be as a worker held them
        fm_release(team);
        return;
    }
    team->work = NULL;
    tick(&team->jobs);
    return_workers(team);
    ticker_free(&team->jobs);
    ticker_free(&team->meetings);
    fm_release(team);
}

static void begin_sharing(fm_team *team, int n_threads, int n_woken)
{
    team->is_little = n_woken < 2;
    if (n_woken < n_threads) {
        const int64_t now = nanoseconds();
        if (now < atomic_load(&crowded_until))
            n_threads = n_woken;
        else if (now - atomic_load(&last_shared) < SOON)
            n_woken = n_threads;
    }
    take_workers(team, n_threads, n_woken, n_threads - 1);
}

static void end_sharing(fm_team *team)
{
    const int64_t start = nanoseconds();
    return_workers(team);
    note_wait(team, start);
    atomic_store(&last_shared, nanoseconds());
}

ptrdiff_t fm_share_out(int n_threads, int n_woken, ptrdiff_t n_parts,
                       int (*work)(void *, int, ptrdiff_t), void *argument)
{
    fm_team team = {.take_part = do_parts, .part_work = work, .n_parts = n_parts, .argument = argument};
    atomic_init(&team.next_part, 0);
    atomic_init(&team.n_begun, n_parts);
    begin_sharing(&team, n_threads, n_woken);
    do_parts(&team, 0);
    end_sharing(&team);
    return atomic_load(&team.n_begun);
}

void fm_share_stages(int n_threads, int n_woken, int n_stages, int n_parts,
                     void (*work)(void *, int, int), void *argument)
{
    fm_team team = {.take_part = do_stages, .stage_work = work, .n_stages = n_stages, .n_parts = n_parts,
                    .argument = argument};
    atomic_init(&team.begun, 0);
    atomic_init(&team.n_done, 0);
    begin_sharing(&team, n_threads, n_woken);
    do_stages(&team, 0);
    end_sharing(&team);
}

#endif

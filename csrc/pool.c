// See pool.h. Workers belong to the process and wait for a team to take them; a team belongs to
// one run of one caller, so that two models in two threads share nothing but idle workers.
//
// Whoever waits spins first, for about the time that waking a thread would take, and then sleeps:
// steps follow each other in microseconds, but more threads than processors must not spin.
#include "pool.h"

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
ptrdiff_t fm_share_out(int n_threads, int max_workers, ptrdiff_t n_parts,
                       int (*work)(void *, int, ptrdiff_t), void *argument)
{
    (void)n_threads, (void)max_workers;
    ptrdiff_t part = 0;
    while (part < n_parts && work(argument, 0, part++))
        ;
    return part;
}
int fm_forks_so_far(void) { return 0; }
void fm_hold_forks(void) {}
void fm_let_fork(void) {}

struct fm_gate { int unused; };
static fm_gate the_gate;
fm_gate *fm_gate_make(void) { return &the_gate; }
void fm_gate_drop(fm_gate *gate) { (void)gate; }
void fm_gate_enter(fm_gate *gate) { (void)gate; }
void fm_gate_leave(fm_gate *gate) { (void)gate; }
void fm_gate_close(fm_gate *gate) { (void)gate; }
void fm_gate_open(fm_gate *gate) { (void)gate; }
void fm_gate_renew(fm_gate *gate) { (void)gate; }

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPINS = 2000 };

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

// A number that only grows, and whoever waits for it to change.
typedef struct ticker {
    atomic_int value, sleepers;
    pthread_mutex_t lock;
    pthread_cond_t changed;
} ticker;

typedef struct worker {
    struct worker *next;          // while idle
    struct worker *older;         // among all
    ticker teams;                 // one more for every team that takes it
    struct fm_team *team;         // that has taken it, until it comes
    int thread;
} worker;

struct fm_team {
    int size;
    int process;                  // in which it was opened
    ticker jobs;                  // one more for every job, and for the end
    ticker meetings;              // one more whenever all threads of a job have met
    atomic_int arrived;
    void (*work)(void *, int);    // NULL: the team is over
    void *argument;

    // of a team for the parts of one piece of work, to which its workers need not come
    int (*part_work)(void *, int, ptrdiff_t);
    ptrdiff_t n_parts;
    atomic_ptrdiff_t next_part;   // n_parts and beyond: none is left
    atomic_ptrdiff_t n_begun;     // where somebody has ended it, else n_parts
    ticker done;                  // one more for everybody who has come, and found no more parts
};

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t pool_once = PTHREAD_ONCE_INIT;
static worker *idle, *newest;
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

static void wait_beyond(ticker *t, int seen)
{
    for (int i = 0; i < SPINS; i++) {
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

static void *worker_main(void *argument)
{
    worker *self = argument;
    for (int teams = 0;;) {
        wait_beyond(&self->teams, teams);
        pthread_mutex_lock(&pool_lock);
        teams = atomic_load(&self->teams.value);
        fm_team *team = self->team; // none, if it has come too late
        self->team = NULL;
        const int thread = self->thread;
        pthread_mutex_unlock(&pool_lock);
        if (!team)
            continue;
        const int has_parts = team->part_work != NULL;
        if (has_parts)
            do_parts(team, thread);
        else
            do_jobs(team, thread);
        // Idle again, and told so; after that the team may be gone.
        pthread_mutex_lock(&pool_lock);
        self->next = idle;
        idle = self;
        if (has_parts)
            tick(&team->done);
        else
            atomic_fetch_add(&team->arrived, 1);
        pthread_mutex_unlock(&pool_lock);
    }
    return NULL;
}

// Forks are held as long as anybody is in. Whoever wants to fork comes before those who want in, or
// fits that overlap would keep it waiting.
static pthread_mutex_t fork_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_out = PTHREAD_COND_INITIALIZER, fork_over = PTHREAD_COND_INITIALIZER;
static int n_in, n_forks;

static void hold_pool(void) { pthread_mutex_lock(&pool_lock); }
static void release_pool(void) { pthread_mutex_unlock(&pool_lock); }
static void forget_pool(void)
{
    // The child has none of the workers: forget them, and let new ones be made when needed.
    idle = newest = NULL;
    n_workers = 0;
    process++;
    pthread_mutex_init(&pool_lock, NULL);
}
static void register_fork(void) { pthread_atfork(hold_pool, release_pool, forget_pool); }

static void before_fork(void)
{
    pthread_mutex_lock(&fork_lock);
    n_forks++;
    while (n_in > 0)
        pthread_cond_wait(&all_out, &fork_lock);
}
static void after_fork_parent(void)
{
    n_forks--;
    pthread_cond_broadcast(&fork_over);
    pthread_mutex_unlock(&fork_lock);
}
static void after_fork_child(void)
{
    n_in = n_forks = 0;
    pthread_mutex_init(&fork_lock, NULL);
    pthread_cond_init(&all_out, NULL);
    pthread_cond_init(&fork_over, NULL);
}
// By the first who holds: what is registered last is called first before a fork, and OpenBLAS, which
// registers as it is loaded, ends its threads there, whoever still waits for them.
static pthread_once_t hold_once = PTHREAD_ONCE_INIT;
static void register_hold(void)
{
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

int fm_forks_so_far(void) { return process; }

void fm_hold_forks(void)
{
    pthread_once(&pool_once, register_fork);
    pthread_once(&hold_once, register_hold);
    pthread_mutex_lock(&fork_lock);
    while (n_forks)
        pthread_cond_wait(&fork_over, &fork_lock);
    n_in++;
    pthread_mutex_unlock(&fork_lock);
}

void fm_let_fork(void)
{
    pthread_mutex_lock(&fork_lock);
    if (--n_in == 0)
        pthread_cond_broadcast(&all_out);
    pthread_mutex_unlock(&fork_lock);
}

struct fm_gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int n_readers, closed, process;
};

static void begin(fm_gate *gate)
{
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->changed, NULL);
    gate->n_readers = gate->closed = 0;
    gate->process = process;
}
fm_gate *fm_gate_make(void)
{
    pthread_once(&pool_once, register_fork);
    fm_gate *gate = malloc(sizeof *gate);
    if (gate)
        begin(gate);
    return gate;
}
void fm_gate_drop(fm_gate *gate)
{
    if (gate && gate->process == process) {
        pthread_cond_destroy(&gate->changed);
        pthread_mutex_destroy(&gate->lock);
    }
    free(gate);
}
void fm_gate_renew(fm_gate *gate)
{
    if (gate->process != process)
        begin(gate);
}
void fm_gate_enter(fm_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    while (gate->closed)
        pthread_cond_wait(&gate->changed, &gate->lock);
    gate->n_readers++;
    pthread_mutex_unlock(&gate->lock);
}
void fm_gate_leave(fm_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    if (--gate->n_readers == 0 && gate->closed)
        pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}
void fm_gate_close(fm_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    while (gate->closed)
        pthread_cond_wait(&gate->changed, &gate->lock);
    gate->closed = 1;
    while (gate->n_readers)
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}
void fm_gate_open(fm_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->closed = 0;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

// With pool_lock held: an idle worker, or a new one.
static worker *take_worker(int max_workers)
{
    worker *w = idle;
    if (w) {
        idle = w->next;
        return w;
    }
    if (n_workers >= max_workers || !(w = malloc(sizeof *w)))
        return NULL;
    ticker_init(&w->teams);
    // Signals are for the threads of the program that uses us.
    sigset_t all, old;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(&thread, NULL, worker_main, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failed) {
        ticker_free(&w->teams);
        free(w);
        return NULL;
    }
    pthread_detach(thread);
    w->older = newest;
    newest = w;
    n_workers++;
    return w;
}

// With pool_lock held: workers for a team, until it has n_threads.
static void take_workers(fm_team *team, int n_threads, int max_workers)
{
    worker *w;
    while (team->size < n_threads && (w = take_worker(max_workers))) {
        w->team = team;
        w->thread = team->size++;
        tick(&w->teams);
    }
}

fm_team *fm_team_open(int n_threads, int max_workers)
{
    if (n_threads < 2)
        return NULL;
    fm_team *team = malloc(sizeof *team);
    if (!team)
        return NULL;
    team->size = 1;
    team->process = process;
    team->part_work = NULL;
    atomic_init(&team->arrived, 0);
    ticker_init(&team->jobs);
    ticker_init(&team->meetings);
    pthread_once(&pool_once, register_fork);
    pthread_mutex_lock(&pool_lock);
    take_workers(team, n_threads, max_workers);
    pthread_mutex_unlock(&pool_lock);
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
        free(team);
        return;
    }
    team->work = NULL;
    tick(&team->jobs);
    // The workers have no further use for the team once they have counted themselves idle.
    while (atomic_load(&team->arrived) < team->size - 1)
        sched_yield();
    // The last of them has let go of the lock after counting; take it once to be sure.
    pthread_mutex_lock(&pool_lock);
    pthread_mutex_unlock(&pool_lock);
    ticker_free(&team->jobs);
    ticker_free(&team->meetings);
    free(team);
}

ptrdiff_t fm_share_out(int n_threads, int max_workers, ptrdiff_t n_parts,
                       int (*work)(void *, int, ptrdiff_t), void *argument)
{
    fm_team team = {.size = 1, .part_work = work, .n_parts = n_parts, .argument = argument};
    atomic_init(&team.next_part, 0);
    atomic_init(&team.n_begun, n_parts);
    ticker_init(&team.done);
    if (n_threads > 1) {
        pthread_once(&pool_once, register_fork);
        pthread_mutex_lock(&pool_lock);
        take_workers(&team, n_threads, max_workers);
        pthread_mutex_unlock(&pool_lock);
    }
    do_parts(&team, 0);
    if (team.size > 1) {
        int came = team.size - 1;
        pthread_mutex_lock(&pool_lock);
        for (worker *w = newest; w; w = w->older)
            if (w->team == &team) { // not yet here: idle as before
                w->team = NULL;
                w->next = idle;
                idle = w;
                came--;
            }
        pthread_mutex_unlock(&pool_lock);
        for (int done; (done = atomic_load(&team.done.value)) < came;)
            wait_beyond(&team.done, done);
        pthread_mutex_lock(&pool_lock); // the last of them has let go of the team with the lock
        pthread_mutex_unlock(&pool_lock);
    }
    ticker_free(&team.done);
    return atomic_load(&team.n_begun);
}

#endif

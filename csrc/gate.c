// See gate.h.
#include "gate.h"
#include "pool.h"

#if defined(_WIN32) // one thread there, and no forks

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
#include <stdlib.h>

// Forks are held as long as anybody is in. Whoever wants to fork comes before those who want in, or
// fits that overlap would keep it waiting.
static pthread_mutex_t fork_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_out = PTHREAD_COND_INITIALIZER, fork_over = PTHREAD_COND_INITIALIZER;
static int n_in, n_forks;

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

void fm_hold_forks(void)
{
    fm_count_forks();
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
    gate->process = fm_forks_so_far();
}
fm_gate *fm_gate_make(void)
{
    fm_count_forks();
    fm_gate *gate = malloc(sizeof *gate);
    if (gate)
        begin(gate);
    return gate;
}
void fm_gate_drop(fm_gate *gate)
{
    if (gate && gate->process == fm_forks_so_far()) {
        pthread_cond_destroy(&gate->changed);
        pthread_mutex_destroy(&gate->lock);
    }
    free(gate);
}
void fm_gate_renew(fm_gate *gate)
{
    if (gate->process != fm_forks_so_far())
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

#endif

// Who may go on when: forks that wait for locks, and writers that wait for readers.
#ifndef FM_GATE_H
#define FM_GATE_H

// Between these two calls no fork happens: for code whose locks a child could find taken for ever.
void fm_hold_forks(void);
void fm_let_fork(void);

// A gate before memory that many threads read, each for a while, and one at a time writes. Who
// writes closes it, which waits until the readers in it have left; who wants to enter meanwhile waits.
typedef struct fm_gate fm_gate;
fm_gate *fm_gate_make(void); // NULL without memory
void fm_gate_drop(fm_gate *gate);
void fm_gate_enter(fm_gate *gate);
void fm_gate_leave(fm_gate *gate);
void fm_gate_close(fm_gate *gate);
void fm_gate_open(fm_gate *gate);
// To be called before the gate is used where a fork may lie between: the child lacks the readers.
void fm_gate_renew(fm_gate *gate);

#endif

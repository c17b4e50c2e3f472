// Preloaded into a process, has the n-th system call that writes into a folder fail, or that
// folder's disk be full after so many bytes.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { OPEN, WRITE, FSYNC, CHMOD, RENAME, UNLINK, CLOSE };
enum { HALF = -1 }; // instead of an error number: a write that takes half of what it is given

enum { MOST_FILES = 1024 };
static char watched[MOST_FILES];         // descriptors of files in the folder, and of itself
static char folder[4096];
static int kinds_to_fail, error_number;  // bits 1 << kind
static long calls, first_to_fail, last_to_fail, space = -1;

void watch_folder(const char *path) { snprintf(folder, sizeof folder, "%s", path); }

// From now on the n-th call of these kinds fails, n from 1, and `more` calls after it.
void fail_nth(int kinds, long n, long more, int error)
{
    calls = 0;
    first_to_fail = n;
    last_to_fail = n + more;
    error_number = error;
    kinds_to_fail = kinds;
}

// How many bytes may still be written; -1: as many as one likes.
void leave_space(long n_bytes) { space = n_bytes; }

// No more failures; returns how many calls there were that could have failed.
long stop_failing(void)
{
    kinds_to_fail = 0;
    space = -1;
    return calls;
}

static int fails(int kind, int concerned)
{
    if (!concerned || !(kinds_to_fail >> kind & 1))
        return 0;
    long call = ++calls;
    if (call < first_to_fail || call > last_to_fail)
        return 0;
    errno = error_number;
    return 1;
}

static int in_folder(const char *path)
{
    return *folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_watched(int file) { return 0 <= file && file < MOST_FILES && watched[file]; }

#define NEXT(result, name, ...)                               \
    static result (*next)(__VA_ARGS__);                       \
    if (!next)                                                \
        *(void **)&next = dlsym(RTLD_NEXT, name)

static int watch(int file, const char *path)
{
    if (0 <= file && file < MOST_FILES)
        watched[file] = in_folder(path);
    return file;
}

#define OPENS(name)                                           \
    int name(const char *path, int flags, ...)                \
    {                                                         \
        va_list rest;                                         \
        va_start(rest, flags);                                \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                         \
        NEXT(int, #name, const char *, int, ...);             \
        return fails(OPEN, in_folder(path)) ? -1 : watch(next(path, flags, mode), path); \
    }
OPENS(open)
OPENS(open64)

ssize_t write(int file, const void *bytes, size_t n)
{
    NEXT(ssize_t, "write", int, const void *, size_t);
    int concerned = is_watched(file);
    if (fails(WRITE, concerned)) {
        if (error_number != HALF)
            return -1;
        n = (n + 1) / 2;
    }
    if (concerned && space >= 0) {
        if (n && !space) {
            errno = ENOSPC;
            return -1;
        }
        n = n < (size_t)space ? n : (size_t)space;
        space -= n;
    }
    return next(file, bytes, n);
}

int fsync(int file)
{
    NEXT(int, "fsync", int);
    return fails(FSYNC, is_watched(file)) ? -1 : next(file);
}

int fchmod(int file, mode_t mode)
{
    NEXT(int, "fchmod", int, mode_t);
    return fails(CHMOD, is_watched(file)) ? -1 : next(file, mode);
}

int chmod(const char *path, mode_t mode)
{
    NEXT(int, "chmod", const char *, mode_t);
    return fails(CHMOD, in_folder(path)) ? -1 : next(path, mode);
}

int rename(const char *from, const char *to)
{
    NEXT(int, "rename", const char *, const char *);
    return fails(RENAME, in_folder(to)) ? -1 : next(from, to);
}

int unlink(const char *path)
{
    NEXT(int, "unlink", const char *);
    return fails(UNLINK, in_folder(path)) ? -1 : next(path);
}

int close(int file)
{
    NEXT(int, "close", int);
    int concerned = is_watched(file);
    if (concerned)
        watched[file] = 0;
    int result = next(file); // Linux closes a file also where it reports an error
    return fails(CLOSE, concerned) ? -1 : result;
}

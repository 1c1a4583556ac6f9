/* Preloaded into a process under test: moves its wall clock, and lets chosen calls on chosen files fail.

   RFS_SHIM names the control file, which the test maps too: a table of int64, in this order

       offset of CLOCK_REALTIME in ns · times it was asked
       per call of enum call: the error to fail with (0: none; negative: a write takes only half) · how often it still may
           (negative: always) · how often it failed · how often it still succeeds before
       how many steps more until the process is killed, before the last of them (0: it is not) · how many steps there were

   RFS_SHIM_PATH limits failures and steps to files whose path contains it. A step is a call that changes what is on the disk.
   The monotonic clock is never touched. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum call { FALLOCATE, MMAP, OPEN, WRITE, RENAME, FTRUNCATE, MKDIR, SYNC, CALLS };

enum { STEPS = 2 + 4 * CALLS, WORDS = STEPS + 2 };

static int64_t nothing[WORDS];
static volatile int64_t *table = nothing;
static const char *part = "";

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("RFS_SHIM"), *wanted = getenv("RFS_SHIM_PATH");
    int file = name ? (int)syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC) : -1;
    if (wanted) part = wanted;
    if (file < 0) return;
    /* The bare system call: our own mmap below must not count this one. */
    void *mapped = (void *)syscall(SYS_mmap, 0, sizeof nothing, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0L);
    if (mapped != MAP_FAILED) table = mapped;
    syscall(SYS_close, file);
}

static int fails(enum call call, const char *path) {
    volatile int64_t *entry = table + 2 + 4 * call;
    if (!entry[0] || !entry[1] || !path || !strstr(path, part)) return 0;
    if (entry[3] > 0 && __sync_fetch_and_sub(entry + 3, 1) > 0) return 0;
    if (entry[1] > 0) __sync_fetch_and_sub(entry + 1, 1);
    __sync_fetch_and_add(entry + 2, 1);
    return (int)entry[0];
}

/* The path of a name in a folder that is open; an empty name is the folder's own, or a file's. NULL: it has none. */
static const char *path_of(int folder, const char *name, char *path, size_t size) {
    char link[64];
    if (*name == '/' || (folder == AT_FDCWD && *name)) return name;
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = syscall(SYS_readlink, link, path, size / 2);
    if (length < 0) return NULL;
    snprintf(path + length, size - length, *name ? "/%s" : "%s", name);
    return path;
}

static int fails_at(enum call call, int folder, const char *name) {
    char path[8192];
    return table[2 + 4 * call] ? fails(call, path_of(folder, name, path, sizeof path)) : 0;
}

static int fails_file(enum call call, int file) { return fails_at(call, file, ""); }

static void step_at(int folder, const char *name) {
    char path[8192];
    if (!table[STEPS]) return;
    const char *found = path_of(folder, name, path, sizeof path);
    if (!found || !strstr(found, part)) return;
    __sync_fetch_and_add(table + STEPS + 1, 1);
    if (__sync_fetch_and_sub(table + STEPS, 1) == 1) {
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        for (;;) syscall(SYS_pause); /* until it arrives */
    }
}

static void step_file(int file) { step_at(file, ""); }

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int clock_gettime(clockid_t clock, struct timespec *time) {
    static __typeof__(&clock_gettime) next;
    if (!next) next = NEXT(clock_gettime);
    int done = next(clock, time);
    if (!done && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t now = time->tv_sec * 1000000000LL + time->tv_nsec + table[0];
        __sync_fetch_and_add(table + 1, 1);
        time->tv_sec = now / 1000000000LL;
        time->tv_nsec = now % 1000000000LL;
    }
    return done;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}

#define FAIL(error) do { int found = (error); if (found) { errno = found; return -1; } } while (0)

int posix_fallocate(int file, off_t offset, off_t size) {
    step_file(file);
    int error = fails_file(FALLOCATE, file);
    return error ? error : NEXT(posix_fallocate)(file, offset, size); /* returns its error */
}
int posix_fallocate64(int, off_t, off_t) __attribute__((alias("posix_fallocate")));

int fallocate(int file, int mode, off_t offset, off_t size) {
    FAIL(fails_file(FALLOCATE, file));
    return NEXT(fallocate)(file, mode, offset, size);
}
int fallocate64(int, int, off_t, off_t) __attribute__((alias("fallocate")));

void *mmap(void *address, size_t size, int protection, int flags, int file, off_t offset) {
    int error = flags & MAP_ANONYMOUS ? 0 : fails_file(MMAP, file);
    if (error) {
        errno = error;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, address, size, protection, flags, file, offset);
}
void *mmap64(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap")));

static int opened(int folder, const char *path, int flags, va_list more) {
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;
    if (flags & (O_CREAT | O_TRUNC)) step_at(folder, path);
    FAIL(fails_at(OPEN, folder, path));
    return (int)syscall(SYS_openat, folder, path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int file = opened(AT_FDCWD, path, flags, more);
    va_end(more);
    return file;
}
int open64(const char *, int, ...) __attribute__((alias("open")));
int openat(int folder, const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int file = opened(folder, path, flags, more);
    va_end(more);
    return file;
}
int openat64(int, const char *, int, ...) __attribute__((alias("openat")));

/* How much of it is to be written; -1, and errno, if the call is to fail. */
static ssize_t to_write(int file, size_t size) {
    int fault = fails_file(WRITE, file);
    if (fault < 0) return size > 1 ? size / 2 : size;
    FAIL(fault);
    return size;
}

ssize_t write(int file, const void *data, size_t size) {
    step_file(file);
    ssize_t taken = to_write(file, size);
    return taken < 0 ? -1 : NEXT(write)(file, data, taken);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    step_file(file);
    ssize_t taken = to_write(file, size);
    return taken < 0 ? -1 : NEXT(pwrite)(file, data, taken, at);
}
ssize_t pwrite64(int, const void *, size_t, off_t) __attribute__((alias("pwrite")));
int fsync(int file) {
    step_file(file);
    FAIL(fails_file(SYNC, file));
    return NEXT(fsync)(file);
}
int fdatasync(int file) {
    step_file(file);
    FAIL(fails_file(SYNC, file));
    return NEXT(fdatasync)(file);
}
int unlink(const char *path) {
    step_at(AT_FDCWD, path);
    return NEXT(unlink)(path);
}
int unlinkat(int folder, const char *path, int flags) {
    step_at(folder, path);
    return NEXT(unlinkat)(folder, path, flags);
}
int link(const char *from, const char *to) {
    step_at(AT_FDCWD, to);
    return NEXT(link)(from, to);
}
int linkat(int folder, const char *from, int target, const char *to, int flags) {
    step_at(target, to);
    return NEXT(linkat)(folder, from, target, to, flags);
}
int rename(const char *from, const char *to) {
    step_at(AT_FDCWD, to);
    FAIL(fails(RENAME, to));
    return NEXT(rename)(from, to);
}
int renameat(int folder, const char *from, int target, const char *to) {
    step_at(target, to);
    FAIL(fails_at(RENAME, target, to));
    return NEXT(renameat)(folder, from, target, to);
}
int ftruncate(int file, off_t size) {
    step_file(file);
    FAIL(fails_file(FTRUNCATE, file));
    return NEXT(ftruncate)(file, size);
}
int ftruncate64(int, off_t) __attribute__((alias("ftruncate")));
int mkdir(const char *path, mode_t mode) {
    step_at(AT_FDCWD, path);
    FAIL(fails(MKDIR, path));
    return NEXT(mkdir)(path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
    step_at(folder, path);
    FAIL(fails_at(MKDIR, folder, path));
    return NEXT(mkdirat)(folder, path, mode);
}

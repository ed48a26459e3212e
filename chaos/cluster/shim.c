/* Loaded before libc into a node (LD_PRELOAD): makes its calls for time and to its disk behave as a
 * mapped file says, which nemeses change while the node runs. chaos/cluster/shim.py has the layout.
 *
 * Disk faults hit only files below the folder named by CHAOS_SHIM_FOLDER; clocks hit everything. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct told {
    volatile int64_t wall_offset_ns; /* added to the wall clock */
    volatile int64_t sync_wait_us;   /* before each sync */
    volatile int64_t stalled;        /* writes and syncs wait while this is not 0 */
    volatile int64_t write_errno;    /* what writes fail with */
    volatile int64_t sync_errno;     /* what syncs fail with */
    volatile int64_t drift_used;     /* which of the two counts: the other one is being written */
    struct {
        volatile int64_t rate_ppm;   /* all clocks run at 1 + rate_ppm / 1e6 ... */
        volatile int64_t from_ns;    /* ... from here on, in true monotonic time */
        volatile int64_t gained_ns;  /* before that */
    } drift[2];
};

static struct told nothing;
static struct told *told = &nothing;
static char folder[PATH_MAX];
static size_t folder_length;

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void look_up(void)
{
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    const char *below = getenv("CHAOS_SHIM_FOLDER");
    if (below && realpath(below, folder))
        folder_length = strlen(folder);
    const char *path = getenv("CHAOS_SHIM_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *mapped = mmap(NULL, sizeof *told, PROT_READ, MAP_SHARED, file, 0);
        if (mapped != MAP_FAILED)
            told = mapped;
        close(file);
    }
}

static void ready(void) { pthread_once(&once, look_up); }

static int64_t as_ns(const struct timespec *time) { return time->tv_sec * 1000000000LL + time->tv_nsec; }

static int64_t gained(void)
{
    int used = told->drift_used != 0;
    int64_t rate = told->drift[used].rate_ppm, since = told->drift[used].from_ns;
    int64_t before = told->drift[used].gained_ns;
    struct timespec now;
    if (!rate)
        return before;
    real_clock_gettime(CLOCK_MONOTONIC, &now);
    return before + (int64_t)((__int128)(as_ns(&now) - since) * rate / 1000000);
}

int clock_gettime(clockid_t which, struct timespec *time)
{
    ready();
    int result = real_clock_gettime(which, time);
    int wall = which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE;
    /* The steady clock stays right: native code waits for deadlines on it (Python's own lock among them), and a
     * deadline by a clock that is behind the kernel's is always over: the process would spin instead of wait. */
    if (result == 0 && wall) {
        int64_t ns = as_ns(time) + told->wall_offset_ns + gained();
        time->tv_sec = ns / 1000000000LL;
        time->tv_nsec = ns % 1000000000LL;
    }
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *where)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}

/* Whether the file is one of the node's data; only asked while something is wrong. */
static int ours(int file)
{
    char link[64], path[PATH_MAX];
    if (!folder_length)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > (ssize_t)folder_length && memcmp(path, folder, folder_length) == 0;
}

static void wait_us(int64_t us)
{
    struct timespec wait = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&wait, NULL);
}

/* 0: go on; otherwise errno is set. */
static int hindered(int file, int64_t error)
{
    if (!told->stalled && !error)
        return 0;
    int kept = errno;
    if (!ours(file)) {
        errno = kept;
        return 0;
    }
    while (told->stalled)
        wait_us(5000);
    errno = error ? (int)error : kept;
    return error != 0;
}

ssize_t write(int file, const void *data, size_t size)
{
    ready();
    return hindered(file, told->write_errno) ? -1 : real_write(file, data, size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at)
{
    ready();
    return hindered(file, told->write_errno) ? -1 : real_pwrite(file, data, size, at);
}

ssize_t pwrite64(int file, const void *data, size_t size, off_t at)
{
    ready();
    return hindered(file, told->write_errno) ? -1 : real_pwrite(file, data, size, at);
}

static int sync_with(int (*sync)(int), int file)
{
    if (hindered(file, told->sync_errno))
        return -1;
    if (told->sync_wait_us && ours(file))
        wait_us(told->sync_wait_us);
    return sync(file);
}

int fsync(int file)
{
    ready();
    return sync_with(real_fsync, file);
}

int fdatasync(int file)
{
    ready();
    return sync_with(real_fdatasync, file);
}

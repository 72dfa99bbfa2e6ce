/* Moves the wall clock of the processes that it is loaded into, by the seconds that stand in a shared file, and counts
 * there how often a moved clock was read. Clocks that only go forward are left alone, as when somebody sets the time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct board {
    int64_t seconds;
    uint64_t reads;
};

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static struct board *board;

__attribute__((constructor)) static void begin(void) {
    real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("MTINET_TEST_CLOCK");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *shared = mmap(0, sizeof(struct board), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared != MAP_FAILED) board = shared;
    close(file);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    if (!real_clock_gettime) begin();
    int result = real_clock_gettime(id, now);
    if (result == 0 && board && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t seconds = __atomic_load_n(&board->seconds, __ATOMIC_RELAXED);
        if (seconds) {
            now->tv_sec += seconds;
            __atomic_add_fetch(&board->reads, 1, __ATOMIC_RELAXED);
        }
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int result = clock_gettime(CLOCK_REALTIME, &exact);
    if (result == 0 && now) {
        now->tv_sec = exact.tv_sec;
        now->tv_usec = exact.tv_nsec / 1000;
    }
    return result;
}

time_t time(time_t *place) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return (time_t)-1;
    if (place) *place = exact.tv_sec;
    return exact.tv_sec;
}

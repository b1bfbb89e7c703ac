// How well this machine keeps a deadline at all: `deadlines fifo|other COUNT SEED`.
// One thread sets a timerfd to an instant 1 to 50 ms away, waits for it, and kills a child through
// its pidfd. A line for each: nanoseconds from the instant to the return of the signal call.
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int count, char **arguments) {
    if (count != 4)
        return 2;
    int wanted = atoi(arguments[2]);
    srandom((unsigned)atoi(arguments[3]));
    struct sched_param priority = {.sched_priority = 50};
    // As the agent does: a child of a real-time thread is an ordinary process.
    if (strcmp(arguments[1], "fifo") == 0 &&
        (mlockall(MCL_CURRENT | MCL_FUTURE) != 0 ||
         sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &priority) != 0))
        return 3;
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    for (int number = 0; number < wanted; number++) {
        pid_t child = fork();
        if (child == 0)
            for (;;)
                pause();
        int leader = (int)syscall(SYS_pidfd_open, child, 0);
        long long due = now_ns() + 1000000 + random() % 49000000;
        struct itimerspec at = {.it_value = {due / 1000000000, due % 1000000000}};
        unsigned long long ticks;
        if (timer < 0 || leader < 0 || timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL) != 0 ||
            read(timer, &ticks, sizeof ticks) != sizeof ticks ||
            syscall(SYS_pidfd_send_signal, leader, SIGKILL, NULL, 0) != 0)
            return 4;
        printf("%lld\n", now_ns() - due);
        waitpid(child, NULL, 0);
        close(leader);
    }
    return 0;
}

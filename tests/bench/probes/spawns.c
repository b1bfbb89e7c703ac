// How fast this machine starts processes: `spawns CONCURRENCY COUNT PROGRAM ARGUMENT...`.
// posix_spawn, at most CONCURRENCY children at a time. `@N@` among the arguments is the child's
// number. A line for each: CLOCK_MONOTONIC before its posix_spawn. The last line: nanoseconds for
// all of them.
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int count, char **arguments) {
    if (count < 4)
        return 2;
    int concurrency = atoi(arguments[1]), wanted = atoi(arguments[2]), under_way = 0;
    long long *began = calloc((size_t)wanted, sizeof *began), first = now_ns();
    char number[16], *environment[] = {NULL};
    for (int place = 4; place < count; place++)
        if (strcmp(arguments[place], "@N@") == 0)
            arguments[place] = number;
    for (int next = 0; next < wanted || under_way > 0;) {
        while (next < wanted && under_way < concurrency) {
            pid_t child;
            snprintf(number, sizeof number, "%d", next);
            began[next] = now_ns();
            if (posix_spawn(&child, arguments[3], NULL, NULL, arguments + 3, environment) != 0)
                return 4;
            next++, under_way++;
        }
        if (wait(NULL) < 0)
            return 5;
        under_way--;
    }
    long long all = now_ns() - first;
    for (int each = 0; each < wanted; each++)
        printf("%lld\n", began[each]);
    printf("%lld\n", all);
    return 0;
}

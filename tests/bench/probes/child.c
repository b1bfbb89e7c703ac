// The child of every benchmark: its first instruction reads the clock, then it writes that down.
// `child FILE N` puts CLOCK_MONOTONIC in nanoseconds at place N of FILE; `child -` does nothing but
// end; `child TERM` ignores SIGTERM and waits to be killed.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **arguments) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (count == 3) {
        long long ns = now.tv_sec * 1000000000LL + now.tv_nsec;
        int file = open(arguments[1], O_WRONLY);
        return pwrite(file, &ns, sizeof ns, atoll(arguments[2]) * (long long)sizeof ns) != sizeof ns;
    }
    if (count == 2 && strcmp(arguments[1], "TERM") == 0) {
        signal(SIGTERM, SIG_IGN);
        for (;;)
            pause();
    }
    return 0;
}

// How fast the disk below a directory makes 512 bytes durable: `syncs FILE COUNT`.
// The file is filled with zeros first, as the journal is. A line for each: nanoseconds of one write
// and its fdatasync.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { RECORD = 512 };

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int count, char **arguments) {
    char record[RECORD];
    if (count != 3)
        return 2;
    int wanted = atoi(arguments[2]), file = open(arguments[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
    memset(record, 0, sizeof record);
    for (int each = 0; each < wanted; each++)
        if (pwrite(file, record, sizeof record, (off_t)each * RECORD) != RECORD)
            return 3;
    if (fsync(file) != 0)
        return 3;
    memset(record, 7, sizeof record);
    for (int each = 0; each < wanted; each++) {
        long long began = now_ns();
        if (pwrite(file, record, sizeof record, (off_t)each * RECORD) != RECORD ||
            fdatasync(file) != 0)
            return 4;
        printf("%lld\n", now_ns() - began);
    }
    return 0;
}

/* Calls every function of limpet.h as a host in C would, and says which it called. It works in its
 * current directory, which tests/abi/program.py lays out. Every buffer has exactly the size that
 * the core is told, and lies on the heap: there valgrind sees the first byte beyond it. */

#include "limpet.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TEXT_BYTES = 256 * 1024, EVENTS_MAX = 8, PATIENCE_MS = 120 * 1000 };

static const uint64_t BOOT_NS = 60000000000, SECOND_NS = 1000000000;

/* Calls a function of the core and writes its name down: a test compares with the header. */
#define CALL(name, ...) (printf("%s\n", #name), name(__VA_ARGS__))
#define OK(name, ...) require(CALL(name, __VA_ARGS__) == LIMPET_STATUS_OK, #name, __LINE__)
#define REQUIRE(what) require(what, #what, __LINE__)

static void require(bool holds, const char *what, int line) {
    if (!holds) {
        char *text = calloc(1, 1024);
        size_t length = 0;
        limpet_last_error((uint8_t *)text, 1023, &length);
        fprintf(stderr, "line %d: %s: %s\n", line, what, text);
        exit(1);
    }
}

typedef struct {
    uint8_t *bytes;
    size_t length;
} Text;

static Text read_file(const char *name) {
    FILE *file = fopen(name, "rb");
    REQUIRE(file != NULL);
    uint8_t *whole = malloc(TEXT_BYTES);
    size_t length = fread(whole, 1, TEXT_BYTES, file);
    fclose(file);
    return (Text){realloc(whole, length), length};
}

static Text copy(const char *string) {
    Text text = {malloc(strlen(string)), strlen(string)};
    memcpy(text.bytes, string, text.length);
    return text;
}

/* What became of a core and what it said, as far as the rest wants to know. */
typedef struct {
    LimpetCore *core;
    LimpetEvent last[LIMPET_RECORDED + 1];
    unsigned heard[LIMPET_RECORDED + 1];
} Host;

static void submit(Host *host, LimpetItem item, Text text, LimpetStatus expected) {
    LimpetItem *items = malloc(sizeof item);
    uint32_t *results = malloc(sizeof *results);
    item.length = (uint32_t)text.length;
    *items = item;
    OK(limpet_submit, host->core, items, 1, text.bytes, text.length, results);
    require(*results == expected, "the status of an item", (int)item.op);
    free(items);
    free(results);
}

static void poll_core(Host *host) {
    LimpetEvent *events = malloc(EVENTS_MAX * sizeof *events);
    uint8_t *blob = malloc(TEXT_BYTES);
    uint32_t count = 0;
    OK(limpet_poll, host->core, events, EVENTS_MAX, blob, TEXT_BYTES, &count);
    for (uint32_t place = 0; place < count; place++) {
        const LimpetEvent *event = &events[place];
        REQUIRE(event->kind <= LIMPET_RECORDED);
        host->last[event->kind] = *event;
        host->heard[event->kind]++;
        if (event->kind == LIMPET_LINK && event->value >= 0)
            close((int)event->value);
    }
    free(events);
    free(blob);
}

/* Polls whenever the event descriptor says so, until an event of `kind` has come. */
static void await(Host *host, uint32_t kind) {
    int32_t fd = -1;
    OK(limpet_event_fd, host->core, &fd);
    for (unsigned before = host->heard[kind]; host->heard[kind] == before;) {
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        require(poll(&readable, 1, PATIENCE_MS) == 1, "an event", (int)kind);
        poll_core(host);
    }
}

typedef LimpetStatus (*Taker)(const LimpetCore *, uint8_t *, size_t, size_t *);

static void take_text(Taker take, Host *host, Text *into) {
    *into = (Text){malloc(TEXT_BYTES), 0};
    REQUIRE(take(host->core, into->bytes, TEXT_BYTES, &into->length) == LIMPET_STATUS_OK);
    into->bytes = realloc(into->bytes, into->length);
}

#define TAKE_TEXT(name, ...) (printf("%s\n", #name), take_text(name, __VA_ARGS__))

/* --- what needs no core ------------------------------------------------------------------------ */

static void check_version(void) {
    uint32_t version = 0;
    OK(limpet_abi_version, &version);
    REQUIRE(version >> 16 == LIMPET_ABI_VERSION >> 16);
    REQUIRE(limpet_abi_version(NULL) == LIMPET_STATUS_NULL);
}

static void read_digest(uint8_t digest[32]) {
    Text message = read_file("message");
    uint32_t offset = 0;
    OK(limpet_frame, message.bytes, message.length, message.length, &offset, digest);
    REQUIRE(offset > 0 && offset < message.length);
    /* Every beginning of a message is refused or is the whole; nothing behind it is read. */
    for (size_t length = 0; length < offset; length++) {
        Text cut = {malloc(length), length};
        memcpy(cut.bytes, message.bytes, length);
        REQUIRE(limpet_frame(cut.bytes, length, message.length, &offset, digest)
                == LIMPET_STATUS_REFUSED);
        free(cut.bytes);
    }
    free(message.bytes);
}

static void read_error(void) {
    LimpetCore *core = NULL;
    Text nothing = copy("{}");
    REQUIRE(limpet_open(nothing.bytes, nothing.length, &core) == LIMPET_STATUS_FAILED);
    REQUIRE(core == NULL);
    uint8_t *error = malloc(6);
    size_t length = 0;
    OK(limpet_last_error, error, 6, &length);
    REQUIRE(length == 6 && memcmp(error, "cannot", 6) == 0);
    free(error);
    free(nothing.bytes);
    OK(limpet_close, NULL);
}

typedef LimpetStatus (*Reader)(const uint8_t *, size_t, uint64_t, uint8_t *, size_t, size_t *);

/* Reads lines from behind number 0; a buffer that is too small is said to be. */
static void read_lines(Reader reader, const char *path) {
    Text name = copy(path);
    uint8_t *lines = malloc(TEXT_BYTES);
    size_t length = 0;
    REQUIRE(reader(name.bytes, name.length, 0, lines, 1, &length) == LIMPET_STATUS_TOO_SMALL);
    REQUIRE(length == 0);
    REQUIRE(reader(name.bytes, name.length, 0, lines, TEXT_BYTES, &length) == LIMPET_STATUS_OK);
    REQUIRE(length > 0 && lines[0] == '{');
    free(lines);
    free(name.bytes);
}

#define READ_LINES(name, path) (printf("%s\n", #name), read_lines(name, path))

/* --- a core whose world is made up ------------------------------------------------------------- */

/* Returns the number of the attempt that the core wants `what` for, out of its effects. */
static uint64_t asked_for(Host *host, const char *what) {
    Text effects;
    TAKE_TEXT(limpet_effects, host, &effects);
    char *text = calloc(1, effects.length + 1), sought[32];
    memcpy(text, effects.bytes, effects.length);
    snprintf(sought, sizeof sought, "\"%s\":", what);
    const char *found = strstr(text, sought);
    require(found != NULL, text, __LINE__);
    uint64_t attempt = strtoull(found + strlen(sought), NULL, 10);
    free(text);
    free(effects.bytes);
    return attempt;
}

static void answer(Host *host, const char *format, uint64_t attempt) {
    char answer[128];
    snprintf(answer, sizeof answer, format, (unsigned long long)attempt);
    Text text = copy(answer);
    OK(limpet_inject, host->core, text.bytes, text.length);
    free(text.bytes);
}

static void live_by_hand(const uint8_t digest[32]) {
    Host host = {0};
    Text settings = read_file("by_hand.json"), plan = read_file("plan.json"), none = {NULL, 0};
    OK(limpet_open_manual, settings.bytes, settings.length, 7, BOOT_NS, &host.core);
    LimpetItem task = {.op = LIMPET_SUBMIT, .token = 1, .flags = 1};
    memcpy(task.digest, digest, 32);
    submit(&host, task, plan, LIMPET_STATUS_OK);
    OK(limpet_advance, host.core, BOOT_NS + SECOND_NS);
    uint64_t attempt = asked_for(&host, "spawn");
    answer(&host, "{\"spawned\": %llu}", attempt);
    answer(&host, "{\"exited\": {\"attempt\": %llu, \"code\": 0, \"signal\": null}}", attempt);
    answer(&host, "{\"swept\": %llu}", asked_for(&host, "sweep"));

    await(&host, LIMPET_WORK);
    submit(&host, (LimpetItem){.op = LIMPET_HOST_DONE, .target = host.last[LIMPET_WORK].target},
           none, LIMPET_STATUS_OK);
    await(&host, LIMPET_RESULT);
    submit(&host, (LimpetItem){.op = LIMPET_RECORD}, none, LIMPET_STATUS_OK);
    await(&host, LIMPET_RECORDED);
    submit(&host, (LimpetItem){.op = LIMPET_DELIVERED, .target = host.last[LIMPET_RESULT].target},
           none, LIMPET_STATUS_OK);
    submit(&host, (LimpetItem){.op = LIMPET_LIST}, none, LIMPET_STATUS_OK);
    await(&host, LIMPET_LISTED);
    submit(&host, (LimpetItem){.op = 99}, none, LIMPET_STATUS_INVALID);
    OK(limpet_close, host.core);
    free(settings.bytes);
    free(plan.bytes);

    READ_LINES(limpet_scan, "by_hand/journal");
    READ_LINES(limpet_replay, "by_hand/recordings");
}

/* --- a core with its threads ------------------------------------------------------------------- */

/* Connects to a listener that accepts and says nothing, and to none. */
static void connect_and_part(Host *host) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    REQUIRE(bind(listener, (struct sockaddr *)&at, size) == 0 && listen(listener, 1) == 0);
    REQUIRE(getsockname(listener, (struct sockaddr *)&at, &size) == 0);
    for (int round = 0; round < 2; round++) {
        char target[256];
        snprintf(target, sizeof target,
                 "{\"host\": \"127.0.0.1\", \"port\": %d, \"tls\": null, \"resolve_ms\": 60000,"
                 " \"connect_ms\": 60000, \"handshake_ms\": 60000, \"connack_ms\": 60000,"
                 " \"maximum_packet_bytes\": 65536}", ntohs(at.sin_port));
        Text text = copy(target);
        uint64_t epoch = 0;
        OK(limpet_connect, host->core, text.bytes, text.length, &epoch);
        do
            await(host, LIMPET_LINK);
        while (host->last[LIMPET_LINK].value < 0 && listener >= 0);
        OK(limpet_disconnect, host->core, epoch);
        free(text.bytes);
        if (listener >= 0)
            close(listener);
        listener = -1;
    }
}

static void live_with_threads(const uint8_t digest[32]) {
    Host host = {0};
    Text settings = read_file("with_threads.json"), plan = read_file("plan.json"), stats, memory;
    OK(limpet_open, settings.bytes, settings.length, &host.core);
    REQUIRE(CALL(limpet_advance, host.core, 0) == LIMPET_STATUS_INVALID);
    LimpetItem task = {.op = LIMPET_SUBMIT, .token = 1, .flags = 1};
    memcpy(task.digest, digest, 32);
    submit(&host, task, plan, LIMPET_STATUS_OK);
    await(&host, LIMPET_ANSWER);
    await(&host, LIMPET_WORK);
    submit(&host, (LimpetItem){.op = LIMPET_HOST_DONE, .target = host.last[LIMPET_WORK].target},
           (Text){NULL, 0}, LIMPET_STATUS_OK);
    await(&host, LIMPET_RESULT);

    connect_and_part(&host);
    Text cancel = copy("{\"id\": \"another\", \"source\": \"ops\", \"by\": \"ops\"}");
    submit(&host, (LimpetItem){.op = LIMPET_CANCEL, .token = 2}, cancel, LIMPET_STATUS_OK);
    await(&host, LIMPET_ANSWER);
    Text refuse = copy("{\"plan\": {}, \"extensions\": [], \"next\": null}");
    submit(&host, (LimpetItem){.op = LIMPET_EXTEND, .token = 3}, refuse, LIMPET_STATUS_OK);
    await(&host, LIMPET_ANSWER);
    TAKE_TEXT(limpet_stats, &host, &stats);
    TAKE_TEXT(limpet_memory, &host, &memory);
    submit(&host, (LimpetItem){.op = LIMPET_DRAIN, .value = 1}, (Text){NULL, 0},
           LIMPET_STATUS_OK);
    await(&host, LIMPET_DRAINED);
    OK(limpet_close, host.core);
    free(settings.bytes);
    free(plan.bytes);
    free(cancel.bytes);
    free(refuse.bytes);
    free(stats.bytes);
    free(memory.bytes);
}

int main(void) {
    uint8_t *digest = malloc(32);
    check_version();
    read_digest(digest);
    read_error();
    live_by_hand(digest);
    live_with_threads(digest);
    free(digest);
    return 0;
}

// The clients of the gateway benchmark, from one epoll loop. Each prints one JSON object.
//
//     load requests TARGET CONNECTIONS SECONDS RATE
//         Plain requests: as fast as CONNECTIONS allow where RATE is 0, else RATE a second whether
//         the gateway keeps up or not; a latency counts from when its request was due.
//     load streams TARGET STREAMS RAMP_MS SECONDS_MAX CHUNKS
//         So many streams, begun evenly within RAMP_MS; what is not there at the end is lost.
//     load aborts TARGET COUNT UPSTREAM_PORT
//         Leaves after a stream's first chunk, again and again; asks the upstream when it knew.
//
// TARGET is PORT PATH KEY MODEL. What the texts of the chunks mean stands in upstream.c.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS_AT_ONCE 512
#define PAUSE_AFTER_S 5
#define ABORT_S 6  // a stream that ends by itself must not be taken for one that was closed
#define UNNOTICED_MAX 2
#define MARK_SIZE 33  // of "i=NUMBER t=TIME"

typedef unsigned long long u64;

typedef struct {
    double *values;
    int size, room;
} Samples;

typedef struct {
    int fd, busy, over;
    u64 due_ns, sent_ns;
    char in[65536];
    int in_size, head_size, status, ended;
    long body_size;
    int chunks;
} Connection;

static int epoll, port;
static char request[4096];
static int request_size;
static Connection *connections;
static Samples times, lags, leavings;
static u64 good, refused, broken, tokens, disordered;

static u64 now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void add(Samples *all, double value) {
    if (all->size == all->room) {
        all->room = all->room ? all->room * 2 : 4096;
        all->values = realloc(all->values, all->room * sizeof(double));
    }
    all->values[all->size++] = value;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double at(Samples *all, double share) {
    if (!all->size) return -1;
    qsort(all->values, all->size, sizeof(double), by_size);
    return all->values[(int)(share * (all->size - 1) + .5)];
}

static int dial(int to) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in place = {AF_INET, htons(to), {htonl(INADDR_LOOPBACK)}, {0}};
    if (!connect(fd, (void *)&place, sizeof place)) return fd;
    close(fd);
    return -1;
}

static int begin(Connection *c) {
    if (c->fd < 0) {
        if ((c->fd = dial(port)) < 0) return -1;
        struct epoll_event event = {EPOLLIN, {.ptr = c}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
    }
    c->in_size = c->head_size = c->status = c->ended = c->chunks = 0;
    c->busy = 1;
    c->sent_ns = now_ns();
    return write(c->fd, request, request_size) == request_size ? 0 : -1;
}

static void hang_up(Connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->busy = 0;
}

// Reads what is there; returns -1 when the connection was closed.
static int take(Connection *c) {
    ssize_t got = read(c->fd, c->in + c->in_size, sizeof c->in - 1 - c->in_size);
    if (got <= 0) return -1;
    c->in_size += got;
    c->in[c->in_size] = 0;
    if (c->head_size) return 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return 0;
    *end = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    c->status = atoi(c->in + 9);
    c->body_size = length ? atol(length + 17) : -1;
    *end = '\r';
    c->head_size = end - c->in + 4;
    return 0;
}

static int is_whole(Connection *c) {
    if (!c->head_size) return 0;
    if (c->body_size >= 0) return c->in_size >= c->head_size + c->body_size;
    return !memcmp(c->in + c->in_size - 5, "0\r\n\r\n", 5);
}

static int wait_until(u64 due_ns, struct epoll_event *events) {
    u64 now = now_ns(), left = due_ns > now ? due_ns - now : 0;
    struct timespec wait = {left / 1000000000ull, left % 1000000000ull};
    return epoll_pwait2(epoll, events, EVENTS_AT_ONCE, &wait, 0);
}

static int requests(int count, double seconds, double rate) {
    struct epoll_event events[EVENTS_AT_ONCE];
    u64 began = now_ns(), ends = began + seconds * 1e9, gives_up = ends + PAUSE_AFTER_S * 1000000000ull;
    u64 total = rate ? rate * seconds : ~0ull, next = 0, over = 0;
    int turn = 0;
    while (over < next || (rate ? next < total : now_ns() < ends)) {
        u64 now = now_ns(), due = rate ? began + next * (1e9 / rate) : now;
        if (now > gives_up) break;
        int idle = 0;
        for (int i = 0; i < count; i++) idle += !connections[i].busy;
        while (idle && next < total && due <= now && (rate || now < ends)) {
            Connection *c = &connections[turn++ % count];
            if (c->busy) continue;
            idle--, next++;
            c->due_ns = due;
            if (begin(c)) hang_up(c), broken++, over++;
            due = rate ? began + next * (1e9 / rate) : now;
        }
        int found = wait_until(rate && next < total && idle ? due : gives_up, events);
        for (int i = 0; i < found; i++) {
            Connection *c = events[i].data.ptr;
            if (take(c)) {
                if (c->busy) broken++, over++;
                hang_up(c);
            } else if (c->busy && is_whole(c)) {
                add(&times, (now_ns() - c->due_ns) / 1e3);
                over++;
                c->busy = 0;
                *(c->status == 200 ? &good : &refused) += 1;
                c->in[c->head_size] = 0;
                if (strcasestr(c->in, "\r\nconnection: close")) hang_up(c);
            }
        }
    }
    broken += next - over;
    printf("{\"good\":%llu,\"refused\":%llu,\"broken\":%llu,\"seconds\":%.4f,\"p50_us\":%.1f,"
        "\"p90_us\":%.1f,\"p99_us\":%.1f}\n", good, refused, broken, (now_ns() - began) / 1e9,
        at(&times, .5), at(&times, .9), at(&times, .99));
    return 0;
}

// Counts the chunks in what was read; a text that was cut in the middle is looked at again.
static void count_chunks(Connection *c) {
    u64 now = now_ns();
    char *from = c->in, *mark, *end = c->in + c->in_size;
    while ((mark = memmem(from, end - from, "i=", 2)) && end - mark >= MARK_SIZE) {
        from = mark + 2;
        int number;
        u64 sent;
        if (sscanf(mark, "i=%6d t=%20llu", &number, &sent) != 2) continue;
        if (!c->chunks) add(&times, (now - c->sent_ns) / 1e3);
        add(&lags, now > sent ? (now - sent) / 1e3 : 0);
        disordered += number != c->chunks++;
        tokens++;
        from = mark + MARK_SIZE;
    }
    c->ended |= !!memmem(c->in, c->in_size, "data: [DONE]", 12);
    int kept = end - from < MARK_SIZE + 8 ? end - from : MARK_SIZE + 8;
    if (c->head_size || c->in_size > 8192) {
        memmove(c->in, end - kept, kept);
        c->in_size = kept;
    }
}

static int streams(int count, double ramp_ms, double seconds_max, int chunks) {
    struct epoll_event events[EVENTS_AT_ONCE];
    u64 began = now_ns(), ends = began + seconds_max * 1e9;
    int next = 0, left = count, open = 0, open_max = 0;
    for (; left && now_ns() < ends;) {
        while (next < count && began + next * (ramp_ms * 1e6 / count) <= now_ns()) {
            if (begin(&connections[next++])) hang_up(&connections[next - 1]), broken++, left--;
            else open_max = ++open > open_max ? open : open_max;
        }
        int found = wait_until(next < count ? began + next * (ramp_ms * 1e6 / count) : ends, events);
        for (int i = 0; i < found; i++) {
            Connection *c = events[i].data.ptr;
            int closed = take(c), whole = !closed && is_whole(c);
            if (!closed) count_chunks(c);
            if (!closed && !whole) continue;
            *(c->status == 200 && c->ended && c->chunks == chunks ? &good : &broken) += 1;
            hang_up(c);
            left--, open--;
        }
    }
    broken += left;
    printf("{\"good\":%llu,\"broken\":%llu,\"open_max\":%d,\"chunks\":%llu,\"lost\":%lld,"
        "\"disordered\":%llu,\"seconds\":%.4f,\"first_p50_us\":%.1f,\"first_p99_us\":%.1f,"
        "\"lag_p50_us\":%.1f,\"lag_p99_us\":%.1f,\"lag_max_us\":%.1f}\n", good, broken, open_max,
        tokens, (long long)count * chunks - (long long)tokens, disordered,
        (now_ns() - began) / 1e9, at(&times, .5), at(&times, .99), at(&lags, .5), at(&lags, .99),
        at(&lags, 1));
    return 0;
}

// Returns how many clients have left the upstream in the middle of a stream, and when the last did.
static u64 left(int upstream, u64 *at_ns) {
    static const char asking[] = "GET /left HTTP/1.1\r\nHost: upstream\r\n\r\n";
    char answer[1024] = {0};
    int fd = dial(upstream);
    if (fd < 0 || write(fd, asking, sizeof asking - 1) < 0 || read(fd, answer, sizeof answer - 1) < 0)
        exit(1);
    close(fd);
    char *count = strstr(answer, "\"left\":"), *when = strstr(answer, "\"at_ns\":");
    if (!count || !when) exit(1);
    *at_ns = strtoull(when + 8, 0, 10);
    return strtoull(count + 7, 0, 10);
}

static int aborts(int count, int upstream) {
    Connection *c = &connections[0];
    int unnoticed = 0;
    for (int i = 0; i < count && unnoticed < UNNOTICED_MAX; i++) {
        u64 at_ns, before = left(upstream, &at_ns);
        if (begin(c)) return 1;
        while (!c->chunks) {
            if (take(c)) return fprintf(stderr, "no stream: %.300s\n", c->in), 1;
            count_chunks(c);
        }
        u64 gone_ns = now_ns(), gives_up = gone_ns + ABORT_S * 1000000000ull;
        hang_up(c);
        while (left(upstream, &at_ns) == before && now_ns() < gives_up) usleep(2000);
        if (at_ns > gone_ns) add(&leavings, (at_ns - gone_ns) / 1e6);
        else unnoticed++;
    }
    printf("{\"noticed\":%d,\"unnoticed\":%d,\"p50_ms\":%.3f,\"max_ms\":%.3f}\n", leavings.size, unnoticed,
        at(&leavings, .5), at(&leavings, 1));
    return 0;
}

int main(int count, char **words) {
    if (count < 8) return fprintf(stderr, "usage: see the head of load.c\n"), 2;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    int is_plain = !strcmp(words[1], "requests"), is_abort = !strcmp(words[1], "aborts");
    char body[1024];
    port = atoi(words[2]);
    snprintf(body, sizeof body, "{\"model\":\"%s\",%s\"messages\":[{\"role\":\"system\",\"content\":"
        "\"You are a helpful assistant.\"},{\"role\":\"user\",\"content\":\"Hello! Tell me a short "
        "story about a gateway, please.\"}],\"max_tokens\":128,\"temperature\":0.7}",
        words[5], is_plain ? "" : "\"stream\":true,");
    request_size = snprintf(request, sizeof request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
        "Authorization: Bearer %s\r\nContent-Type: application/json\r\nAccept: */*\r\n"
        "Content-Length: %zu\r\n\r\n%s", words[3], port, words[4], strlen(body), body);
    epoll = epoll_create1(0);
    int at_once = is_abort ? 1 : atoi(words[6]);
    connections = calloc(at_once, sizeof *connections);
    for (int i = 0; i < at_once; i++) connections[i].fd = -1;
    if (is_abort) return aborts(atoi(words[6]), atoi(words[7]));
    if (is_plain) return requests(at_once, atof(words[7]), atof(words[8]));
    return streams(at_once, atof(words[7]), atof(words[8]), atoi(words[9]));
}

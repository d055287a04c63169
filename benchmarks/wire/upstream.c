// An engine that costs next to nothing: OpenAI's chat completions from one epoll loop.
//
//     upstream PORT
//
// The model's name says how an answer comes. "m" is an answer that is there at once: one JSON
// object, or, where a stream is asked for, all of its events in one piece. "m-CHUNKS-DELAY_US"
// streams so many chunks with that pause before each. The text of a chunk, "i=NUMBER t=TIME",
// says which one it is and when (CLOCK_MONOTONIC, ns) it was sent, so that a client sees what was
// lost on the way and how long the rest took.
//
// GET /left returns how many clients have closed the connection before the end of their stream,
// and when the last one did.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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
#define UNSENT_MAX 262144  // a client that reads nothing gets nothing more for a millisecond
#define HEAD "\"id\":\"chatcmpl-mock0000000000000001\",\"created\":1763600000,\"model\":\"m\","
#define CHUNK HEAD "\"object\":\"chat.completion.chunk\","
#define STOP "data: {" CHUNK "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
#define USAGE_BODY "\"usage\":{\"prompt_tokens\":19,\"completion_tokens\":16,\"total_tokens\":35}"
#define USAGE "data: {" CHUNK "\"choices\":[]," USAGE_BODY "}\n\n"
#define DONE "data: [DONE]\n\n"
#define TEXT "Hello! This is a fixed reply of the upstream, used to measure gateways."

typedef unsigned long long u64;

typedef struct {
    int fd;
    char *in;
    int in_size, in_room;
    char *out;
    int out_size, out_room;
    int streaming, chunks_left, chunk;
    u64 delay_ns, due_ns;
    int place;  // in the heap, from 1; 0 when not in it
} Connection;

static int epoll;
static Connection **heap;  // by the time of the next chunk
static int heap_size, heap_room;
static u64 left_count, left_ns;

static u64 now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void swap(int a, int b) {
    Connection *kept = heap[a];
    heap[a] = heap[b];
    heap[b] = kept;
    heap[a]->place = a + 1;
    heap[b]->place = b + 1;
}

static void rise(int i) {
    for (; i > 0 && heap[(i - 1) / 2]->due_ns > heap[i]->due_ns; i = (i - 1) / 2) swap(i, (i - 1) / 2);
}

static void sink(int i) {
    for (;;) {
        int least = i, l = 2 * i + 1, r = l + 1;
        if (l < heap_size && heap[l]->due_ns < heap[least]->due_ns) least = l;
        if (r < heap_size && heap[r]->due_ns < heap[least]->due_ns) least = r;
        if (least == i) return;
        swap(i, least);
        i = least;
    }
}

static void schedule(Connection *c) {
    if (heap_size == heap_room) {
        heap_room = heap_room ? heap_room * 2 : 1024;
        heap = realloc(heap, heap_room * sizeof *heap);
    }
    heap[heap_size] = c;
    c->place = ++heap_size;
    rise(heap_size - 1);
}

static void unschedule(Connection *c) {
    if (!c->place) return;
    int i = c->place - 1;
    if (i != --heap_size) {
        heap[i] = heap[heap_size];
        heap[i]->place = i + 1;
        rise(i);
        sink(i);
    }
    c->place = 0;
}

static void drop(Connection *c) {
    if (c->streaming) {
        left_count++;
        left_ns = now_ns();
    }
    unschedule(c);
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static void watch(Connection *c, unsigned events) {
    struct epoll_event event = {events, {.ptr = c}};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
}

// Sends now what the socket takes, and keeps the rest; returns -1 when the client is gone.
static int put(Connection *c, const char *data, int size) {
    if (!c->out_size) {
        ssize_t sent = write(c->fd, data, size);
        if (sent == size) return 0;
        if (sent < 0 && errno != EAGAIN) return -1;
        if (sent > 0) data += sent, size -= sent;
        watch(c, EPOLLIN | EPOLLOUT);
    }
    if (c->out_size + size > c->out_room) {
        c->out_room = (c->out_size + size) * 2;
        c->out = realloc(c->out, c->out_room);
    }
    memcpy(c->out + c->out_size, data, size);
    c->out_size += size;
    return 0;
}

static int flush(Connection *c) {
    ssize_t sent = write(c->fd, c->out, c->out_size);
    if (sent < 0) return errno == EAGAIN ? 0 : -1;
    c->out_size -= sent;
    memmove(c->out, c->out + sent, c->out_size);
    if (!c->out_size) watch(c, EPOLLIN);
    return 0;
}

static int put_chunk(Connection *c, const char *data, int size) {
    char framed[2048];
    int framed_size = snprintf(framed, sizeof framed, "%x\r\n%.*s\r\n", size, size, data);
    return put(c, framed, framed_size);
}

static int put_end(Connection *c, const char *events) {
    char framed[2048];
    int size = snprintf(framed, sizeof framed, "%zx\r\n%s\r\n0\r\n\r\n", strlen(events), events);
    c->streaming = 0;
    return put(c, framed, size);
}

static int put_next(Connection *c) {
    if (!c->chunks_left) return put_end(c, STOP USAGE DONE);
    char event[1024];
    int size = snprintf(event, sizeof event,
        "data: {" CHUNK "\"system_fingerprint\":\"fp_44709d6fcb\",\"choices\":[{\"index\":0,\"delta\":"
        "{%s\"content\":\"i=%06d t=%020llu \"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
        c->chunk ? "" : "\"role\":\"assistant\",", c->chunk, now_ns());
    c->chunks_left--;
    c->chunk++;
    return put_chunk(c, event, size);
}

static int put_json(Connection *c, const char *body) {
    char answer[2048];
    int size = snprintf(answer, sizeof answer,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
        strlen(body), body);
    return put(c, answer, size);
}

static int answer(Connection *c, const char *body) {
    if (!strstr(body, "\"stream\":true") && !strstr(body, "\"stream\": true"))
        return put_json(c, "{" HEAD "\"object\":\"chat.completion\",\"choices\":[{\"index\":0,"
            "\"message\":{\"role\":\"assistant\",\"content\":\"" TEXT "\",\"refusal\":null},"
            "\"logprobs\":null,\"finish_reason\":\"stop\"}]," USAGE_BODY "}");
    static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
    if (put(c, head, sizeof head - 1)) return -1;
    c->streaming = 1;
    long chunks = 0, delay_us = 0;
    const char *model = strstr(body, "\"m-");
    if (!model || sscanf(model + 3, "%ld-%ld", &chunks, &delay_us) != 2)
        return put_end(c, "data: {" CHUNK "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
            "\"content\":\"" TEXT "\"},\"finish_reason\":null}]}\n\n" STOP USAGE DONE);
    c->chunks_left = chunks;
    c->chunk = 0;
    c->delay_ns = delay_us * 1000ull;
    c->due_ns = now_ns() + c->delay_ns;
    schedule(c);
    return 0;
}

static int put_left(Connection *c) {
    char body[128];
    snprintf(body, sizeof body, "{\"left\":%llu,\"at_ns\":%020llu}", left_count, left_ns);
    return put_json(c, body);
}

// Returns the bytes of the whole request in `in`, 0 while it is not all there.
static int whole(Connection *c, char **body) {
    char *end = memmem(c->in, c->in_size, "\r\n\r\n", 4);
    if (!end) return 0;
    *body = end + 4;
    *end = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    char *chunked = strcasestr(c->in, "\r\ntransfer-encoding: chunked");
    long body_size = length ? atol(length + 17) : 0;
    *end = '\r';
    if (chunked) {
        char *last = memmem(*body, c->in + c->in_size - *body, "0\r\n\r\n", 5);
        return last ? last + 5 - c->in : 0;
    }
    int size = *body - c->in + body_size;
    return size <= c->in_size ? size : 0;
}

static int serve(Connection *c) {
    while (!c->streaming) {
        char *body;
        int size = whole(c, &body);
        if (!size) return 0;
        char behind = c->in[size];
        c->in[size] = 0;
        int failed = c->in[0] != 'G' ? answer(c, body)
            : strncmp(c->in, "GET /left", 9) ? put_json(c, "{\"object\":\"list\",\"data\":[]}")
            : put_left(c);
        c->in[size] = behind;
        c->in_size -= size;
        memmove(c->in, c->in + size, c->in_size);
        if (failed) return -1;
    }
    return 0;
}

static void take_clients(int listening) {
    int fd, one = 1;
    while ((fd = accept4(listening, 0, 0, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        Connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->in_room = 4096;
        c->in = malloc(c->in_room + 1);
        struct epoll_event event = {EPOLLIN, {.ptr = c}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static int take_bytes(Connection *c) {
    if (c->in_room - c->in_size < 2048) c->in = realloc(c->in, (c->in_room *= 2) + 1);
    ssize_t got = read(c->fd, c->in + c->in_size, c->in_room - c->in_size);
    if (!got || (got < 0 && errno != EAGAIN)) return -1;
    if (got > 0) c->in_size += got;
    return serve(c);
}

static void send_due(void) {
    for (int budget = 2048; budget && heap_size && heap[0]->due_ns <= now_ns(); budget--) {
        Connection *c = heap[0];
        unschedule(c);
        if (c->out_size > UNSENT_MAX) {
            c->due_ns = now_ns() + 1000000;
            schedule(c);
            continue;
        }
        if (put_next(c) || (!c->streaming && serve(c))) {
            drop(c);
            continue;
        }
        if (c->streaming && !c->place) {
            c->due_ns += c->delay_ns;
            schedule(c);
        }
    }
}

int main(int count, char **arguments) {
    if (count != 2) return fprintf(stderr, "usage: upstream PORT\n"), 2;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in place = {AF_INET, htons(atoi(arguments[1])), {htonl(INADDR_LOOPBACK)}, {0}};
    if (bind(listening, (void *)&place, sizeof place) || listen(listening, 4096))
        return perror("upstream"), 1;
    epoll = epoll_create1(0);
    struct epoll_event event = {EPOLLIN, {.ptr = 0}}, events[EVENTS_AT_ONCE];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listening, &event);
    for (;;) {
        struct timespec wait = {0, 0};
        u64 now = now_ns();
        if (heap_size && heap[0]->due_ns > now) {
            wait.tv_sec = (heap[0]->due_ns - now) / 1000000000ull;
            wait.tv_nsec = (heap[0]->due_ns - now) % 1000000000ull;
        }
        int found = epoll_pwait2(epoll, events, EVENTS_AT_ONCE, heap_size ? &wait : 0, 0);
        for (int i = 0; i < found; i++) {
            Connection *c = events[i].data.ptr;
            if (!c) {
                take_clients(listening);
                continue;
            }
            int failed = events[i].events & EPOLLOUT ? flush(c) : 0;
            if (!failed && events[i].events & ~EPOLLOUT) failed = take_bytes(c);
            if (failed) drop(c);
        }
        send_due();
    }
}

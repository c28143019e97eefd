/* Subscribe to a WebSocket server many times, publish, and count what arrives.
 *
 * It is cheap enough not to be the bottleneck: it has one thread and one epoll set, and
 * reads only the header of each frame. It reports its own share of a core, which shows
 * a run in which it was the bottleneck. Linux only (epoll, timerfd, /proc).
 *
 *   --port N        server on 127.0.0.1; repeat it for more servers, used in turns
 *   --path TEXT     request target; repeat it, one for each --port
 *   --hear N        read N messages before going on      } in this order, on each
 *   --say TEXT      send a message                       } connection, after its handshake
 *   --subscribers N connections
 *   --ahead N       more connections, made before the measurement
 *   --deflate       offer permessage-deflate
 *   --publish FILE  messages to publish, one a line, in turns
 *   --in-flight N   closed loop: N publishes, then one for each that came back
 *   --rate X        open loop: X publishes a second, whatever comes back
 *   --messages N    publish no more than N, then wait for the last of them
 *   --seconds X     length of the measurement, after --warm-up X
 *   --settle X      seconds to wait before memory is measured
 *   --pid N         a server's process, for its CPU and memory; may be repeated
 *
 * The publisher is the subscriber in the middle, because some servers send in the order
 * of the joins, and others in any order. The output is one JSON object.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    MOST = 16,             /* servers, processes, steps of the way in */
    BATCH = 16,            /* handshakes on their way at the same time */
    READ_SIZE = 1 << 18,   /* bytes */
    EVENTS = 1024,
    SILENCE = 3,           /* seconds without a byte after which the rest is lost */
    BUCKETS = 64 * 64,
};

struct subscriber {
    int fd;
    unsigned char head[14];
    int have;                    /* bytes of the header */
    long left;                   /* bytes of the payload still to come */
    unsigned char control[128];  /* payload of a ping, to be sent back */
    int controls;
    long frames;                 /* data frames that were read whole */
};

struct step { int hear; const char *say; };

/* Options */
static int ports[MOST], port_count;
static const char *paths[MOST];
static int path_count;
static struct step steps[MOST];
static int step_count;
static pid_t pids[MOST];
static int pid_count;
static long subscriber_count = 1, ahead, in_flight, message_limit;
static double seconds = 1, warm_up, settle, rate;
static bool offer_deflate;
static const char *publish_file;

/* Measurements */
static bool deflate_accepted = true;
static struct subscriber *subscribers;
static long frames, bytes;  /* since all connections have joined */
static unsigned char buffer[READ_SIZE];

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("receiver: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

/* Clocks and memory */

static double read_clock(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time))
        return 0;
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static double now(void) { return read_clock(CLOCK_MONOTONIC); }

/* CPU time of the servers. A process's clock covers all its threads (Node compresses in
   some), where /proc/PID/schedstat knows only the first. */
static double server_cpu(void)
{
    double sum = 0;
    for (int i = 0; i < pid_count; i++) {
        clockid_t clock;
        if (clock_getcpuclockid(pids[i], &clock))
            fail("process %d is gone", (int)pids[i]);
        sum += read_clock(clock);
    }
    return sum;
}

/* Time for which the servers' first threads were ready to run and did not: what other
   programs on the same core took from them. */
static double server_wait(void)
{
    double sum = 0;
    for (int i = 0; i < pid_count; i++) {
        char path[64];
        unsigned long long ran, waited = 0;
        snprintf(path, sizeof path, "/proc/%d/schedstat", (int)pids[i]);
        FILE *file = fopen(path, "r");
        if (!file)
            continue;  /* not every kernel keeps count */
        if (fscanf(file, "%llu %llu", &ran, &waited) == 2)
            sum += waited * 1e-9;
        fclose(file);
    }
    return sum;
}

static long server_memory(void)
{
    long sum = 0;
    for (int i = 0; i < pid_count; i++) {
        char path[64];
        long all, resident = 0;
        snprintf(path, sizeof path, "/proc/%d/statm", (int)pids[i]);
        FILE *file = fopen(path, "r");
        if (!file || fscanf(file, "%ld %ld", &all, &resident) != 2)
            fail("process %d is gone", (int)pids[i]);
        fclose(file);
        sum += resident * sysconf(_SC_PAGESIZE);
    }
    return sum;
}

/* Latencies: buckets of 1 us up to 128 us, then 64 to each doubling (1.6 %) */

static long histogram[BUCKETS], measured;
static double highest;

static void record(double latency, long count)
{
    unsigned long us = latency > 0 ? latency * 1e6 : 0;
    int shift = us < 128 ? 0 : 57 - __builtin_clzl(us);
    histogram[shift * 64 + (us >> shift)] += count;
    measured += count;
    if (latency > highest)
        highest = latency;
}

static double percentile(double share)
{
    long wanted = measured * share, seen = 0;
    for (long i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen > wanted) {
            long shift = i < 128 ? 0 : i / 64 - 1;
            return (i - shift * 64) << shift;
        }
    }
    return highest * 1e6;
}

/* Frames */

/* Write a client's frame to `out`; return its size. The mask is zero: it protects
   proxies on the way (RFC 6455 section 10.3), and there are none. */
static size_t build(unsigned char *out, int opcode, const void *payload, size_t size)
{
    size_t head = 0;
    out[head++] = 0x80 | opcode;
    if (size < 126) {
        out[head++] = 0x80 | size;
    } else {
        out[head++] = 0x80 | 126;
        out[head++] = size >> 8;
        out[head++] = size & 255;
    }
    memset(out + head, 0, 4);
    memcpy(out + head + 4, payload, size);
    return head + 4 + size;
}

static void end_frame(struct subscriber *s, long *counted)
{
    int opcode = s->head[0] & 15;
    s->have = 0;
    if (opcode < 3) {
        ++*counted;
    } else if (opcode == 8) {
        int code = s->controls > 1 ? s->control[0] << 8 | s->control[1] : 1005;
        fail("the server closed a connection with code %d", code);
    } else if (opcode == 9) {
        unsigned char pong[160];
        size_t size = build(pong, 10, s->control, s->controls);
        if (send(s->fd, pong, size, MSG_NOSIGNAL) < 0 && errno != EAGAIN)
            fail("pong: %s", strerror(errno));
    }
    s->controls = 0;
}

/* Return how many data frames end in the bytes that were read. */
static long count_frames(struct subscriber *s, const unsigned char *data, long size)
{
    long counted = 0;
    while (size > 0) {
        if (s->left) {
            long part = s->left < size ? s->left : size;
            if (s->head[0] & 8) {
                memcpy(s->control + s->controls, data, part);
                s->controls += part;
            }
            data += part;
            size -= part;
            s->left -= part;
            if (!s->left)
                end_frame(s, &counted);
            continue;
        }
        s->head[s->have++] = *data++;
        size--;
        if (s->have < 2)
            continue;
        int length = s->head[1] & 127;
        if (s->have < (length == 126 ? 4 : length == 127 ? 10 : 2))
            continue;
        s->left = length < 126 ? length : 0;
        for (int i = 2; i < s->have; i++)
            s->left = s->left << 8 | s->head[i];
        if (s->head[0] & 8 && s->left > 125)
            fail("a control frame of %ld bytes", s->left);
        if (!s->left)
            end_frame(s, &counted);
    }
    s->frames += counted;
    return counted;
}

/* Connections */

/* Connect and ask for the upgrade; the answer is awaited in `upgraded`, so that the
   server has more than one handshake to do. */
static int dial(long index)
{
    int port = ports[index % port_count], on = 1;
    const char *path = path_count ? paths[index % path_count] : "/";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (void *)&address, sizeof address))
        fail("connect to port %d: %s", port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* End with a reset: thousands of sockets in TIME_WAIT would be left otherwise. */
    struct linger reset = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    struct timeval patience = {.tv_sec = 10};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    char request[4096];
    int size = snprintf(request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        "%s\r\n", path, port,
        /* The offer of browsers. */
        offer_deflate ? "Sec-WebSocket-Extensions: "
                        "permessage-deflate; client_max_window_bits\r\n" : "");
    if (size >= (int)sizeof request || send(fd, request, size, MSG_NOSIGNAL) != size)
        fail("the request could not be sent");
    return fd;
}

static void upgraded(int fd)
{
    char head[4096];
    int size = 0;
    /* One byte at a time: what follows the empty line is a frame. */
    while (size < 4 || memcmp(head + size - 4, "\r\n\r\n", 4)) {
        if (size == sizeof head - 1 || recv(fd, head + size, 1, 0) != 1)
            fail("no answer to the handshake: %.*s", size, head);
        size++;
    }
    head[size] = 0;
    if (strncmp(head, "HTTP/1.1 101", 12))
        fail("the server refused the upgrade: %.*s", (int)strcspn(head, "\r"), head);
    if (!strcasestr(head, "permessage-deflate"))
        deflate_accepted = false;
}

/* Read and send the messages that this server needs before it sends others. */
static void enter(struct subscriber *s)
{
    long heard = 0;
    for (int i = 0; i < step_count; i++) {
        if (steps[i].say) {
            unsigned char frame[4096];
            size_t size = strlen(steps[i].say);
            if (size > sizeof frame - 16)
                fail("--say is too long");
            size = build(frame, 1, steps[i].say, size);
            if (send(s->fd, frame, size, MSG_NOSIGNAL) != (ssize_t)size)
                fail("send: %s", strerror(errno));
        }
        heard += steps[i].hear;
        while (s->frames < heard) {
            ssize_t size = recv(s->fd, buffer, sizeof buffer, 0);
            if (size <= 0)
                fail("heard %ld of %ld messages on the way in", s->frames, heard);
            count_frames(s, buffer, size);
        }
    }
    if (s->frames > heard)
        fail("heard %ld messages on the way in, not %ld", s->frames, heard);
    s->frames = 0;
}

static void open_some(struct subscriber *group, long count)
{
    for (long first = 0; first < count; first += BATCH) {
        long end = first + BATCH < count ? first + BATCH : count;
        for (long i = first; i < end; i++)
            group[i].fd = dial(i);
        for (long i = first; i < end; i++)
            upgraded(group[i].fd);
        for (long i = first; i < end; i++)
            enter(&group[i]);
    }
}

/* Publishing */

static unsigned char *script;  /* the frames to publish, one after the other */
static size_t *ends;           /* where each of them ends */
static long lines, next_line;
static size_t written;         /* bytes of `script` that were sent in this turn */
static long owed, published;

static void load_script(void)
{
    FILE *file = fopen(publish_file, "r");
    char *line = NULL;
    size_t room = 0, size = 0;
    ssize_t length;
    if (!file)
        fail("%s: %s", publish_file, strerror(errno));
    while ((length = getline(&line, &room, file)) > 0) {
        length -= line[length - 1] == '\n';
        if (length > 65535)
            fail("a line of %s is too long", publish_file);
        script = realloc(script, size + length + 16);
        ends = realloc(ends, (lines + 1) * sizeof *ends);
        size += build(script + size, 1, line, length);
        ends[lines++] = size;
    }
    if (!lines)
        fail("%s is empty", publish_file);
    free(line);
    fclose(file);
}

/* Send the frames that are due, as many as the socket takes in one system call. */
static void publish(int fd)
{
    while (owed > 0) {
        long last = next_line + owed < lines ? next_line + owed : lines;
        size_t end = ends[last - 1];
        ssize_t size = send(fd, script + written, end - written, MSG_NOSIGNAL);
        if (size < 0) {
            if (errno == EAGAIN)
                return;
            fail("publish: %s", strerror(errno));
        }
        written += size;
        while (next_line < last && ends[next_line] <= written) {
            next_line++;
            owed--;
            published++;
        }
        if (next_line == lines)
            next_line = written = 0;
    }
}

static void owe(long count)
{
    long left = message_limit ? message_limit - published - owed : count;
    owed += count < left ? count : left;
}

/* The measurement */

static double window, used, waited, own;  /* seconds: wall, servers' CPU, this one's */
static long window_frames, window_bytes, due_frames;
static double began, from, until;

/* Record the latencies of frames of an open loop, from their due times. */
static void tell_latencies(struct subscriber *s, long arrived, double time)
{
    for (long i = s->frames - arrived; i < s->frames; i++) {
        double due = began + (i + 1) / rate;  /* the timer fires first after 1/rate */
        if (due >= from && due < until) {
            record(time - due, 1);
            due_frames++;
        }
    }
}

static void measure(void)
{
    struct subscriber *publisher = &subscribers[subscriber_count / 2];
    struct epoll_event events[EVENTS];
    int set = epoll_create1(EPOLL_CLOEXEC), timer = -1;
    for (long i = 0; i < subscriber_count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &subscribers[i]};
        fcntl(subscribers[i].fd, F_SETFL, O_NONBLOCK);
        epoll_ctl(set, EPOLL_CTL_ADD, subscribers[i].fd, &event);
    }
    began = now();
    from = began + warm_up;
    until = from + seconds;
    if (rate > 0) {
        struct itimerspec every = {0};
        every.it_interval.tv_sec = 1 / rate;
        every.it_interval.tv_nsec = (1 / rate - (long)(1 / rate)) * 1e9;
        every.it_value = every.it_interval;
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        timerfd_settime(timer, 0, &every, NULL);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
        epoll_ctl(set, EPOLL_CTL_ADD, timer, &event);
    } else {
        owe(in_flight);
    }

    bool started = false, ended = false, waiting_to_write = false;
    double heard = began, cpu = 0, mine = 0;
    while (true) {
        publish(publisher->fd);
        if (waiting_to_write != (owed > 0)) {
            waiting_to_write = owed > 0;
            struct epoll_event event = {.data.ptr = publisher};
            event.events = EPOLLIN | (waiting_to_write ? EPOLLOUT : 0);
            epoll_ctl(set, EPOLL_CTL_MOD, publisher->fd, &event);
        }
        int count = epoll_wait(set, events, EVENTS, 20);
        double time = now();
        if (!started && time >= from) {
            started = true;
            from = time;
            until = from + seconds;
            cpu = server_cpu();
            waited = server_wait();
            mine = read_clock(CLOCK_PROCESS_CPUTIME_ID);
            window_frames = frames;
            window_bytes = bytes;
        }
        if (started && !ended && time >= until) {
            ended = true;
            until = time;
            window = time - from;
            used = server_cpu() - cpu;
            waited = server_wait() - waited;
            own = read_clock(CLOCK_PROCESS_CPUTIME_ID) - mine;
            window_frames = frames - window_frames;
            window_bytes = bytes - window_bytes;
            if (timer >= 0) {
                close(timer);
                timer = -1;
            }
        }
        /* A closed loop ends now. Messages that an open loop sent may still come. */
        bool complete = frames >= published * subscriber_count;
        bool all = message_limit ? published == message_limit : ended;
        if (ended && (!(rate > 0 || message_limit) || (all && complete)))
            break;
        if (ended && time - heard > SILENCE)
            break;
        for (int i = 0; i < count; i++) {
            struct subscriber *s = events[i].data.ptr;
            if (!s) {
                uint64_t times = 0;
                if (timer >= 0 && read(timer, &times, sizeof times) > 0)
                    owe(times);
                continue;
            }
            if (!(events[i].events & ~EPOLLOUT))
                continue;
            ssize_t size = recv(s->fd, buffer, sizeof buffer, 0);
            if (size < 0 && errno == EAGAIN)
                continue;
            if (size <= 0)
                fail("a connection was lost: %s", size ? strerror(errno) : "its end");
            long arrived = count_frames(s, buffer, size);
            frames += arrived;
            bytes += size;
            heard = time;
            if (rate > 0)
                tell_latencies(s, arrived, now());
            else if (s == publisher && (!ended || message_limit))
                owe(arrived);
        }
    }
}

static void parse(int count, char **words)
{
    static const struct option options[] = {
        {"port", 1, 0, 'p'}, {"path", 1, 0, 'P'}, {"hear", 1, 0, 'h'},
        {"say", 1, 0, 's'}, {"subscribers", 1, 0, 'n'}, {"ahead", 1, 0, 'a'},
        {"deflate", 0, 0, 'd'}, {"publish", 1, 0, 'f'}, {"in-flight", 1, 0, 'k'},
        {"rate", 1, 0, 'r'}, {"messages", 1, 0, 'm'}, {"seconds", 1, 0, 't'},
        {"warm-up", 1, 0, 'w'}, {"settle", 1, 0, 'S'}, {"pid", 1, 0, 'i'}, {0}};
    int option;
    while ((option = getopt_long(count, words, "", options, NULL)) != -1) {
        if (port_count == MOST || path_count == MOST || step_count == MOST
            || pid_count == MOST)
            fail("too many arguments");
        switch (option) {
        case 'p': ports[port_count++] = atoi(optarg); break;
        case 'P': paths[path_count++] = optarg; break;
        case 'h': steps[step_count++].hear = atoi(optarg); break;
        case 's': steps[step_count++].say = optarg; break;
        case 'n': subscriber_count = atol(optarg); break;
        case 'a': ahead = atol(optarg); break;
        case 'd': offer_deflate = true; break;
        case 'f': publish_file = optarg; break;
        case 'k': in_flight = atol(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 'm': message_limit = atol(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'w': warm_up = atof(optarg); break;
        case 'S': settle = atof(optarg); break;
        case 'i': pids[pid_count++] = atoi(optarg); break;
        default: exit(2);
        }
    }
    if (!port_count || subscriber_count < 1 || optind < count)
        fail("usage: see the top of receiver.c");
}

int main(int count, char **words)
{
    parse(count, words);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (publish_file)
        load_script();

    subscribers = calloc(subscriber_count + ahead, sizeof *subscribers);
    open_some(subscribers + subscriber_count, ahead);
    usleep(ahead ? settle * 1e6 : 0);
    long memory_before = server_memory();
    double cpu = server_cpu(), time = now();
    open_some(subscribers, subscriber_count);
    double opening = now() - time, opening_cpu = server_cpu() - cpu;
    usleep(settle * 1e6);
    long memory_connected = server_memory();
    if (publish_file && (in_flight || rate > 0))
        measure();

    printf("{\"subscribers\": %ld, \"deflate\": %s, "
           "\"opening_seconds\": %.6f, \"opening_cpu\": %.6f, "
           "\"memory_before\": %ld, \"memory_connected\": %ld, \"memory_end\": %ld, "
           "\"seconds\": %.6f, \"deliveries\": %ld, \"wire_bytes\": %ld, "
           "\"server_cpu\": %.6f, \"server_wait\": %.6f, \"receiver_cpu\": %.6f, "
           "\"published\": %ld, \"all_deliveries\": %ld, \"all_wire_bytes\": %ld, "
           "\"latency_count\": %ld, \"latency_p50\": %.0f, \"latency_p99\": %.0f, "
           "\"latency_p999\": %.0f, \"latency_max\": %.0f}\n",
           subscriber_count, deflate_accepted ? "true" : "false",
           opening, opening_cpu,
           memory_before, memory_connected, server_memory(),
           window, window_frames, window_bytes, used, waited, own,
           published, frames, bytes,
           measured, percentile(0.5), percentile(0.99), percentile(0.999),
           highest * 1e6);
    return 0;
}

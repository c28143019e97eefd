/* The floor: one thread that calls send() once for each member and message.
 *
 * No server that makes a system call per delivery can be faster than this one, which
 * does next to nothing else. It knows one room, reads JSON by looking for words in it,
 * and only accepts the handshake of receiver.c. Not an example of how to write C.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 20000, INPUT = 1 << 16 };

struct client {
    int fd;
    bool upgraded;
    int size;               /* bytes in `input` */
    unsigned char *input;
};

static struct client *members[MOST];
static int member_count;
static long seq;

/* Send a text frame, or drop it: this server has no outbox. */
static void tell(struct client *c, const char *text, int size)
{
    unsigned char frame[INPUT];
    int head = size < 126 ? 2 : 4;
    frame[0] = 0x81;
    frame[1] = size < 126 ? size : 126;
    frame[2] = size >> 8;
    frame[3] = size & 255;
    memcpy(frame + head, text, size);
    send(c->fd, frame, head + size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void deliver(const char *payload)
{
    static unsigned char frame[INPUT + 256];
    char *text = (char *)frame + 4;
    int size = snprintf(text, INPUT,
        "{\"type\":\"message\",\"room\":\"bench\",\"seq\":%ld,\"from\":\"ann\","
        "\"payload\":%s", ++seq, payload);
    int head = size < 126 ? 2 : 4;
    frame[4 - head] = 0x81;
    frame[5 - head] = size < 126 ? size : 126;
    if (head == 4) {
        frame[2] = size >> 8;
        frame[3] = size & 255;
    }
    for (int i = 0; i < member_count; i++)
        send(members[i]->fd, frame + 4 - head, head + size,
             MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void serve(struct client *c, char *text)
{
    char *payload = strstr(text, "\"payload\":");
    if (strstr(text, "\"type\":\"join\"") && member_count < MOST) {
        const char *joined = "{\"type\":\"joined\",\"room\":\"bench\"}";
        members[member_count++] = c;
        tell(c, joined, strlen(joined));
    } else if (payload) {
        deliver(payload + strlen("\"payload\":"));  /* with the closing brace */
    }
}

static void upgrade(struct client *c)
{
    c->input[c->size] = 0;
    char *end = strstr((char *)c->input, "\r\n\r\n");
    if (!end)
        return;
    /* The answer to the example key of RFC 6455 section 1.3. */
    const char *refusal = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    const char *answer =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    bool known = strstr((char *)c->input, "dGhlIHNhbXBsZSBub25jZQ==");
    const char *said = known ? answer : refusal;
    send(c->fd, said, strlen(said), MSG_NOSIGNAL);
    c->upgraded = known;
    c->size = 0;
    if (known)
        tell(c, "{\"type\":\"hello\"}", strlen("{\"type\":\"hello\"}"));
}

/* Serve the complete frames, and keep the rest. */
static void read_frames(struct client *c)
{
    unsigned char *at = c->input, *end = c->input + c->size;
    while (end - at >= 6) {
        int size = at[1] & 127, head = 2;
        if (size == 126) {
            size = at[2] << 8 | at[3];
            head = 4;
        }
        if (end - at < head + 4 + size)
            break;
        unsigned char *mask = at + head, *payload = mask + 4, after = payload[size];
        for (int i = 0; i < size; i++)
            payload[i] ^= mask[i & 3];
        payload[size] = 0;
        if ((at[0] & 15) == 1)
            serve(c, (char *)payload);
        payload[size] = after;
        at = payload + size;
    }
    c->size = end - at;
    memmove(c->input, at, c->size);
}

static void leave(struct client *c)
{
    for (int i = 0; i < member_count; i++)
        if (members[i] == c)
            members[i--] = members[--member_count];
    close(c->fd);
    free(c->input);
    free(c);
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listening = socket(AF_INET, SOCK_STREAM, 0), set = epoll_create1(0), on = 1;
    if (bind(listening, (void *)&address, sizeof address) || listen(listening, 4096))
        return perror("floor"), 1;
    getsockname(listening, (void *)&address, &size);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct epoll_event event = {.events = EPOLLIN}, events[256];
    epoll_ctl(set, EPOLL_CTL_ADD, listening, &event);
    printf("listening on ws://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    while (true) {
        int count = epoll_wait(set, events, 256, -1);
        for (int i = 0; i < count; i++) {
            struct client *c = events[i].data.ptr;
            if (!c) {
                c = calloc(1, sizeof *c);
                c->input = malloc(INPUT + 1);
                c->fd = accept(listening, NULL, NULL);
                setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                event.data.ptr = c;
                epoll_ctl(set, EPOLL_CTL_ADD, c->fd, &event);
                continue;
            }
            ssize_t got = recv(c->fd, c->input + c->size, INPUT - c->size, 0);
            if (got <= 0) {
                leave(c);
                continue;
            }
            c->size += got;
            if (!c->upgraded)
                upgrade(c);
            else
                read_frames(c);
        }
    }
}

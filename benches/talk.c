/* What is done in and with containers whose network is measured.

   talk wait                        nothing, until it is told to end
   talk address                     prints the first address of IPv4 that is not loopback
   talk serve PORT                  a byte for each that connects
   talk connect ADDRESS PORT COUNT  connects, has the byte and hangs up, so often one after another; prints how many a second
   talk ask NAME COUNT WINDOW       A queries to the first name server of /etc/resolv.conf, so many under way at once, each
                                    answer looked at; prints how many were answered a second

   Nothing takes longer than PATIENCE, each answer. */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_SECONDS 5
#define IDS 65536

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, errno == EAGAIN ? "no answer" : strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int address(void) {
    struct ifaddrs *all;
    if (getifaddrs(&all)) fail("getifaddrs");
    for (struct ifaddrs *one = all; one; one = one->ifa_next)
        if (one->ifa_addr && one->ifa_addr->sa_family == AF_INET && !(one->ifa_flags & IFF_LOOPBACK)) {
            puts(inet_ntoa(((struct sockaddr_in *)one->ifa_addr)->sin_addr));
            return 0;
        }
    fprintf(stderr, "it has no address\n");
    return 1;
}

static int socket_to(int kind, const char *address, int port) {
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
    int fd = socket(AF_INET, kind, 0);
    if (fd < 0) fail("socket");
    if (!inet_aton(address, &peer.sin_addr)) fail(address);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&peer, sizeof peer)) fail("connect");
    return fd;
}

static _Noreturn void serve(int port) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 128)) fail("listen");
    for (;;) {
        char byte = 1;
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) continue;
        /* The client hangs up first. */
        if (send(fd, &byte, 1, MSG_NOSIGNAL) == 1) while (read(fd, &byte, 1) > 0);
        close(fd);
    }
}

/* Hangs up with a reset: no port of the client's is kept from being used again. */
static int connects(const char *address, int port, int count) {
    struct linger none = {.l_onoff = 1};
    double begun = now();
    for (int done = 0; done < count; done++) {
        char byte;
        int fd = socket_to(SOCK_STREAM, address, port);
        if (read(fd, &byte, 1) != 1) fail("read");
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
        close(fd);
    }
    printf("%.1f\n", count / (now() - begun));
    return 0;
}

static void name_server(char *found) {
    char line[256];
    FILE *file = fopen("/etc/resolv.conf", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "nameserver %63s", found) == 1) {
            fclose(file);
            return;
        }
    fprintf(stderr, "/etc/resolv.conf names no server\n");
    exit(1);
}

/* RFC 1035, 4.1: one question of type A and class IN; the id is written for each anew. */
static int question(const char *name, uint8_t *query) {
    static const uint8_t head[12] = {0, 0, 1, 0, 0, 1}, tail[5] = {0, 0, 1, 0, 1};
    int length = strlen(name);
    memcpy(query, head, 12);
    query[12] = length;
    memcpy(query + 13, name, length);
    memcpy(query + 13 + length, tail, 5);
    return 18 + length;
}

static int ask(const char *name, int count, int window) {
    static uint8_t waits[IDS];
    uint8_t query[128], answer[1500];
    char server[64];
    if (strlen(name) > 63 || count >= IDS) return 2;
    name_server(server);
    int length = question(name, query), fd = socket_to(SOCK_DGRAM, server, 53), sent = 0;
    double begun = now();
    for (int answered = 0; answered < count;) {
        for (; sent < count && sent - answered < window; sent++) {
            query[0] = sent >> 8, query[1] = sent;
            waits[sent] = 1;
            if (send(fd, query, length, 0) != length) fail("send");
        }
        if (recv(fd, answer, sizeof answer, 0) < 12) fail("recv");
        int id = answer[0] << 8 | answer[1];
        if ((answer[3] & 15) || !(answer[6] << 8 | answer[7])) {
            fprintf(stderr, "%s: code %d, without an address\n", name, answer[3] & 15);
            return 1;
        }
        answered += waits[id];
        waits[id] = 0;
    }
    printf("%.1f\n", count / (now() - begun));
    return 0;
}

int main(int count, char **words) {
    const char *verb = count > 1 ? words[1] : "";
    /* The first process of a container is only ended by what it asks for. */
    signal(SIGTERM, _exit);
    if (!strcmp(verb, "wait")) for (;;) pause();
    if (!strcmp(verb, "address")) return address();
    if (!strcmp(verb, "serve") && count == 3) serve(atoi(words[2]));
    if (!strcmp(verb, "connect") && count == 5) return connects(words[2], atoi(words[3]), atoi(words[4]));
    if (!strcmp(verb, "ask") && count == 5) return ask(words[2], atoi(words[3]), atoi(words[4]));
    return 2;
}

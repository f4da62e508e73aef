/* Times programs from their start to their end, as whoever starts them sees it, in milliseconds, one round a line.

   timer ROUNDS run PROGRAM ARG...                 one program
   timer ROUNDS life BUNDLE RUNTIME ARG...         an OCI runtime: create, start, the end of the container, delete
   timer ROUNDS crowd COUNT PROGRAM ARG...         so many at once, each with its number in the place of the argument @;
                                                   those that fail are counted on standard error */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static posix_spawn_file_actions_t silence;

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static pid_t begin(char **words) {
    pid_t pid;
    errno = posix_spawnp(&pid, words[0], &silence, NULL, words, environ);
    if (errno) fail(words[0]);
    return pid;
}

static int end(pid_t pid) {
    int status;
    if (waitpid(pid, &status, 0) < 0) fail("waitpid");
    return status;
}

static void must(char **words) {
    if (end(begin(words))) {
        fprintf(stderr, "%s", words[0]);
        for (char **word = words + 1; *word; word++) fprintf(stderr, " %s", *word);
        fprintf(stderr, ": failed\n");
        exit(1);
    }
}

/* The container's process is nobody's child once `create` has ended: it becomes this program's, as it would a shim's. */
static void life(char *bundle, int count, char **runtime) {
    char *words[count + 5];
    memcpy(words, runtime, count * sizeof *words);
    char **rest = words + count;
    memcpy(rest, (char *[]){"create", "--bundle", bundle, "timed", NULL}, 5 * sizeof *rest);
    must(words);
    memcpy(rest, (char *[]){"start", "timed", NULL}, 3 * sizeof *rest);
    must(words);
    if (waitpid(-1, NULL, 0) < 0) fail("the container's process");
    memcpy(rest, (char *[]){"delete", "timed", NULL}, 3 * sizeof *rest);
    must(words);
}

static void crowd(int count, char **words) {
    pid_t pids[count];
    int failed = 0, hole = -1;
    for (int at = 0; words[at]; at++)
        if (!strcmp(words[at], "@")) hole = at;
    for (int number = 0; number < count; number++) {
        char text[32];
        snprintf(text, sizeof text, "timed-%d", number);
        if (hole >= 0) words[hole] = text;
        pids[number] = begin(words);
    }
    if (hole >= 0) words[hole] = "@";
    for (int number = 0; number < count; number++) failed += end(pids[number]) != 0;
    if (failed) fprintf(stderr, "%d of %d failed\n", failed, count);
}

int main(int count, char **words) {
    if (count < 4) return 2;
    posix_spawn_file_actions_init(&silence);
    for (int fd = 0; fd < 3; fd++) posix_spawn_file_actions_addopen(&silence, fd, "/dev/null", O_RDWR, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    for (int round = atoi(words[1]); round > 0; round--) {
        double begun = now();
        if (!strcmp(words[2], "life")) life(words[3], count - 4, words + 4);
        else if (!strcmp(words[2], "crowd")) crowd(atoi(words[3]), words + 4);
        else must(words + 3);
        printf("%.3f\n", now() - begun);
    }
}
